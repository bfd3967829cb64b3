package exchange

import (
	"strings"
	"testing"
)

func TestTraceparents(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, tt := range []struct {
		name, in string
		want     string // what goes on; "": not a traceparent
	}{
		{"sampled", "00-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01"},
		{"not sampled", "00-" + id + "-" + span + "-00", "00-" + id + "-" + span + "-00"},
		{"flags that are not known yet", "00-" + id + "-" + span + "-ff", "00-" + id + "-" + span + "-01"},
		{"a later version", "cc-" + id + "-" + span + "-01-more", "00-" + id + "-" + span + "-01"},
		{"a later version as long as this", "cc-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01"},
		{"a later version without a dash", "cc-" + id + "-" + span + "-01.more", ""},
		{"this version, and more", "00-" + id + "-" + span + "-01-more", ""},
		{"the forbidden version", "ff-" + id + "-" + span + "-01", ""},
		{"upper case", "00-" + strings.ToUpper(id) + "-" + span + "-01", ""},
		{"no trace", "00-" + strings.Repeat("0", 32) + "-" + span + "-01", ""},
		{"no span", "00-" + id + "-" + strings.Repeat("0", 16) + "-01", ""},
		{"no hex", "00-" + id + "-" + span + "-0x", ""},
		{"no dash", "00-" + id + "_" + span + "-01", ""},
		{"too short", "00-" + id + "-" + span + "-1", ""},
		{"empty", "", ""},
	} {
		trace, ok := ParseTraceparent(tt.in)
		got := ""
		if ok {
			got = string(trace.AppendTraceparent(nil))
		}
		if got != tt.want || !ok && trace != (Trace{}) {
			t.Errorf("%s: %q goes on as %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		trace, ok := ParseTraceparent(s)
		if !ok {
			return
		}
		text := string(trace.AppendTraceparent(nil))
		again, ok := ParseTraceparent(text)
		if !ok || again != trace || len(text) != TraceparentLen {
			t.Errorf("%q reads as %v, which is written as %q", s, trace, text)
		}
	})
}
