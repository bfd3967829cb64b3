package snapshot

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEscapedNamesAreOneTokenAndComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		token := Escape(name)
		if token == "" || strings.ContainsAny(token, ".*>_$ \t\r\n\x00") {
			t.Fatalf("Escape(%q) = %q: not one token of a subject", name, token)
		}
		back, err := Unescape(token)
		if err != nil || back != name {
			t.Fatalf("Unescape(%q) = %q, %v; want %q", token, back, err, name)
		}
	})
}

func TestUnescapeAcceptsOnlyWhatEscapeGives(t *testing.T) {
	for _, token := range []string{"", "_", "a.b", "a=", "a=2", "=2e", "=61", "=zz", "a b", "=+1"} {
		if name, err := Unescape(token); err == nil {
			t.Errorf("Unescape(%q) = %q, want an error", token, name)
		}
	}
}

func TestSubjects(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{OutSubject("default", "orders", ""), "sennit.config.out.default.orders._"},
		{OutSubject("default", "orders", "shop"), "sennit.config.out.default.orders.shop"},
		{OutSubject("default", "orders", "_"), "sennit.config.out.default.orders.=5F"},
		{InSubject("default", "orders"), "sennit.config.in.default.orders"},
		{EndpointsSubject("default", "orders", 3), "sennit.config.endpoints.default.orders.3"},
		{NodeSubject("web1.example.com"), "sennit.config.node.web1=2Eexample=2Ecom"},
		{Live(BeatSubject), "sennit.live.beat"},
		{Live("sennit.resource.x"), "sennit.resource.x"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
