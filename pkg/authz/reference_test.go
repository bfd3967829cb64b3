package authz

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/sennit-mesh/sennit/internal/condition"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// reference decides as the documentation says it, one policy after the other, twice: with what is enforced, and with all.
func reference(body *snapshot.Authorization, q *Request) Decision {
	denied, policy := refused(body, q, func(p *snapshot.AuthorizationPolicy) bool { return !p.DryRun })
	if denied {
		return Decision{Denied: true, Policy: policy}
	}
	// What all of them refuse is told of the dry runs: they are why.
	would, _ := refused(body, q, func(*snapshot.AuthorizationPolicy) bool { return true })
	if !would {
		return Decision{}
	}
	if denied, policy = refused(body, q, func(p *snapshot.AuthorizationPolicy) bool { return p.DryRun && p.Deny }); denied {
		return Decision{WouldBeDenied: true, WouldPolicy: policy}
	}
	_, policy = refused(body, q, func(p *snapshot.AuthorizationPolicy) bool { return p.DryRun })
	return Decision{WouldBeDenied: true, WouldPolicy: policy}
}

func refused(body *snapshot.Authorization, q *Request, counts func(*snapshot.AuthorizationPolicy) bool) (bool, string) {
	path, plain := routing.PlainPath(nil, q.Path)
	for _, p := range body.Policies {
		asksPath, asksMethod := false, false
		for _, r := range p.Rules {
			for _, w := range r.When {
				asksPath = asksPath || strings.Contains(w, "request.path")
				asksMethod = asksMethod || strings.Contains(w, "request.method")
			}
			for _, o := range r.To {
				asksPath = asksPath || len(o.Paths)+len(o.NotPaths) > 0
				asksMethod = asksMethod || len(o.Methods)+len(o.NotMethods) > 0
			}
		}
		odd := !q.TCP && (asksPath && !plain || asksMethod && strings.ContainsAny(q.Method, "abcdefghijklmnopqrstuvwxyz"))
		// An Allow policy that asks for paths refuses those that read differently like one that denies.
		if (counts(p) || sameRun(body, p, counts)) && (odd || p.Deny && counts(p) && isFor(p, q, path)) {
			return true, p.Origin
		}
	}
	allowed, any, name := false, false, ""
	for _, p := range body.Policies {
		if p.Deny || !counts(p) {
			continue
		}
		if !any {
			any, name = true, p.Origin
		}
		allowed = allowed || isFor(p, q, path)
	}
	return any && !allowed, name
}

// sameRun reports whether a policy that is not counted belongs to the dry runs of which some are.
func sameRun(body *snapshot.Authorization, p *snapshot.AuthorizationPolicy, counts func(*snapshot.AuthorizationPolicy) bool) bool {
	return p.DryRun && counts(&snapshot.AuthorizationPolicy{DryRun: true, Deny: true})
}

func isFor(p *snapshot.AuthorizationPolicy, q *Request, path string) bool {
	return slices.ContainsFunc(p.Rules, func(r *snapshot.AuthorizationRule) bool {
		from := len(r.From) == 0 || slices.ContainsFunc(r.From, func(s *snapshot.AuthorizationSource) bool {
			if s.Plaintext != q.Plaintext && s.Plaintext {
				return false
			}
			if q.Plaintext && len(s.Services)+len(s.Namespaces)+len(s.NotServices)+len(s.NotNamespaces) > 0 {
				return p.Deny && inLists("", s.Nodes, s.NotNodes, true)
			}
			return (len(s.Services) == 0 || slices.Contains(s.Services, q.Caller.String())) &&
				(len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, q.Caller.Namespace)) &&
				!slices.Contains(s.NotServices, q.Caller.String()) && !slices.Contains(s.NotNamespaces, q.Caller.Namespace) &&
				inLists(q.Node, s.Nodes, s.NotNodes, p.Deny) && inLists(q.TrustDomain, s.TrustDomains, s.NotTrustDomains, p.Deny)
		})
		return from && !slices.ContainsFunc(r.When, func(w string) bool { return !holds(w, q, p.Deny) }) && (len(r.To) == 0 || slices.ContainsFunc(r.To, func(o *snapshot.AuthorizationOperation) bool {
			if len(o.Ports) > 0 && !slices.Contains(o.Ports, uint32(q.Port)) || slices.Contains(o.NotPorts, uint32(q.Port)) {
				return false
			}
			if q.TCP {
				return p.Deny || len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths)+len(o.Headers)+len(o.NotHeaders)+len(o.Hosts)+len(o.NotHosts) == 0
			}
			return (len(o.Methods) == 0 || slices.Contains(o.Methods, q.Method)) && !slices.Contains(o.NotMethods, q.Method) &&
				(len(o.Paths) == 0 || onPath(o.Paths, path, p.Deny)) && !onPath(o.NotPaths, path, !p.Deny) && fielded(o, q, p.Deny) && hosted(o, q, p.Deny)
		}))
	})
}

