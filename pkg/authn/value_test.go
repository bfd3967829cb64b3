package authn

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
)

const alice = `{"iss": "https://id.example", "sub": "alice", "aud": ["shop", "bank"], "level": 3, "staff": true, "nothing": null,
	"scope": "read write", "groups": ["admins", "users", 7], "realm_access": {"roles": ["seller"]}, "empty": {}}`

func TestClaims(t *testing.T) {
	u, err := ParseUser([]byte(alice))
	if err != nil {
		t.Fatal(err)
	}
	if u.Issuer() != "https://id.example" || u.Subject() != "alice" || !reflect.DeepEqual(u.Audiences(), []string{"shop", "bank"}) {
		t.Errorf("issuer %q, subject %q, audiences %q", u.Issuer(), u.Subject(), u.Audiences())
	}
	for _, tt := range []struct {
		name  string
		path  []string
		there bool
		has   string // a text that it has; empty: not asked
		not   string // a text that it has not
	}{
		{"a string", []string{"sub"}, true, "alice", "Alice"},
		{"a number is what the token writes", []string{"level"}, true, "3", "3.0"},
		{"a bool", []string{"staff"}, true, "true", "True"},
		{"null is there and has nothing", []string{"nothing"}, true, "", "null"},
		{"a list has its items", []string{"groups"}, true, "users", "user"},
		{"a string of words is not its words", []string{"scope"}, true, "read write", "read"},
		{"within another", []string{"realm_access", "roles"}, true, "seller", "buyer"},
		{"all claims", nil, true, "", "alice"},
		{"not there", []string{"roles"}, false, "", ""},
		{"within what is no object", []string{"sub", "alice"}, false, "", ""},
		{"within a list", []string{"groups", "admins"}, false, "", ""},
		{"an empty name", []string{""}, false, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, there := u.Claim(tt.path...)
			if there != tt.there || tt.has != "" && !v.Has(tt.has) || v.Has(tt.not) {
				t.Errorf("claim %q: %v %v, want there %v with %q and without %q", tt.path, v, there, tt.there, tt.has, tt.not)
			}
		})
	}
	for claim, want := range map[string]string{"groups": "admins users true", "empty": "true", "realm_access": "roles true", "sub": "false", "level": "false", "nothing": "false"} {
		var got []string
		v, _ := u.Claim(claim)
		can := v.Texts(func(text string) { got = append(got, text) })
		if got := strings.Join(append(got, strconv.FormatBool(can)), " "); got != want {
			t.Errorf("texts of %s: %s, want %s", claim, got, want)
		}
	}
	if all := u.Claims().Any().(map[string]any); !reflect.DeepEqual(all["realm_access"], map[string]any{"roles": []any{"seller"}}) {
		t.Errorf("claims are %v", all)
	}
}

func TestClaimsThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, claims, want string }{
		{"no object", `["a"]`, "no object"},
		{"nothing", ``, "the end is missing"},
		{"not JSON", `{"a": }`, "not JSON"},
		{"more after it", `{} {}`, "follows"},
		{"a name twice", `{"sub": "alice", "sub": "bob"}`, "twice"},
		{"a name twice, once escaped", `{"sub": "alice", "s\u0075b": "bob"}`, "twice"},
		{"a name twice within", `{"a": {"b": 1, "b": 2}}`, "twice"},
		{"no UTF-8", "{\"sub\": \"\xff\"}", "UTF-8"},
		{"too deep", strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), "within each other"},
		{"too deep by far", strings.Repeat("[", 60_000), "within each other"},
		{"too many", `{"a": [` + strings.Repeat("1,", 5000) + `1]}`, "more than 4096"},
		{"too large", `{"a": "` + strings.Repeat("x", 64<<10) + `"}`, "at most 65536"},
		{"too large a number", `{"exp": 1e999}`, "too large a number"},
		{"an issuer that is none", `{"iss": 5}`, "iss is no string"},
		{"a subject that is none", `{"sub": ["a"]}`, "sub is no string"},
		{"an audience that is none", `{"aud": ["a", 5]}`, "aud is neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if u, err := ParseUser([]byte(tt.claims)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v and error %v, want %q", u, err, tt.want)
			}
		})
	}
}

func TestNobody(t *testing.T) {
	var u *User
	if _, there := u.Claim("sub"); there || u.Issuer() != "" || u.Subject() != "" || u.Audiences() != nil || u.Claims().Kind() != Null {
		t.Error("something is known of nobody")
	}
}

func TestClaimsCostNothing(t *testing.T) {
	u, err := ParseUser([]byte(alice))
	if err != nil {
		t.Fatal(err)
	}
	path := []string{"realm_access", "roles"}
	if n := testing.AllocsPerRun(100, func() {
		if v, there := u.Claim(path...); !there || !v.Has("seller") {
			t.Error("it is not there")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
