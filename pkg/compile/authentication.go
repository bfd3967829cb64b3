package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A KeySource is where the keys of an issuer are fetched from.
type KeySource struct {
	URL      string
	CABundle string // PEM; empty: the roots of the host
}

// A KeySet is what was fetched from a KeySource.
type KeySet struct {
	Keys    []byte // a JWK set, as authn.ReadKeys returns it; empty: none is known
	Problem string // why there are none, or no newer ones; may be empty
}

// authentications are what is asked of end users, by what it is attached to.
type authentications struct {
	services map[exchange.ServiceName]*snapshot.Authentication
	gateways map[exchange.ServiceName]*snapshot.Authentication
	routes   map[routeID]*snapshot.Authentication
	logins   map[string][]byte // what nodes of gateways alone may know of policies, by origin: an encoded snapshot.LoginSecrets
}

// attachAuthentication resolves the policies and puts into out what became of them, and where keys are to be fetched. Of
// several for one target the oldest is in effect there (GEP-713, "Conflict Resolution").
func attachAuthentication(in Input, services *catalog, gateways *gateways, out *Output) *authentications {
	all := &authentications{
		services: map[exchange.ServiceName]*snapshot.Authentication{}, gateways: map[exchange.ServiceName]*snapshot.Authentication{},
		routes: map[routeID]*snapshot.Authentication{}, logins: map[string][]byte{},
	}
	routes := map[routeID]*routeDocument{}
	for _, r := range routesOf(in) {
		routes[r.id()] = r
	}
	policies := oldestFirst(in.Authentication)
	bodies, missing, taken := make([]*snapshot.Authentication, len(policies)), make([][]string, len(policies)), make([][]string, len(policies))
	unknown := make([][]string, len(policies))
	for _, ofRoutes := range []bool{false, true} { // what gateways have decides over routes
		for i, p := range policies {
			if bodies[i] == nil {
				var sources []KeySource
				bodies[i], sources, unknown[i] = compileAuthentication(p, in.KeySets)
				out.KeySources = append(out.KeySources, sources...)
				if problem := all.signIn(p, bodies[i], in.SessionKey, gateways.secrets); problem != "" {
					unknown[i] = append(unknown[i], problem)
				}
			}
			for _, t := range p.Spec.TargetRefs {
				if isRoute := t.Kind == api.HTTPRoute.Name || t.Kind == api.GRPCRoute.Name; isRoute != ofRoutes {
					continue
				}
				if problem, conflict := all.attach(p.Namespace, t, bodies[i], services, gateways, routes); problem != "" {
					missing[i] = append(missing[i], problem)
				} else if conflict != "" {
					taken[i] = append(taken[i], conflict)
				}
			}
		}
	}
	for i, p := range policies {
		reason := gatewayv1.PolicyReasonTargetNotFound
		if len(missing[i]) == 0 {
			reason = gatewayv1.PolicyReasonConflicted
		}
		accepted := policyCondition(len(p.Spec.TargetRefs), reason, append(missing[i], taken[i]...))
		out.Authentication[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = observed(p.Generation, accepted, keysCondition(unknown[i]))
	}
	slices.SortFunc(out.KeySources, func(a, b KeySource) int {
		return cmp.Or(strings.Compare(a.URL, b.URL), strings.Compare(a.CABundle, b.CABundle))
	})
	out.KeySources = slices.Compact(out.KeySources)
	return all
}

// keysCondition says whether the keys of all issuers are known.
func keysCondition(unknown []string) v1.Condition {
	if len(unknown) == 0 {
		return v1.Condition{Type: "ResolvedRefs", Status: v1.ConditionTrue, Reason: "ResolvedRefs", Message: "the keys of all issuers are known"}
	}
	return cut(v1.Condition{Type: "ResolvedRefs", Status: v1.ConditionFalse, Reason: "KeysUnknown", Message: strings.Join(unknown, "; ")})
}

// attach adds a policy to a target, or says why it means nothing there, or what stands in its place.
func (a *authentications) attach(namespace string, t api.AuthenticationTarget, compiled *snapshot.Authentication, services *catalog, gateways *gateways, routes map[routeID]*routeDocument) (problem, conflict string) {
	name := exchange.ServiceName{Namespace: namespace, Name: t.Name}
	switch t.Kind {
	case api.Service.Name:
		s, problem := services.find(t.Kind, name)
		if problem != "" {
			return problem, ""
		}
		if conflict := take(a.services, name, compiled, t); conflict != "" {
			return "", conflict
		}
		return s.selectsOthers(), ""
	case api.Gateway.Name:
		if gateways.byName[name] == nil {
			return fmt.Sprintf("there is no Gateway %s of a class of Sennit's", name), ""
		}
		return "", take(a.gateways, name, compiled, t)
	}
	id := routeID{t.Kind, namespace, t.Name}
	route := routes[id]
	if route == nil {
		return fmt.Sprintf("there is no %s", id), ""
	}
	atGateway := false
	for _, ref := range route.Spec.ParentRefs {
		parent, is := parentListeners(namespace, ref)
		of := gateways.gatewayOf(parent)
		if !is || gateways.byName[of] == nil {
			continue
		}
		if stands := a.gateways[of]; stands != nil && of.Namespace != namespace {
			conflict = fmt.Sprintf("AuthenticationPolicy %s is for Gateway %s, which is of another namespace, and stays in effect there", stands.Origin, of)
		}
		atGateway = true
	}
	if !atGateway {
		return fmt.Sprintf("%s has no Gateway as its parent; inside the mesh callers choose their routes, and the policy is to name the Service", id), ""
	}
	if taken := take(a.routes, id, compiled, t); taken != "" {
		return "", taken
	}
	return "", conflict
}

// take gives a target to a policy, unless an older one has it.
func take[T comparable](of map[T]*snapshot.Authentication, target T, compiled *snapshot.Authentication, t api.AuthenticationTarget) string {
	if older := of[target]; older != nil {
		if older == compiled {
			return ""
		}
		return fmt.Sprintf("%s %s: AuthenticationPolicy %s is older and in effect there", t.Kind, t.Name, older.Origin)
	}
	of[target] = compiled
	return ""
}

// compileAuthentication makes what nodes need of a policy, and says where its keys come from and which are not known. An
// issuer whose keys are not known is one of whom no token is good.
func compileAuthentication(p *api.AuthenticationPolicy, known map[KeySource]KeySet) (compiled *snapshot.Authentication, sources []KeySource, unknown []string) {
	compiled = &snapshot.Authentication{
		Origin: p.Namespace + "/" + p.Name, Optional: p.Spec.Presence == api.PresenceOptional, Remove: p.Spec.RemoveToken, AcrValues: p.Spec.ACRValues,
	}
	if p.Spec.MaxAge != nil {
		compiled.MaxAgeMs = uint64(max(p.Spec.MaxAge.Milliseconds(), 0))
	}
	for i := range p.Spec.Issuers {
		source := &p.Spec.Issuers[i]
		one := &snapshot.Issuer{
			Issuer: source.Issuer, Audiences: source.Audiences, Algorithms: source.Algorithms, LeewayMs: uint64(max(source.Leeway.Milliseconds(), 0)), Url: source.Keys.URL,
		}
		if source.Keys.URL == "" {
			var err error
			if one.Keys, _, err = authn.ReadKeys([]byte(source.Keys.Inline)); err != nil {
				unknown = append(unknown, fmt.Sprintf("spec.issuers[%d].keys.inline: %v", i, err))
			}
		} else {
			from := KeySource{source.Keys.URL, source.Keys.CABundle}
			sources = append(sources, from)
			set := known[from]
			if one.Keys = set.Keys; len(set.Keys) == 0 || set.Problem != "" {
				unknown = append(unknown, fmt.Sprintf("spec.issuers[%d].keys.url: %s", i, cmp.Or(set.Problem, "the keys are not fetched yet")))
			}
		}
		compiled.Issuers = append(compiled.Issuers, one)
	}
	for _, s := range p.Spec.Sources {
		source := &snapshot.TokenSource{Name: s.Header, Prefix: s.Prefix}
		switch {
		case s.Cookie != "":
			source = &snapshot.TokenSource{Kind: snapshot.TokenSource_COOKIE, Name: s.Cookie}
		case s.Query != "":
			source = &snapshot.TokenSource{Kind: snapshot.TokenSource_QUERY, Name: s.Query}
		}
		compiled.Sources = append(compiled.Sources, source)
	}
	for _, h := range p.Spec.ClaimHeaders {
		compiled.Headers = append(compiled.Headers, &snapshot.ClaimHeader{Name: h.Header, Claim: h.Claim})
	}
	return compiled, sources, unknown
}

// clientSecretKey is where a Secret has the secret of a client.
const clientSecretKey = "client-secret"

// signIn has a policy say how people sign in, or says why they cannot.
func (a *authentications) signIn(p *api.AuthenticationPolicy, compiled *snapshot.Authentication, sessionKey func(origin, uid string) []byte, from *secrets) (problem string) {
	source := p.Spec.OIDC
	if source == nil {
		return ""
	}
	compiled.Login = &snapshot.Login{
		Issuer: source.Issuer, ClientId: source.ClientID, Scopes: source.Scopes, CallbackPath: source.CallbackPath, LogoutPath: source.LogoutPath,
		Cookie: source.CookieName, Forward: source.ForwardIDToken, CaBundle: source.CABundle,
	}
	if source.SessionTime != nil {
		compiled.Login.SessionMs = uint64(max(source.SessionTime.Milliseconds(), 0))
	}
	if sessionKey == nil {
		return "spec.oidc: there is no key for sessions"
	}
	known := &snapshot.LoginSecrets{SessionKey: sessionKey(compiled.Origin, string(p.UID))}
	if ref := source.ClientSecretRef; ref != nil {
		name := types.NamespacedName{Namespace: p.Namespace, Name: ref.Name}
		document := from.byName[name]
		if document == nil {
			return fmt.Sprintf("spec.oidc.clientSecretRef: there is no Secret %s, and nobody can sign in", name)
		}
		if known.ClientSecret = strings.TrimSpace(string(document.Data[clientSecretKey])); known.ClientSecret == "" || !utf8.ValidString(known.ClientSecret) {
			return fmt.Sprintf("spec.oidc.clientSecretRef: Secret %s has nothing in %s, and nobody can sign in", name, clientSecretKey)
		}
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(known)
	if err != nil {
		return "spec.oidc: " + err.Error()
	}
	a.logins[compiled.Origin] = encoded
	return ""
}

// sealedTo is a policy as the nodes of a gateway get it: with what they alone may know of it.
func (a *authentications) sealedTo(g *gateway, policy *snapshot.Authentication, seal sealer) *snapshot.Authentication {
	known := a.logins[policy.Origin]
	if policy.Login == nil || len(known) == 0 || seal == nil {
		return policy
	}
	policy = proto.Clone(policy).(*snapshot.Authentication)
	for _, n := range g.nodes {
		if len(n.Gateway.SealingKey) == 0 {
			continue
		}
		if sealed, err := seal(n.Gateway.SealingKey, snapshot.LoginOf(g.name.String(), policy.Origin), known); err == nil { // else the node's key is none
			policy.Login.Secrets = append(policy.Login.Secrets, &snapshot.SealedKey{Recipient: n.Gateway.SealingKey, Sealed: sealed})
		}
	}
	return policy
}

// ask has a rule of a gateway ask for the end user: as the policy of its route says, or that of the gateway. Over the policy
// of a gateway that is of another namespace no route has a say. The same rule is at other gateways: one that asks is a clone.
func (a *authentications) ask(body *snapshot.Ingress, g *gateway, rule *snapshot.Rule, route *routeDocument, seal sealer) *snapshot.Rule {
	policy := a.gateways[g.name]
	if policy == nil || g.name.Namespace == route.Namespace {
		if own := a.routes[route.id()]; own != nil {
			policy = own
		}
	}
	if policy == nil || ofConnections(route.kind) {
		return rule
	}
	at := slices.IndexFunc(body.Authentications, func(known *snapshot.Authentication) bool { return known.Origin == policy.Origin })
	if at < 0 {
		at = len(body.Authentications)
		body.Authentications = append(body.Authentications, a.sealedTo(g, policy, seal))
	}
	rule = proto.Clone(rule).(*snapshot.Rule)
	rule.Authentication = uint32(at) + 1
	return rule
}