// holds asks CEL.
func holds(source string, q *Request, deny bool) bool {
	is, known := compiled.Load(source)
	if !known {
		var err error
		if is, err = condition.Compile(source); err != nil {
			panic(err)
		}
		compiled.Store(source, is)
	}
	holds, err := is.(*condition.Condition).Is(variables{q})
	return holds || err != nil && deny
}

var compiled sync.Map // conditions by their source

func inLists(value string, in, notIn []string, deny bool) bool {
	if len(in)+len(notIn) > 0 && value == "" {
		return deny
	}
	return (len(in) == 0 || slices.Contains(in, value)) && !slices.Contains(notIn, value)
}

func fielded(o *snapshot.AuthorizationOperation, q *Request, deny bool) bool {
	is := func(h *snapshot.AuthorizationHeader, loose bool) bool {
		var all []string
		odd := false
		for _, f := range q.Fields {
			name := strings.ToLower(f.Name)
			if strings.ReplaceAll(name, "_", "-") == h.Name {
				all = append(all, f.Value)
				odd = odd || name != h.Name
			}
		}
		if !loose && (len(all) != 1 || odd) {
			return false
		}
		for _, v := range all {
			items := []string{v}
			if loose {
				items = append(items, strings.Split(v, ",")...)
			}
			for _, item := range items {
				if loose && item != v {
					item = strings.TrimSpace(item)
				}
				if map[snapshot.AuthorizationHeader_Kind]bool{
					snapshot.AuthorizationHeader_EXACT: item == h.Value, snapshot.AuthorizationHeader_PREFIX: strings.HasPrefix(item, h.Value),
					snapshot.AuthorizationHeader_SUFFIX: strings.HasSuffix(item, h.Value), snapshot.AuthorizationHeader_PRESENT: true,
				}[h.Kind] {
					return true
				}
			}
		}
		return false
	}
	return !slices.ContainsFunc(o.Headers, func(h *snapshot.AuthorizationHeader) bool { return !is(h, deny) }) &&
		!slices.ContainsFunc(o.NotHeaders, func(h *snapshot.AuthorizationHeader) bool { return is(h, !deny) })
}

func hosted(o *snapshot.AuthorizationOperation, q *Request, deny bool) bool {
	host, _, _ := strings.Cut(strings.ToLower(q.Host), ":")
	host = strings.TrimSuffix(host, ".")
	if len(o.Hosts)+len(o.NotHosts) > 0 && host == "" {
		return deny
	}
	in := func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool {
			below, is := strings.CutPrefix(n, "*")
			return n == host || is && strings.HasSuffix(host, below) && host != below
		})
	}
	return (len(o.Hosts) == 0 || in(o.Hosts)) && !in(o.NotHosts)
}

func onPath(paths []*snapshot.StringMatch, path string, loose bool) bool {
	return slices.ContainsFunc(paths, func(m *snapshot.StringMatch) bool {
		if m.Kind == snapshot.StringMatch_PREFIX {
			return m.Value == "/" || strings.HasPrefix(path+"/", strings.TrimSuffix(m.Value, "/")+"/")
		}
		return path == m.Value || loose && path == m.Value+"/"
	})
}

func some(random *rand.Rand, of ...string) (all []string) {
	for _, s := range of {
		if random.IntN(4) == 0 {
			all = append(all, s)
		}
	}
	return all
}

