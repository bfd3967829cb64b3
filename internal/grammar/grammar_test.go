package grammar

import "testing"

func TestAuthority(t *testing.T) {
	for s, want := range map[string]bool{
		"orders": true, "orders:80": true, "orders.shop:65535": true, "[2001:db8::1]": true, "[2001:db8::1]:80": true, "10.0.0.1:8080": true,
		"": false, ":80": false, "orders:": false, "orders:65536": false, "orders:+1": false, "a@b": false, "a,b": false,
		"a b": false, "a/b": false, "a%41": false, "[::1": false, "[::1]x": false, "[fe80::1%eth0]": false, "2001:db8::1": false,
	} {
		if IsAuthority(s) != want {
			t.Errorf("IsAuthority(%q) = %v", s, !want)
		}
	}
}

func TestPath(t *testing.T) {
	for s, want := range map[string]bool{
		"/": true, "/a?b=c?d": true, "/%41": true, "*": true,
		"": false, "a": false, "/a#b": false, "/a b": false, "/a\\b": false, "/%4": false, "/%zz": false, "/\x00": false, "/ä": false,
	} {
		if IsPath(s) != want {
			t.Errorf("IsPath(%q) = %v", s, !want)
		}
	}
}

func TestLength(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "10": 10, "999999999999999999": 999999999999999999,
		"": -1, "01": -1, "+1": -1, "1, 1": -1, "1 ": -1, "9999999999999999999": -1,
	} {
		if n, ok := Length(s); ok != (want >= 0) || ok && n != want {
			t.Errorf("Length(%q) = %d, %v", s, n, ok)
		}
	}
}
