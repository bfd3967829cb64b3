package authn

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]any{
		`0`: 0.0, `9`: 9.0, `-1`: -1.0, `-0.5e+3`: -500.0, `1E2`: 100.0, ` "a" `: "a", `"a\"b"`: `a"b`, `"\\"`: `\`, `"\u0041\n"`: "A\n", `true`: true, `false`: false, `null`: nil,
		`[]`: []any{}, `[1,"a",[null]]`: []any{1.0, "a", []any{nil}}, `{}`: map[string]any{}, `{"a":{"b":1},"c":[]}`: map[string]any{"a": map[string]any{"b": 1.0}, "c": []any{}},
	} {
		if v, err := parse([]byte(text)); err != nil || !reflect.DeepEqual(v.Any(), want) {
			t.Errorf("%s is %#v, %v", text, v.Any(), err)
		}
	}
	for _, text := range []string{`{a":1}`, `{"a";1}`, `{"a"1}`, `{1:1}`, `1e`, `1e+`, `-`, `.5`, `01`, `1.`, `"\x"`, `[1,]`, `[1 1]`, `{"a":1,}`, `nul`, `1 1`, ``} {
		if v, err := parse([]byte(text)); err == nil {
			t.Errorf("%s is %#v", text, v.Any())
		}
	}
}

// FuzzParse compares with encoding/json: what is taken here is taken there, and read in the same way.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		alice, `[]`, ` {"a" : [1, -0.5e+3, "x\u0041\n\ud800", null, true, false] } `, `01`, `1.`, `-`, `1e`, `"\x"`, `"\"`, "\"\x01\"", `{"a":1,}`, `[1,]`, `{a:1}`,
		`nulll`, `tru`, `"a`, `{"a"`, `{"a":`, `[`, "\x00", `1e400`, `{"a":1,"a":2}`, `[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]`, "[1\x00]", `"\ud83d\ude00"`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := parse(text)
		if err != nil {
			return
		}
		var there any
		if err := json.Unmarshal(text, &there); err != nil {
			t.Fatalf("%q is taken: %v", text, err)
		}
		if here := v.Any(); !reflect.DeepEqual(here, there) {
			t.Errorf("%q is %#v here and %#v there", text, here, there)
		}
	})
}