func randomBody(random *rand.Rand) *snapshot.Authorization {
	body := &snapshot.Authorization{}
	patterns := func() (all []*snapshot.StringMatch) {
		for _, p := range some(random, "/", "/a", "/a/b", "/a/", "/ab", "/x/y/z") {
			all = append(all, &snapshot.StringMatch{Kind: snapshot.StringMatch_Kind(random.IntN(2)), Value: p})
		}
		return all
	}
	ports := func() (all []uint32) {
		for _, p := range []uint32{80, 81} {
			if random.IntN(6) == 0 {
				all = append(all, p)
			}
		}
		return all
	}
	for i := range random.IntN(5) {
		p := &snapshot.AuthorizationPolicy{Origin: fmt.Sprint("p", i), Deny: random.IntN(2) == 0, DryRun: random.IntN(3) == 0}
		for range random.IntN(3) {
			r := &snapshot.AuthorizationRule{}
			for range max(random.IntN(5)-2, 0) {
				r.When = append(r.When, conditions[random.IntN(len(conditions))])
			}
			for range random.IntN(3) {
				r.From = append(r.From, &snapshot.AuthorizationSource{
					Services: some(random, "s/a", "s/b", "t/a"), Namespaces: some(random, "s", "t"),
					NotServices: some(random, "s/a", "t/b"), NotNamespaces: some(random, "t"),
				})
				if s := r.From[len(r.From)-1]; random.IntN(6) == 0 {
					*s = snapshot.AuthorizationSource{Plaintext: true}
				} else if random.IntN(3) == 0 {
					s.Nodes, s.NotNodes, s.TrustDomains = some(random, "n1", "n2"), some(random, "n2"), some(random, "td")
				}
			}
			for range random.IntN(3) {
				o := &snapshot.AuthorizationOperation{Methods: some(random, "GET", "POST"), NotMethods: some(random, "POST"), Ports: ports(), NotPorts: ports()}
				if random.IntN(2) == 0 {
					o.Paths = patterns()
				} else {
					o.NotPaths = patterns()
				}
				if random.IntN(3) == 0 {
					o.Hosts, o.NotHosts = some(random, "orders", "*.x.org"), some(random, "a.x.org")
					for _, v := range some(random, "a", "b", "x") {
						h := &snapshot.AuthorizationHeader{Name: "x-" + v, Kind: snapshot.AuthorizationHeader_Kind(random.IntN(4)), Value: v}
						if random.IntN(2) == 0 {
							o.Headers = append(o.Headers, h)
						} else {
							o.NotHeaders = append(o.NotHeaders, h)
						}
					}
				}
				r.To = append(r.To, o)
			}
			p.Rules = append(p.Rules, r)
		}
		body.Policies = append(body.Policies, p)
	}
	return body
}

// conditions are what random policies ask for, each found in another way.
var conditions = []string{
	"'dev' in user.claims.groups", "'ops' in user.claims.groups && request.port == 80", "'a' in user.audiences", "'groups' in user.claims",
	"user.claims.team == 'a'", "'a' in user.claims.team", "user.subject == 'me'", "user.subject != 'me'", "source.namespace == 's'", "request.headers['x-a'] == 'a'",
	"'x-a' in request.headers", "request.path == '/a'", "request.path.startsWith('/a') || request.method == 'GET'", "request.host == 'orders'",
	"request.path.matches('/b$')", "has(user.claims.team)", "source.service == 's/a'",
}

var users = []string{`{}`, `{"sub": "me", "groups": ["dev", "ops"], "aud": ["a"]}`, `{"groups": "dev", "team": "a"}`, `{"groups": {"ops": 1}, "team": ["a"]}`}

func randomRequest(random *rand.Rand) *Request {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	q := &Request{Caller: name(pick("s/a", "s/b", "t/a", "t/b", "u/a")), Port: uint16(80 + random.IntN(2))}
	if random.IntN(4) == 0 {
		q.Plaintext, q.Caller = true, exchange.ServiceName{}
	}
	q.Node, q.TrustDomain = pick("", "n1", "n2", "n3"), pick("", "td", "other")
	if q.Plaintext {
		q.Node, q.TrustDomain = "", ""
	}
	if claims := pick(append(users, "")...); claims != "" {
		q.User, _ = authn.ParseUser([]byte(claims))
	}
	if q.TCP = random.IntN(5) == 0; !q.TCP {
		q.Host = pick("", "orders", "Orders.:80", "a.x.org", "A.X.org.", "b.x.org:8080", "x.org")
		for range random.IntN(4) {
			q.Fields = append(q.Fields, exchange.Field{Name: pick("x-a", "X-A", "X_A", "x-b", "x_b", "x-x"), Value: pick("a", "b", "ab", "", "b, a", "a ,x", "x")})
		}
		q.Method = pick("GET", "POST", "PUT", "get")
		q.Path = pick("/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/ab/", "/x/y/z/", "/x/y", "/%61", "/a%2Fb", "/a/../b", "*", "/a?x")
	}
	return q
}
