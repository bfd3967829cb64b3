package api

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// A walker checks a value against a schema, sets the schema's defaults, and drops nulls, which mean absence.
type walker struct {
	defs     map[string]*spec.Schema
	problems []Problem

	atomicOnly bool // set defaults only inside of lists that are replaced as a whole
	inside     int  // how many of these the value is in
}

func (w *walker) add(path string, r Reason, format string, args ...any) {
	w.problems = append(w.problems, Problem{Path: path, Reason: r, Message: fmt.Sprintf(format, args...)})
}

// resolve follows a reference to the definitions.
func (w *walker) resolve(s *spec.Schema) *spec.Schema {
	for {
		switch {
		case s.Ref.String() != "":
			s = w.defs[refName(s)]
		case len(s.AllOf) == 1: // a reference that has a description of its own
			s = &s.AllOf[0]
		default:
			return s
		}
	}
}

// refName is the name of the definition that s refers to.
func refName(s *spec.Schema) string {
	ref := s.Ref.String()
	return ref[strings.LastIndexByte(ref, '/')+1:]
}

// walk checks v, which stands at path. Maps and lists are changed in place.
func (w *walker) walk(s *spec.Schema, v any, path string) {
	s = w.resolve(s)
	before := len(w.problems)
	switch {
	case flag(s, "x-kubernetes-int-or-string"):
		switch v.(type) {
		case int64, string:
		default:
			w.add(path, WrongType, "must be a whole number or a string, is %s", describe(v))
		}
	case len(s.Type) == 0:
	case s.Type[0] == "object":
		m, ok := v.(map[string]any)
		if !ok {
			w.add(path, WrongType, "must be a map of fields, is %s", describe(v))
			return
		}
		w.object(s, m, path)
	case s.Type[0] == "array":
		l, ok := v.([]any)
		if !ok {
			w.add(path, WrongType, "must be a list, is %s", describe(v))
			return
		}
		w.list(s, l, path)
	case s.Type[0] == "string":
		t, ok := v.(string)
		if !ok {
			w.add(path, WrongType, "must be a string, is %s%s", describe(v), quoteHint(v))
			return
		}
		w.text(s, t, path)
	case s.Type[0] == "integer":
		w.integer(s, v, path)
	case s.Type[0] == "number":
		switch v.(type) {
		case int64, float64:
		default:
			w.add(path, WrongType, "must be a number, is %s", describe(v))
		}
	case s.Type[0] == "boolean":
		if _, ok := v.(bool); !ok {
			w.add(path, WrongType, "must be true or false, is %s", describe(v))
		}
	}
	if len(w.problems) > before {
		return // rules may rely on what the schema says
	}
	for _, message := range ruleMessages(s) {
		if ok := rules[message]; ok != nil && !ok(v) {
			w.add(path, Invalid, "%s", plain(message))
		}
	}
}

func (w *walker) object(s *spec.Schema, m map[string]any, path string) {
	for k, v := range m {
		if v == nil {
			delete(m, k)
		}
	}
	for k, p := range s.Properties {
		if _, have := m[k]; !have && (!w.atomicOnly || w.inside > 0) {
			if d := w.resolve(&p).Default; p.Default != nil {
				m[k] = copyValue(p.Default)
			} else if d != nil {
				m[k] = copyValue(d)
			}
		}
	}
	for _, k := range sortedKeys(m) {
		if p, ok := s.Properties[k]; ok {
			w.walk(&p, m[k], field(path, k))
			continue
		}
		switch {
		case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
			w.walk(s.AdditionalProperties.Schema, m[k], field(path, k))
		case flag(s, "x-kubernetes-preserve-unknown-fields"), s.AdditionalProperties != nil && s.AdditionalProperties.Allows, len(s.Properties) == 0:
		default:
			w.add(field(path, k), UnknownField, "unknown field%s", didYouMean(k, s.Properties))
		}
	}
	for _, k := range s.Required {
		if _, have := m[k]; !have {
			w.add(field(path, k), Required, "is required")
		}
	}
	if s.MaxProperties != nil && int64(len(m)) > *s.MaxProperties {
		w.add(path, TooMany, "must have at most %d entries, has %d", *s.MaxProperties, len(m))
	}
}

