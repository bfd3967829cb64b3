package authz

import (
	"reflect"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/authn"
)

// told is what conditions see of an end user.
type told struct{ issuer, subject, audiences, claims ref.Val }

// tell makes a user's claims values of CEL. Users are kept for as long as their tokens are good, and these with them.
func tell(u *authn.User) any {
	return &told{
		issuer: types.String(u.Issuer()), subject: types.String(u.Subject()),
		audiences: types.NewStringList(types.DefaultTypeAdapter, u.Audiences()), claims: claim(u.Claims()),
	}
}

// claim is a value of a token as conditions see it.
func claim(v authn.Value) ref.Val {
	switch v.Kind() {
	case authn.Bool:
		return types.Bool(v.True())
	case authn.Number:
		n, _ := v.Number()
		return types.Double(n)
	case authn.String:
		return types.String(v.Text())
	case authn.List:
		all := make([]ref.Val, v.Len())
		for i := range all {
			all[i] = claim(v.At(i))
		}
		return types.NewRefValList(types.DefaultTypeAdapter, all)
	case authn.Object:
		all := make(map[ref.Val]ref.Val, v.Len())
		for i := range v.Len() {
			name, of := v.MemberAt(i)
			all[types.String(name)] = claim(of)
		}
		return types.NewRefValMap(types.DefaultTypeAdapter, all)
	}
	return types.NullValue
}

// headersOfRequest are all fields by name in lower case. One that servers read differently, because it is there more than
// once or is spelt with another sign than "-", is an error.
//
// As one pointer it costs nothing to hand on.
type headersOfRequest struct{ of *Request }

func (h headersOfRequest) find(name string) ref.Val {
	var f field
	f.read(h.of, strings.ToLower(name))
	switch {
	case f.count == 0:
		return nil
	case f.count > 1 || f.odd:
		return types.NewErr("servers read header %s differently", name)
	}
	return types.String(f.value)
}

func (h headersOfRequest) each(visit func(string, ref.Val)) {
	told := map[string]bool{}
	for i := range h.of.Fields {
		name := grammar.Loosest(h.of.Fields[i].Name)
		if !told[name] {
			told[name] = true
			visit(name, h.find(name))
		}
	}
}

var _ traits.Mapper = headersOfRequest{}

// whole is a copy.
func (h headersOfRequest) whole() traits.Mapper {
	all := make(map[ref.Val]ref.Val, len(h.of.Fields))
	h.each(func(name string, value ref.Val) { all[types.String(name)] = value })
	return types.NewRefValMap(types.DefaultTypeAdapter, all)
}

// Find looks a name up (traits.Mapper).
func (h headersOfRequest) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v := h.find(string(name))
	return v, v != nil && !types.IsError(v)
}

// Get looks a name up that must be there.
func (h headersOfRequest) Get(key ref.Val) ref.Val {
	v, found := h.Find(key)
	if !found && v == nil {
		return types.NewErr("no such key: %v", key)
	}
	return v
}

// Contains reports whether a name is there.
func (h headersOfRequest) Contains(key ref.Val) ref.Val {
	v, found := h.Find(key)
	if v != nil && !found {
		return v // an error
	}
	return types.Bool(found)
}

// What follows is seldom asked for.

// Size is how many names there are.
func (h headersOfRequest) Size() ref.Val {
	n := 0
	h.each(func(string, ref.Val) { n++ })
	return types.Int(n)
}

// Iterator goes through the names.
func (h headersOfRequest) Iterator() traits.Iterator { return h.whole().Iterator() }

// ConvertToNative is for other code than conditions.
func (h headersOfRequest) ConvertToNative(to reflect.Type) (any, error) {
	return h.whole().ConvertToNative(to)
}

// ConvertToType answers what it is.
func (h headersOfRequest) ConvertToType(to ref.Type) ref.Val { return h.whole().ConvertToType(to) }

// Equal is an error: conditions do not compare all headers at once (package condition).
func (h headersOfRequest) Equal(ref.Val) ref.Val {
	return types.NewErr("all headers are compared at once")
}

// Type is that of maps.
func (h headersOfRequest) Type() ref.Type { return types.MapType }

// Value is for other code than conditions.
func (h headersOfRequest) Value() any { return h.whole().Value() }
