package authn

import (
	"sort"
	"strings"
)

// A Kind is what a Value is.
type Kind uint8

// What JSON has.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Object
)

// A Value is a value of a claim. It never changes. Its methods allocate nothing, and where it is of another kind than they
// ask for, answer as for an empty one.
type Value struct {
	kind    Kind
	text    string   // of a string; of a number and a bool as JSON has it
	number  float64  // of a number
	items   []Value  // of a list
	members []member // of an object, in the order of names
}

type member struct {
	name  string
	value Value
}

// Limits of what strangers write. Claims of the field have some ten names, and groups of some hundred.
const (
	maxClaimsBytes = 64 << 10
	maxDepth       = 16
	maxValues      = 4096
)

// Kind is what it is.
func (v Value) Kind() Kind { return v.kind }

// Text is a string; and a number, true or false as the token writes it.
func (v Value) Text() string { return v.text }

// Number is a number, and false where it is none.
func (v Value) Number() (float64, bool) { return v.number, v.kind == Number }

// True reports whether it is true.
func (v Value) True() bool { return v.kind == Bool && v.text == "true" }

// Len is how many items a list has, or members an object.
func (v Value) Len() int { return len(v.items) + len(v.members) }

// At is an item of a list.
func (v Value) At(i int) Value { return v.items[i] }

// MemberAt is a member of an object and its name, in the order of their names.
func (v Value) MemberAt(i int) (string, Value) { return v.members[i].name, v.members[i].value }

// Member is a member of an object.
func (v Value) Member(name string) (Value, bool) {
	if of := v.member(name); of != nil {
		return *of, true
	}
	return Value{}, false
}

func (v *Value) member(name string) *Value {
	i, there := sort.Find(len(v.members), func(i int) int { return strings.Compare(name, v.members[i].name) })
	if !there {
		return nil
	}
	return &v.members[i].value
}

// Is reports whether it is this very text: a string, or a number, true or false as the token writes it.
func (v Value) Is(text string) bool {
	return (v.kind == String || v.kind == Number || v.kind == Bool) && v.text == text
}

// Has reports whether it is this text, or a list that has it as an item.
func (v Value) Has(text string) bool {
	if v.kind != List {
		return v.Is(text)
	}
	for i := range v.items {
		if v.items[i].Is(text) {
			return true
		}
	}
	return false
}

// Texts calls visit with each string of a list, or each name of an object, and reports whether it is one of the two.
func (v Value) Texts(visit func(string)) bool {
	for i := range v.items {
		if item := &v.items[i]; item.kind == String {
			visit(item.text)
		}
	}
	for i := range v.members {
		visit(v.members[i].name)
	}
	return v.kind == List || v.kind == Object
}

// Any is the value as encoding/json would have it, with float64 for numbers. It allocates.
func (v Value) Any() any {
	switch v.kind {
	case Bool:
		return v.True()
	case Number:
		return v.number
	case String:
		return v.text
	case List:
		all := make([]any, len(v.items))
		for i := range v.items {
			all[i] = v.items[i].Any()
		}
		return all
	case Object:
		all := make(map[string]any, len(v.members))
		for i := range v.members {
			all[v.members[i].name] = v.members[i].value.Any()
		}
		return all
	}
	return nil
}
