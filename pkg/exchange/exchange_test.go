package exchange

import (
	"errors"
	"testing"
)

func TestParseServiceName(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     ServiceName
		bad      bool
	}{
		{name: "namespace and name", in: "shop/orders", want: ServiceName{"shop", "orders"}},
		{name: "default namespace", in: "orders", want: ServiceName{"default", "orders"}},
		{name: "empty", in: "", bad: true},
		{name: "empty namespace", in: "/orders", bad: true},
		{name: "two slashes", in: "a/b/c", bad: true},
		{name: "upper case", in: "Orders", bad: true},
		{name: "a token of a subject", in: "a.b", bad: true},
		{name: "dash at the end", in: "orders-", bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseServiceName(tt.in)
			if tt.bad != errors.Is(err, ErrServiceName) || got != tt.want {
				t.Errorf("ParseServiceName(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestHost(t *testing.T) {
	for authority, want := range map[string]string{
		"orders":           "orders",
		"orders:80":        "orders",
		"[2001:db8::1]:80": "2001:db8::1",
		"2001:db8::1":      "2001:db8::1",
		"":                 "",
	} {
		if got := (&Request{Authority: authority}).Host(); got != want {
			t.Errorf("host of %q = %q, want %q", authority, got, want)
		}
	}
}

func TestFields(t *testing.T) {
	f := Fields{{"A", "1"}, {"b", "2"}, {"a", "3"}}
	if v, ok := f.Get("a"); !ok || v != "1" {
		t.Errorf("Get returned %q, %v; want the first", v, ok)
	}
	f.Set("a", "4")
	if len(f) != 2 || f[1] != (Field{"a", "4"}) {
		t.Errorf("after Set: %v", f)
	}
	f.Del("B")
	if _, ok := f.Get("b"); ok || len(f) != 1 {
		t.Errorf("after Del: %v", f)
	}
}

func TestIdempotent(t *testing.T) {
	for method, want := range map[string]bool{"GET": true, "PUT": true, "POST": false, "PATCH": false, "CONNECT": false, "get": false} {
		if got := (&Request{Method: method}).Idempotent(); got != want {
			t.Errorf("%s: %v", method, got)
		}
	}
}
