package condition

import (
	"strings"
	"testing"
)

func TestCompile(t *testing.T) {
	for _, tt := range []struct{ expression, want string }{
		{`request.method == 'GET' && request.path.startsWith('/a')`, ""},
		{`'admin' in user.claims.groups`, ""},
		{`user.claims.groups.exists(g, g == 'admin')`, ""},
		{`user.claims.realm_access.roles.exists(g, g.startsWith('admin-'))`, ""},
		{`user.claims.level >= 3`, ""},
		{`request.headers['x-tenant'].matches('^t[0-9]+$')`, ""},
		{`request.headers.exists(h, h.startsWith('x-debug'))`, ""},
		{`source.namespace == user.claims.team`, ""},
		{`request.port in [80, 443]`, ""},
		{`user.audiences.exists(a, a == 'x') && source.node != 'n1' && user.subject != '' && source.trustDomain == request.host`, ""},
		{``, "1 to 2048 bytes"},
		{strings.Repeat("true||", 400) + "true", "1 to 2048 bytes"},
		{`request.method = 'GET'`, "1:16: "},
		{`request.verb == 'GET'`, "1:8: undeclared reference"},
		{`request.method`, "it is string, and a condition is true or false"},
		{`user.claims.admin`, "it is dyn, and a condition is true or false"},
		{`request.port == '80'`, "1:14: found no matching overload"},
		{`user.claims.a.all(x, user.claims.b.all(y, x == y))`, "it could take too long"},
		{`request.headers.all(a, request.headers.all(b, request.headers[a] == request.headers[b]))`, "it could take too long"},
		{`request.path.matches(request.headers['x'])`, "it could take too long"},
		{`size(request.headers) < 20 && request.headers.size() > 1 && 'a' in request.headers && has(request.headers.a)`, ""},
		{`request.headers.exists(h, request.headers[h] == 'a')`, ""},
		{`request.headers == {'x-role': 'admin'}`, "as a whole"},
		{`{'x-role': 'admin'} != request.headers`, "as a whole"},
		{`request.headers in [{'x-role': 'admin'}]`, "as a whole"},
		{`[request.headers].exists(h, 'a' in h)`, "as a whole"},
		{`(request.port == 80 ? request.headers : {'a': 'b'}) == {'a': 'b'}`, "as a whole"},
		{`dyn(request.headers) == user.claims`, "as a whole"},
		{`request.headers['a'].matches('[')`, "error parsing regexp"},
		{strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100), "recursion"},
		{strings.Repeat("!", 100) + "true", ""},
		{strings.Repeat("[", 100) + "1" + strings.Repeat("]", 100) + "==[1]", "recursion"},
	} {
		_, err := Compile(tt.expression)
		switch {
		case err == nil && tt.want != "":
			t.Errorf("%s: compiled", tt.expression)
		case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.expression, err, tt.want)
		}
	}
}

func TestWhatAConditionAsksFor(t *testing.T) {
	for expression, want := range map[string][2]bool{
		`request.path == '/a'`:                               {true, false},
		`request.port == 80 || !(request.method in ['GET'])`: {false, true},
		`source.node == 'request.path'`:                      {},
	} {
		c, err := Compile(expression)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{c.Paths, c.Methods}; got != want {
			t.Errorf("%s: %v", expression, got)
		}
	}
}

// FuzzCompile looks for expressions that break the compiler.
func FuzzCompile(f *testing.F) {
	f.Add(`request.method == 'GET' && user.claims.groups.exists(g, g == 'a')`)
	f.Add(`{'a': [1, 2.0, b"x"]}['a'][0] == 1u ? true : has(user.claims.a)`)
	f.Fuzz(func(_ *testing.T, expression string) {
		_, _ = Compile(expression)
	})
}
