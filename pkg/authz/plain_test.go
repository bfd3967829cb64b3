package authz

import (
	"math/rand/v2"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// plainParts are conditions, or parts of them, that are found out without CEL.
var plainParts = []string{
	`request.method == 'GET'`, `request.method != 'GET'`, `request.method in ['GET', 'HEAD']`, `request.port == 80`, `request.port != 80`,
	`request.path == '/a'`, `request.path.startsWith('/a')`, `request.path.endsWith('b')`, `request.path.contains('/a')`,
	`request.host == 'orders'`, `request.host.endsWith('.example.com')`,
	`request.headers['x-tenant'] == 't1'`, `request.headers['X-Tenant'].startsWith('t')`, `request.headers.accept != 'text'`, `request.headers['x-tenant'] in ['t2', 't1']`,
	`'x-tenant' in request.headers`, `'X-TWO' in request.headers`, `request.headers['x-two'] == 'a'`, `request.headers['x-odd'] == 'c'`,
	`source.namespace == 'shop'`, `source.trustDomain == 'mesh.example.com'`, `source.node.startsWith('n')`,
	`user.issuer == 'https://id.example.com'`, `user.subject != 'me'`, `'b' in user.audiences`,
	`'ops' in user.claims.groups`, `'1' in user.claims.ids`, `'roles' in user.claims.realm`, `'reader' in user.claims.realm.roles`, `'reader' in user.claims['realm']['roles']`,
	`'groups' in user.claims`, `'x' in user.claims.empty`, `'x' in user.claims.sub`, `'x' in user.claims.none`, `'x' in user.claims.nothing`,
	`user.claims.sub == 'me'`, `user.claims.level == '3'`, `user.claims.none == 'null'`, `user.claims.admin != 'true'`, `user.claims.groups == 'ops'`, `user.claims.nothing == 'a'`,
	`user.claims.sub.startsWith('m')`, `user.claims.level.startsWith('3')`, `user.claims.groups.contains('o')`, `user.claims.realm.roles.x == 'a'`, `user.claims.groups in ['ops', 'me']`,
	`user.claims.sub in ['me']`,
}

// celsParts are those that need CEL, which are easily taken for others.
var celsParts = []string{
	`user.claims.level == 3`, `3 in user.claims.ids`, `user.claims.admin == true`, `has(user.claims.sub)`, `'GET' == request.method`, `request.method in []`,
	`request.method in ['GET', request.host]`, `request.path == request.host`, `request.path.matches('^/a')`, `user.audiences[0] == 'a'`, `request.port > 80`,
	`source.service == 'shop/cart'`, `request.headers.size() == 1`, `user.claims.none == null`, `request.headers[request.method] == 'a'`, `'ab'.startsWith('a')`,
	`{'a': 'b'}.a == 'b'`, `user.claims.groups[0] == 'dev'`, `(request.port == 80 ? 'a' : 'b') == 'a'`,
}

// plainRequests are those that parts differ for.
func plainRequests(tb testing.TB) (all []*Request) {
	for _, user := range []string{"", someClaims, `{"iss": "https://id.example.com", "groups": "ops"}`, `{"sub": "me too", "groups": {"ops": 1}, "realm": [], "level": "3"}`} {
		for _, fields := range []string{"", "Accept: */* | X-Tenant: t1", "accept: text | x-tenant: t2 | x-tenant: t1", "x-two: a | x-two: b | x_odd: c | x_tenant: t1"} {
			for i, path := range []string{"/a", "/%61%62", "/x/a/b"} {
				q := &Request{Caller: name("shop/cart"), Port: 80, Method: "GET", Path: path, Host: "Orders.:80", Fields: fieldsOf(fields)}
				if i == 1 {
					q.Caller, q.Port, q.Method, q.Host = name("other/cart"), 81, "HEAD", "a.example.com"
				}
				if i == 2 {
					q.TrustDomain, q.Node, q.Host = "mesh.example.com", "n1", ""
				}
				if user != "" {
					q.User = userOf(tb, user)
				}
				tcp := *q
				tcp.TCP = true
				nobody := *q
				nobody.Plaintext, nobody.Caller = true, exchange.ServiceName{}
				all = append(all, q, &tcp, &nobody)
			}
		}
	}
	return all
}

func plainAgrees(t *testing.T, source string, requests []*Request) (without bool) {
	t.Helper()
	r := &Rules{}
	all, err := r.whenOf([]string{source})
	if err != nil {
		return false
	}
	w := all[0]
	if w.plain == nil {
		return false
	}
	for _, q := range requests {
		path := ""
		if !q.TCP {
			path, _ = routing.PlainPath(nil, q.Path)
		}
		if got, want := w.plain.is(q, path), w.evaluate(q); got != want {
			t.Errorf("%s: %d, and by CEL %d, of %+v with %v", source, got, want, q, q.User)
		}
	}
	return true
}

// TestConditionsWithoutCELAreAsWithIt has each part by itself, and what "!", "&&" and "||" make of them.
func TestConditionsWithoutCELAreAsWithIt(t *testing.T) {
	requests := plainRequests(t)
	for _, part := range plainParts {
		if !plainAgrees(t, part, requests) {
			t.Errorf("%s needs CEL", part)
		}
	}
	for _, part := range celsParts {
		if plainAgrees(t, part, requests) {
			t.Errorf("%s is found out without CEL", part)
		}
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		if source := randomCondition(random, 3); !plainAgrees(t, source, requests) {
			t.Errorf("seed %d: %s needs CEL", seed, source)
		}
	}
}

func randomCondition(random *rand.Rand, depth int) string {
	if depth == 0 {
		return plainParts[random.IntN(len(plainParts))]
	}
	a := randomCondition(random, random.IntN(depth))
	switch random.IntN(3) {
	case 0:
		return "!(" + a + ")"
	case 1:
		return "(" + a + ") && (" + randomCondition(random, random.IntN(depth)) + ")"
	}
	return "(" + a + ") || (" + randomCondition(random, random.IntN(depth)) + ")"
}

// FuzzConditions has whatever compiles: what is found out without CEL is as with it.
func FuzzConditions(f *testing.F) {
	for _, part := range append(celsParts, plainParts...) {
		f.Add(part)
	}
	requests := plainRequests(f)
	f.Fuzz(func(t *testing.T, source string) { plainAgrees(t, source, requests) })
}
