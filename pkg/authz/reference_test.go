package authz

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

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
			return (len(s.Services) == 0 || slices.Contains(s.Services, q.Caller.String())) &&
				(len(s.Namespaces) == 0 || slices.Contains(s.Namespaces, q.Caller.Namespace)) &&
				!slices.Contains(s.NotServices, q.Caller.String()) && !slices.Contains(s.NotNamespaces, q.Caller.Namespace)
		})
		return from && (len(r.To) == 0 || slices.ContainsFunc(r.To, func(o *snapshot.AuthorizationOperation) bool {
			if len(o.Ports) > 0 && !slices.Contains(o.Ports, uint32(q.Port)) || slices.Contains(o.NotPorts, uint32(q.Port)) {
				return false
			}
			if q.TCP {
				return p.Deny || len(o.Methods)+len(o.NotMethods)+len(o.Paths)+len(o.NotPaths) == 0
			}
			return (len(o.Methods) == 0 || slices.Contains(o.Methods, q.Method)) && !slices.Contains(o.NotMethods, q.Method) &&
				(len(o.Paths) == 0 || onPath(o.Paths, path, p.Deny)) && !onPath(o.NotPaths, path, !p.Deny)
		}))
	})
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
			for range random.IntN(3) {
				r.From = append(r.From, &snapshot.AuthorizationSource{
					Services: some(random, "s/a", "s/b", "t/a"), Namespaces: some(random, "s", "t"),
					NotServices: some(random, "s/a", "t/b"), NotNamespaces: some(random, "t"),
				})
			}
			for range random.IntN(3) {
				o := &snapshot.AuthorizationOperation{Methods: some(random, "GET", "POST"), NotMethods: some(random, "POST"), Ports: ports(), NotPorts: ports()}
				if random.IntN(2) == 0 {
					o.Paths = patterns()
				} else {
					o.NotPaths = patterns()
				}
				r.To = append(r.To, o)
			}
			p.Rules = append(p.Rules, r)
		}
		body.Policies = append(body.Policies, p)
	}
	return body
}

func randomRequest(random *rand.Rand) *Request {
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	q := &Request{Caller: name(pick("s/a", "s/b", "t/a", "t/b", "u/a")), Port: uint16(80 + random.IntN(2))}
	if q.TCP = random.IntN(5) == 0; !q.TCP {
		q.Method = pick("GET", "POST", "PUT", "get")
		q.Path = pick("/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/ab/", "/x/y/z/", "/x/y", "/%61", "/a%2Fb", "/a/../b", "*", "/a?x")
	}
	return q
}
