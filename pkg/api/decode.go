package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What a file may hold at most.
const (
	MaxFile      = 16 << 20 // bytes
	MaxDocuments = 10_000
)

// A Document is one checked document of a file.
type Document struct {
	Kind    *Kind
	Object  *unstructured.Unstructured // complete: defaults set
	Written *unstructured.Unstructured // what the file says and nothing else: who applies it manages no defaults
	Line    int                        // where it begins
}

// Decode reads all documents of a YAML or JSON file: several, divided by `---`, and those inside of a List. It
// returns either documents without fault or FileErrors with everything that is wrong with any of them; file is
// only named in these. Documents without a namespace get none: which is meant is the caller's to say.
func Decode(file string, data []byte) ([]Document, error) {
	if len(data) > MaxFile {
		return nil, FileErrors{{File: file, Problem: Problem{Message: fmt.Sprintf("has %d bytes, more than the %d that are read", len(data), MaxFile)}}}
	}
	var docs []Document
	var errs FileErrors
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && len(docs) == MaxDocuments {
			err = fmt.Errorf("more than %d documents", MaxDocuments)
		}
		if err != nil { // what comes behind a syntax error cannot be told apart
			line, message := yamlLine(err)
			errs = append(errs, &FileError{File: file, Line: line, Column: min(line, 1), Problem: Problem{Message: message}})
			break
		}
		if len(n.Content) == 0 || n.Content[0].Kind == yaml.ScalarNode && n.Content[0].ShortTag() == "!!null" {
			continue
		}
		d, e := decodeOne(file, n.Content[0])
		docs, errs = append(docs, d...), append(errs, e...)
	}
	if len(errs) > 0 {
		slices.SortStableFunc(errs, func(a, b *FileError) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return nil, errs
	}
	return docs, nil
}

// decodeOne reads one document, or the items of one List.
func decodeOne(file string, n *yaml.Node) ([]Document, FileErrors) {
	r := &reader{keys: map[string]position{}, values: map[string]position{}, open: map[*yaml.Node]bool{}}
	v, err := r.value(n, "")
	if err != nil {
		line, message := yamlLine(err)
		return nil, FileErrors{{File: file, Line: max(line, n.Line), Column: n.Column, Problem: Problem{Message: message}}}
	}
	var docs []Document
	problems := r.problems
	read := func(v any, path string) {
		m, ok := v.(map[string]any)
		if !ok {
			problems = append(problems, Problem{Path: path, Reason: WrongType, Message: "must be a document with apiVersion and kind, is " + describe(v)})
			return
		}
		k, found := kindOf(m)
		if len(found) == 0 {
			u := &unstructured.Unstructured{Object: m}
			written := u.DeepCopy()
			found = Check(k, u)
			at := r.values[path]
			docs = append(docs, Document{Kind: k, Object: u, Written: written, Line: at.line})
		}
		for _, p := range found {
			if path != "" {
				p.Path = join(path, p.Path)
			}
			problems = append(problems, p)
		}
	}
	if m, ok := v.(map[string]any); ok && m["apiVersion"] == "v1" && m["kind"] == "List" {
		items, _ := m["items"].([]any)
		for i, item := range items {
			read(item, index("items", i))
		}
	} else {
		read(v, "")
	}
	var errs FileErrors
	for _, p := range problems {
		at := r.place(p)
		errs = append(errs, &FileError{File: file, Line: at.line, Column: at.column, Problem: p})
	}
	return docs, errs
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + "." + b
}

// kindOf finds the kind of a document, or says what is wrong with how it names it.
func kindOf(m map[string]any) (*Kind, []Problem) {
	var problems []Problem
	text := func(name string) string {
		switch v := m[name].(type) {
		case string:
			if v != "" {
				return v
			}
		case nil:
			for key := range m {
				if near(key, name) {
					problems = append(problems, Problem{Path: key, Reason: UnknownField, Message: fmt.Sprintf("unknown field; did you mean %s?", name)})
					return ""
				}
			}
		default:
			problems = append(problems, Problem{Path: name, Reason: WrongType, Message: "must be a string, is " + describe(v)})
			return ""
		}
		problems = append(problems, Problem{Path: name, Reason: Required, Message: "is missing"})
		return ""
	}
	version, name := text("apiVersion"), text("kind")
	if len(problems) > 0 {
		return nil, problems
	}
	if k := ByKind(version, name); k != nil {
		return k, nil
	}
	hint := ""
	var names []string
	for _, k := range Kinds() {
		switch {
		case k.Name == name:
			return nil, []Problem{{Path: "apiVersion", Reason: NotSupported, Message: fmt.Sprintf("%s is served as %s, not as %q", name, k.APIVersion(), version)}}
		case near(k.Name, name):
			hint = fmt.Sprintf("; did you mean %s?", k.Name)
		}
		names = append(names, k.Name)
	}
	if hint == "" {
		hint = "; the kinds are " + strings.Join(names, ", ")
	}
	return nil, []Problem{{Path: "kind", Reason: NotSupported, Message: fmt.Sprintf("no kind %q in %s%s", name, version, hint)}}
}
