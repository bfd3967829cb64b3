package registry

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxErrors bounds how many mistakes of one file are told at once.
const maxErrors = 20

// A FieldError is one mistake in a file of services.d.
type FieldError struct {
	File    string
	Line    int
	Field   string // "ports[0].address"; empty where it is the document as a whole
	Problem string // what is wrong and what would be right
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Field, e.Problem)
}

// A reader walks a YAML document strictly and gathers every mistake with its line and field.
type reader struct {
	file   string
	errors []error
}

func (r *reader) fail(n *yaml.Node, path, format string, args ...any) {
	if len(r.errors) < maxErrors {
		r.errors = append(r.errors, &FieldError{r.file, n.Line, path, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) err() error { return errors.Join(r.errors...) }

// object calls the reader of each field that is there. Unknown and repeated fields are mistakes.
func (r *reader) object(n *yaml.Node, path string, fields map[string]func(n *yaml.Node, path string)) {
	if !r.is(n, path, yaml.MappingNode, "a mapping of fields") {
		return
	}
	r.pairs(n, path, func(key string, keyNode, value *yaml.Node) {
		read, ok := fields[key]
		if !ok {
			r.fail(keyNode, join(path, key), "unknown field (known here: %s)", strings.Join(sortedKeys(fields), ", "))
			return
		}
		read(value, join(path, key))
	})
}

// stringMap reads a mapping of strings to strings.
func (r *reader) stringMap(n *yaml.Node, path string) map[string]string {
	if !r.is(n, path, yaml.MappingNode, "a mapping of strings") {
		return nil
	}
	out := map[string]string{}
	r.pairs(n, path, func(key string, _, value *yaml.Node) { out[key] = r.string(value, join(path, key)) })
	return out
}

func (r *reader) pairs(n *yaml.Node, path string, each func(key string, keyNode, value *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			r.fail(key, path, "a field's name must be a plain word")
			continue
		}
		if line, twice := seen[key.Value]; twice {
			r.fail(key, join(path, key.Value), "is given twice; the first is in line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		each(key.Value, key, value)
	}
}

func (r *reader) list(n *yaml.Node, path string, each func(n *yaml.Node, path string)) {
	if !r.is(n, path, yaml.SequenceNode, "a list") {
		return
	}
	for i, item := range n.Content {
		each(item, path+"["+strconv.Itoa(i)+"]")
	}
}

func (r *reader) string(n *yaml.Node, path string) string {
	if !r.is(n, path, yaml.ScalarNode, "a string") {
		return ""
	}
	if n.Tag != "!!str" {
		r.fail(n, path, "must be a string; write it in quotes: %q", n.Value)
		return ""
	}
	return n.Value
}

// integer reads a decimal number from low to high.
// bool reads true or false.
func (r *reader) bool(n *yaml.Node, path string) bool {
	if !r.is(n, path, yaml.ScalarNode, "true or false") {
		return false
	}
	if n.Value != "true" && n.Value != "false" || n.Tag != "!!bool" {
		r.fail(n, path, "must be true or false, is %q", n.Value)
	}
	return n.Value == "true"
}

func (r *reader) integer(n *yaml.Node, path string, low, high int64) int64 {
	if !r.is(n, path, yaml.ScalarNode, "a number") {
		return 0
	}
	v, err := strconv.ParseInt(n.Value, 10, 64)
	if err != nil || n.Tag != "!!int" || strconv.FormatInt(v, 10) != n.Value {
		r.fail(n, path, "must be a whole decimal number without quotes, is %q", n.Value)
		return 0
	}
	if v < low || v > high {
		r.fail(n, path, "must be from %d to %d, is %d", low, high, v)
		return 0
	}
	return v
}

func (r *reader) is(n *yaml.Node, path string, kind yaml.Kind, want string) bool {
	if n.Kind == kind && n.Anchor == "" {
		return true
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		r.fail(n, path, "anchors and aliases are not read; write the value out")
		return false
	}
	r.fail(n, path, "must be %s", want)
	return false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