func (w *walker) list(s *spec.Schema, l []any, path string) {
	if s.MaxItems != nil && int64(len(l)) > *s.MaxItems {
		w.add(path, TooMany, "must have at most %d items, has %d", *s.MaxItems, len(l))
		return
	}
	if s.MinItems != nil && int64(len(l)) < *s.MinItems {
		w.add(path, Invalid, "must have at least %d items, has %d", *s.MinItems, len(l))
	}
	if s.Items == nil || s.Items.Schema == nil {
		return
	}
	if kind, _ := s.Extensions.GetString("x-kubernetes-list-type"); kind == "" || kind == "atomic" {
		w.inside++
		defer func() { w.inside-- }()
	}
	for i, v := range l {
		if v == nil {
			w.add(index(path, i), WrongType, "must not be null")
			continue
		}
		w.walk(s.Items.Schema, v, index(path, i))
	}
	w.unique(s, l, path)
}

// unique finds items that a list of type map or set holds twice.
func (w *walker) unique(s *spec.Schema, l []any, path string) {
	kind, _ := s.Extensions.GetString("x-kubernetes-list-type")
	var keys []string
	switch kind {
	case "map":
		keys = mapKeys(s)
	case "set":
	default:
		return
	}
	seen := make(map[string]int, len(l))
	for i, v := range l {
		id, shown := fmt.Sprint(v), fmt.Sprintf("%v", v)
		if kind == "map" {
			m, ok := v.(map[string]any)
			if !ok {
				continue
			}
			var parts []string
			for _, k := range keys {
				parts = append(parts, fmt.Sprintf("%s: %v", k, m[k]))
			}
			shown = strings.Join(parts, ", ")
			id = shown
		}
		if first, have := seen[id]; have {
			w.add(index(path, i), DuplicateValue, "must be unique, but %s is already in item %d", shown, first)
			continue
		}
		seen[id] = i
	}
}

func mapKeys(s *spec.Schema) []string {
	keys, _ := s.Extensions.GetStringSlice("x-kubernetes-list-map-keys")
	return keys
}

func (w *walker) text(s *spec.Schema, t, path string) {
	if len(s.Enum) > 0 && !slices.ContainsFunc(s.Enum, func(e any) bool { return e == t }) {
		options := make([]string, len(s.Enum))
		for i, e := range s.Enum {
			options[i] = fmt.Sprint(e)
		}
		sort.Strings(options)
		w.add(path, NotSupported, "must be one of %s, is %q", strings.Join(options, ", "), t)
		return
	}
	n := int64(utf8.RuneCountInString(t))
	if s.MinLength != nil && n < *s.MinLength {
		if n == 0 {
			w.add(path, Invalid, "must not be empty")
		} else {
			w.add(path, Invalid, "must have at least %d characters, has %d", *s.MinLength, n)
		}
		return
	}
	if s.MaxLength != nil && n > *s.MaxLength {
		w.add(path, TooMany, "must have at most %d characters, has %d", *s.MaxLength, n)
		return
	}
	if s.Pattern != "" && !pattern(s.Pattern).MatchString(t) {
		w.add(path, Invalid, "must match %s, is %q", s.Pattern, t)
		return
	}
	if s.Format == "date-time" {
		if _, err := time.Parse(time.RFC3339Nano, t); err != nil {
			w.add(path, Invalid, "must be a time such as 2026-01-31T12:00:00Z, is %q", t)
		}
	}
}

func (w *walker) integer(s *spec.Schema, v any, path string) {
	i, ok := v.(int64)
	if !ok {
		w.add(path, WrongType, "must be a whole number, is %s%s", describe(v), numberHint(v))
		return
	}
	low, high := int64(math.MinInt64), int64(math.MaxInt64)
	if s.Format == "int32" {
		low, high = math.MinInt32, math.MaxInt32
	}
	if s.Minimum != nil {
		low = max(low, int64(*s.Minimum))
	}
	if s.Maximum != nil {
		high = min(high, int64(*s.Maximum))
	}
	switch {
	case i < low && s.Maximum == nil:
		w.add(path, Invalid, "must be %d or more, is %d", low, i)
	case i > high && s.Minimum == nil:
		w.add(path, Invalid, "must be %d or less, is %d", high, i)
	case i < low || i > high:
		w.add(path, Invalid, "must be from %d to %d, is %d", low, high, i)
	}
}

func flag(s *spec.Schema, name string) bool {
	b, _ := s.Extensions.GetBool(name)
	return b
}

var patterns sync.Map // of *regexp.Regexp by text; schemas have few

func pattern(text string) *regexp.Regexp {
	if re, ok := patterns.Load(text); ok {
		return re.(*regexp.Regexp)
	}
	re := regexp.MustCompile(text)
	patterns.Store(text, re)
	return re
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// copyValue copies a default, so that documents share nothing.
func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = copyValue(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = copyValue(e)
		}
		return l
	case float64:
		if v == math.Trunc(v) {
			return int64(v)
		}
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
	}
	return v
}
