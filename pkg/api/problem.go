package api

import (
	"fmt"
	"strings"
)

// A Reason is what a Problem can be.
type Reason int

// The reasons. Unknown and Duplicate fields are what fieldValidation=Warn and Ignore let pass.
const (
	Invalid Reason = iota
	UnknownField
	DuplicateField
	WrongType
	Required
	NotSupported
	TooMany
	DuplicateValue
)

// A Problem is one thing that is wrong with a document.
type Problem struct {
	Path    string // "spec.rules[0].backendRefs[0].weight"; "" is the document itself
	Reason  Reason
	Message string // what must be and what is: "must be 0 or more, is -1"
}

// String gives path and message as people read them.
func (p Problem) String() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

// A FileError is a Problem and where in a file it is.
type FileError struct {
	File         string
	Line, Column int // from 1; 0 where unknown
	Problem
}

// Error gives "file:line:column: path: message".
func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Problem.String()
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Problem)
}

// FileErrors are all problems of a file, in its order.
type FileErrors []*FileError

// Error gives a line for each.
func (es FileErrors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// field appends a field's name to a path.
func field(path, name string) string {
	if path == "" {
		return name
	}
	if strings.ContainsAny(name, ".[]/") {
		return path + "[" + name + "]"
	}
	return path + "." + name
}

// index appends an element's number to a path.
func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
