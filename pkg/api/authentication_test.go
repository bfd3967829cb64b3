package api

import (
	"slices"
	"strings"
	"testing"
)

func TestAuthenticationPolicies(t *testing.T) {
	const (
		target  = "  targetRefs: [{kind: Service, name: orders}]\n"
		issuers = "  issuers: [{issuer: 'https://id.example', audiences: [shop], keys: {url: 'https://id.example/keys'}}]\n"
	)
	issuer := func(more string) string { return target + "  issuers: [{issuer: a, " + more + "}]\n" }
	const keys = "keys: {url: 'https://id.example/keys'}"
	signIn := func(more string) string {
		return "  targetRefs: [{kind: Gateway, name: g}]\n" + issuers + "  oidc: {issuer: 'https://id.example', clientID: shop" + more + "}\n"
	}
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"the least", target + issuers, nil},
		{"all", target + issuers + "  presence: Optional\n  removeToken: true\n  maxAge: 10m\n  acrValues: [gold]\n" +
			"  sources: [{header: X-Token}, {header: Authorization, prefix: 'Bearer '}, {cookie: session}, {query: access_token}]\n" +
			"  claimHeaders: [{header: X-User, claim: [sub]}, {header: X-Roles, claim: [realm_access, roles]}]\n", nil},
		{"keys in it", issuer("anyAudience: true, algorithms: [ES256], leeway: 1m, keys: {inline: '{\"keys\":[{\"kty\":\"EC\"}]}'}"), nil},
		{"a gateway and routes", "  targetRefs: [{kind: Gateway, name: g}, {kind: HTTPRoute, name: r}, {kind: GRPCRoute, name: r}]\n" + issuers, nil},
		{"a target that is none", "  targetRefs: [{kind: Namespace, name: a}]\n" + issuers, []string{"targetRefs[0].kind: must be one of"}},
		{"a target of another group", "  targetRefs: [{kind: Gateway, name: a, group: apps}]\n" + issuers, []string{"targetRefs[0].group: must be"}},
		{"a target twice", "  targetRefs: [{kind: Service, name: a}, {kind: Service, name: a}]\n" + issuers, []string{"targetRefs[1]: must be unique"}},
		{"no issuers", target + "  issuers: []\n", []string{"spec.issuers: must have at least 1"}},
		{"an issuer twice", target + "  issuers: [{issuer: a, anyAudience: true, " + keys + "}, {issuer: a, anyAudience: true, " + keys + "}]\n", []string{"spec.issuers[1]: must be unique"}},
		{"for nobody", issuer(keys), []string{"issuers[0].audiences: must have an item"}},
		{"for nobody, written out", issuer("audiences: [], anyAudience: true, " + keys), []string{"issuers[0].audiences: must have at least 1"}},
		{"for some and all", issuer("audiences: [a], anyAudience: true, " + keys), []string{"anyAudience: must not be true"}},
		{"a shared secret", issuer("anyAudience: true, algorithms: [HS256], " + keys), []string{"algorithms[0]: must be one of"}},
		{"none", issuer("anyAudience: true, algorithms: [none], " + keys), []string{"algorithms[0]: must be one of"}},
		{"a leeway of a day", issuer("anyAudience: true, leeway: 24h, " + keys), []string{"leeway: must be from"}},
		{"no keys", issuer("anyAudience: true, keys: {}"), []string{"keys: must have one of url and inline"}},
		{"keys twice", issuer("anyAudience: true, keys: {url: 'https://a/', inline: '{}'}"), []string{"keys: must have one of url and inline"}},
		{"keys that are none", issuer("anyAudience: true, keys: {inline: '[]'}"), []string{"keys.inline: must be a JWK set"}},
		{"keys over http", issuer("anyAudience: true, keys: {url: 'http://a/'}"), []string{"keys.url: must begin with https"}},
		{"keys over http, and so it shall be", issuer("anyAudience: true, keys: {url: 'http://a/', allowHTTP: true}"), nil},
		{"keys in a file", issuer("anyAudience: true, keys: {url: 'file:///etc/passwd'}"), []string{"keys.url: must be a URL"}},
		{"a password in the URL", issuer("anyAudience: true, keys: {url: 'https://a:b@c/'}"), []string{"keys.url: must be a URL"}},
		{"a certificate that is none", issuer("anyAudience: true, keys: {url: 'https://a/', caBundle: MII}"), []string{"keys.caBundle: must hold certificates"}},
		{"a source that is several", target + issuers + "  sources: [{header: a, cookie: b}]\n", []string{"sources[0]: must have one of"}},
		{"a source that is none", target + issuers + "  sources: [{}]\n", []string{"sources[0]: must have one of"}},
		{"a prefix of a cookie", target + issuers + "  sources: [{cookie: a, prefix: b}]\n", []string{"prefix: must not be given without header"}},
		{"a token in what frames", target + issuers + "  sources: [{header: Content-Length}]\n", []string{"sources[0].header: must be"}},
		{"a claim in what frames", target + issuers + "  claimHeaders: [{header: Host, claim: [sub]}]\n", []string{"claimHeaders[0].header: must be a header of the service's own"}},
		{"a claim in what is ours", target + issuers + "  claimHeaders: [{header: Sennit-User, claim: [sub]}]\n", []string{"claimHeaders[0].header: must be a header of the service's own"}},
		{"a header twice", target + issuers + "  claimHeaders: [{header: X-User, claim: [sub]}, {header: x_user, claim: [name]}]\n", []string{"claimHeaders[1].header: must be unique"}},
		{"no claim", target + issuers + "  claimHeaders: [{header: X-User, claim: []}]\n", []string{"claimHeaders[0].claim: must have at least 1"}},
		{"signing in", signIn(""), nil},
		{"signing in, all", signIn(", clientSecretRef: {name: idp}, scopes: [openid, email], callbackPath: /a/b, logoutPath: /out, cookieName: s, sessionTime: 1h, forwardIDToken: true"), nil},
		{"signing in at a service", strings.Replace(signIn(""), "kind: Gateway", "kind: Service", 1), []string{"spec.targetRefs[0]: must not be a Service with oidc"}},
		{"signing in over http", strings.ReplaceAll(signIn(""), "https://id.example", "http://id.example"), []string{"spec.oidc.issuer: must be the issuer's https URL"}},
		{"signing in at another issuer", strings.Replace(signIn(""), "oidc: {issuer: 'https://id.example'", "oidc: {issuer: 'https://other.example'", 1), []string{"spec.oidc.issuer: must be one of spec.issuers"}},
		{"signing in as another client", strings.Replace(signIn(""), "clientID: shop", "clientID: bank", 1), []string{"spec.oidc.clientID: must be among audiences"}},
		{"signing in without openid", signIn(", scopes: [email]"), []string{"spec.oidc.scopes: must have openid"}},
		{"led back to dots", signIn(", callbackPath: /a/../b"), []string{"spec.oidc.callbackPath: must be a path"}},
		{"led back to another host", signIn(", callbackPath: //evil.example"), []string{"spec.oidc.callbackPath: must be a path"}},
		{"out where they come in", signIn(", callbackPath: /a, logoutPath: /a"), []string{"spec.oidc.logoutPath: must not be callbackPath"}},
		{"for a year", signIn(", sessionTime: 8760h"), []string{"spec.oidc.sessionTime: must be from"}},
		{"a cookie of two", signIn(", cookieName: 'a;b'"), []string{"spec.oidc.cookieName: must be the name"}},
		{"another word", target + issuers + "  presence: Maybe\n", []string{"spec.presence: must be one of"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte("apiVersion: sennit.dev/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {name: a}\nspec:\n"+tt.spec))
			if len(tt.want) == 0 {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || slices.ContainsFunc(tt.want, func(want string) bool { return !strings.Contains(err.Error(), want) }) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
