package api

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxNodes bounds what one document may expand to: an alias costs what it stands for.
const maxNodes = 100_000

// position of a node in its file, from 1.
type position struct{ line, column int }

// A reader turns the nodes of one YAML document into values as JSON has them, and keeps where each was.
type reader struct {
	keys, values map[string]position // by path
	problems     []Problem
	nodes        int
	open         map[*yaml.Node]bool // anchors that are being expanded
}

var errTooLarge = fmt.Errorf("document has more than %d values, aliases counted each time they are used", maxNodes)

// value converts n, which stands at path. It returns an error only where reading on makes no sense.
func (r *reader) value(n *yaml.Node, path string) (any, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, errTooLarge
	}
	if _, ok := r.values[path]; !ok {
		r.values[path] = position{n.Line, n.Column}
	}
	switch n.Kind {
	case yaml.AliasNode:
		if n.Alias == nil || r.open[n.Alias] {
			return nil, fmt.Errorf("line %d: alias *%s contains itself", n.Line, n.Value)
		}
		r.open[n.Alias] = true
		defer delete(r.open, n.Alias)
		return r.value(n.Alias, path)
	case yaml.MappingNode:
		return r.mapping(n, path)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			v, err := r.value(c, index(path, i))
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.ScalarNode:
		return r.scalar(n, path), nil
	default:
		return nil, fmt.Errorf("line %d: unexpected YAML node", n.Line)
	}
}

// mapping converts a map; a key that is given twice is a problem, the last one counts.
func (r *reader) mapping(n *yaml.Node, path string) (any, error) {
	m := make(map[string]any, len(n.Content)/2)
	own := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.ShortTag() == "!!merge" {
			if err := r.merge(m, own, v, path); err != nil {
				return nil, err
			}
			continue
		}
		if k.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key must be a plain value", k.Line)
		}
		p := field(path, k.Value)
		if own[k.Value] {
			r.keys[p] = position{k.Line, k.Column}
			r.problems = append(r.problems, Problem{Path: p, Reason: DuplicateField, Message: "is given twice"})
			delete(r.values, p)
		}
		own[k.Value] = true
		r.keys[p] = position{k.Line, k.Column}
		delete(r.values, p) // a merged one may have left its own
		val, err := r.value(v, p)
		if err != nil {
			return nil, err
		}
		m[k.Value] = val
	}
	return m, nil
}

// merge handles `<<`: what it brings yields to the map's own keys.
func (r *reader) merge(m map[string]any, own map[string]bool, n *yaml.Node, path string) error {
	v, err := r.value(n, path)
	if err != nil {
		return err
	}
	sources, ok := v.([]any)
	if !ok {
		sources = []any{v}
	}
	for _, s := range sources {
		from, ok := s.(map[string]any)
		if !ok {
			return fmt.Errorf("line %d: `<<` must name a map", n.Line)
		}
		for k, val := range from {
			if _, have := m[k]; !have && !own[k] {
				m[k] = val
			}
		}
	}
	return nil
}

// scalar converts by the YAML 1.2 core schema. Dates stay strings, as JSON has them.
func (r *reader) scalar(n *yaml.Node, path string) any {
	bad := func(what string) any {
		r.problems = append(r.problems, Problem{Path: path, Reason: WrongType, Message: what})
		return nil
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) != nil {
			return n.Value
		}
		return b
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
		return bad(fmt.Sprintf("the number %s is too large", n.Value))
	case "!!float":
		var f float64
		if err := n.Decode(&f); err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return bad(fmt.Sprintf("%s is no number that JSON has", n.Value))
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			if i, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
				return i
			}
		}
		return f
	case "!!str", "!!timestamp":
		return n.Value
	default:
		return bad(fmt.Sprintf("the tag %s is not understood", n.Tag))
	}
}

// place finds where a problem is: unknown and repeated fields at their key, values at the value, what is
// missing at the nearest map that is there.
func (r *reader) place(p Problem) position {
	if p.Reason == UnknownField || p.Reason == DuplicateField {
		if at, ok := r.keys[p.Path]; ok {
			return at
		}
	}
	for path := p.Path; ; path = parent(path) {
		if at, ok := r.values[path]; ok {
			if p.Reason == Required {
				if key, ok := r.keys[path]; ok {
					return key
				}
			}
			return at
		}
		if path == "" {
			return position{}
		}
	}
}

// parent drops the last step of a path.
func parent(path string) string {
	depth := 0
	for i := len(path) - 1; i >= 0; i-- {
		switch path[i] {
		case ']':
			depth++
		case '[':
			if depth--; depth == 0 {
				return path[:i]
			}
		case '.':
			if depth == 0 {
				return path[:i]
			}
		}
	}
	return ""
}

var atLine = regexp.MustCompile(`(?s)^(?:yaml: )?line (\d+): (.*)`)

// yamlLine takes the line out of an error that begins with it, as the parser's and ours do.
func yamlLine(err error) (line int, message string) {
	m := atLine.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, strings.TrimPrefix(err.Error(), "yaml: ")
	}
	line, _ = strconv.Atoi(m[1])
	return line, m[2]
}
