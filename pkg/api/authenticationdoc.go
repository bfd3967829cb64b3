package api

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
)

// SwaggerDoc says what the fields mean, for `kubectl explain`.
func (AuthenticationPolicy) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "AuthenticationPolicy says how it is proven who the end users of requests are: by tokens (JWT) of issuers that it names.",
		"spec":   "For which requests it is, and what proves who their users are.",
		"status": "What became of the policy.",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationPolicySpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":             "AuthenticationPolicySpec says for which requests it is, and what proves who their users are.",
		"targetRefs":   "Services, Gateways, and HTTPRoutes and GRPCRoutes at Gateways, of the policy's namespace. A service's own node enforces what is for it, and a gateway's nodes what is for it or its routes. What is for a route replaces what is for its Gateway.",
		"presence":     "Required: a request without a token is refused. Optional: it passes, and is nobody's; one with a token that is not good is refused all the same.",
		"issuers":      "Those whose tokens are good.",
		"sources":      "Where a token may stand. Without it, in the header Authorization behind Bearer. A request with more than one token is refused.",
		"removeToken":  "The token is not passed on to the service. One in the query never is.",
		"claimHeaders": "Headers in which the service is told claims. They are removed from every request, whoever sent them, before they are set.",
		"acrValues":    "One of these is the token's acr; else the user is asked to sign in in another way (RFC 9470).",
		"oidc":         "How people sign in at a gateway: who comes with a browser and without a token is led to an issuer. For Gateways and routes alone.",
		"maxAge":       "The user has signed in no longer ago, by the token's auth_time; else he is asked to sign in again (RFC 9470).",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationTarget) SwaggerDoc() map[string]string {
	return map[string]string{
		"":      "AuthenticationTarget is a Service, a Gateway, an HTTPRoute or a GRPCRoute of the policy's namespace.",
		"group": "API group of kind: empty for a Service, else gateway.networking.k8s.io. It may be left out.",
		"kind":  "Service, Gateway, HTTPRoute or GRPCRoute.",
		"name":  "Name of the document.",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationIssuer) SwaggerDoc() map[string]string {
	return map[string]string{
		"":            "AuthenticationIssuer is one whose tokens are good.",
		"issuer":      "What its tokens have as iss, to the byte.",
		"audiences":   "One of these is in the token's aud.",
		"anyAudience": "Tokens that the issuer made for others are good too.",
		"algorithms":  "Those with which tokens may be signed: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA. All that a key is for where it is not given.",
		"leeway":      "How far the issuer's clock may be from the node's. 30s where it is not given, at most 10m.",
		"keys":        "Where its keys are.",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationKeys) SwaggerDoc() map[string]string {
	return map[string]string{
		"":          "AuthenticationKeys are where an issuer's keys are: one of url and inline.",
		"url":       "Where the issuer publishes its JWK set. Controllers fetch it every five minutes, and when a token names a key that is not in it.",
		"caBundle":  "Certificates in PEM that the server's certificate must chain to. The roots of the controller's host where it is not given.",
		"allowHTTP": "The URL may begin with http: whoever is on the way can give keys of his own.",
		"inline":    "The JWK set itself, with public keys alone.",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationSource) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "AuthenticationSource is where a token may stand: one of header, cookie and query.",
		"header": "Name of a header.",
		"prefix": "What stands before the token in the header, in upper or lower case: Bearer and a space, for instance.",
		"cookie": "Name of a cookie.",
		"query":  "Name of a parameter of the query. URLs are written down in many places: use it only where nothing else is possible.",
	}
}

// SwaggerDoc says what the fields mean.
func (ClaimHeader) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "ClaimHeader tells the service a claim in a header.",
		"header": "Name of the header.",
		"claim":  "Names of the claim, from the outside in: [realm_access, roles]. A list is told with commas between its items. What a header cannot hold as it is, is not told.",
	}
}

// SwaggerDoc says what the fields mean.
func (OIDCLogin) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                "OIDCLogin says how people sign in at a gateway, by OpenID Connect: authorization code with PKCE. The gateway's nodes must reach the issuer.",
		"issuer":          "The issuer's URL, below which its configuration is. One of the policy's issuers.",
		"clientID":        "What the issuer knows the gateway by. One of the audiences of the issuer.",
		"clientSecretRef": "Secret of the policy's namespace that has the client's secret as client-secret. Without it the client is a public one.",
		"scopes":          "What is asked for; openid is among it. With offline_access many issuers give what renews sessions.",
		"callbackPath":    "Path to which the issuer leads people back; https://HOST and this path must be registered there. A rule of the route must match it.",
		"logoutPath":      "Path at which a browser ends its session.",
		"cookieName":      "Name of the session's cookie, behind __Host-.",
		"sessionTime":     "How long a session lasts at most. It ends with its ID token, where the issuer gives nothing that renews it.",
		"forwardIDToken":  "The service gets the ID token, in Authorization behind Bearer.",
		"caBundle":        "Certificates in PEM that the issuer's certificate must chain to. The roots of the gateway's host where it is not given.",
	}
}

// SwaggerDoc says what the fields mean.
func (OIDCSecret) SwaggerDoc() map[string]string {
	return map[string]string{
		"":     "OIDCSecret is a Secret of the policy's namespace.",
		"name": "Name of the Secret.",
	}
}

// SwaggerDoc says what the fields mean.
func (AuthenticationPolicyStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":           "AuthenticationPolicyStatus is what became of the policy.",
		"conditions": "Accepted: whether it is in effect. ResolvedRefs: whether the keys of all issuers are known.",
	}
}

// DeepCopyObject implements runtime.Object.
func (p *AuthenticationPolicy) DeepCopyObject() runtime.Object {
	c := *p
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	c.Spec.TargetRefs = slices.Clone(p.Spec.TargetRefs)
	c.Spec.Issuers = slices.Clone(p.Spec.Issuers)
	for i := range c.Spec.Issuers {
		one := &c.Spec.Issuers[i]
		one.Audiences, one.Algorithms = slices.Clone(one.Audiences), slices.Clone(one.Algorithms)
	}
	c.Spec.Sources = slices.Clone(p.Spec.Sources)
	c.Spec.ClaimHeaders = slices.Clone(p.Spec.ClaimHeaders)
	for i := range c.Spec.ClaimHeaders {
		c.Spec.ClaimHeaders[i].Claim = slices.Clone(c.Spec.ClaimHeaders[i].Claim)
	}
	c.Spec.ACRValues = slices.Clone(p.Spec.ACRValues)
	if p.Spec.MaxAge != nil {
		c.Spec.MaxAge = new(*p.Spec.MaxAge)
	}
	if p.Spec.OIDC != nil {
		c.Spec.OIDC = new(*p.Spec.OIDC)
		c.Spec.OIDC.Scopes = slices.Clone(p.Spec.OIDC.Scopes)
		if p.Spec.OIDC.ClientSecretRef != nil {
			c.Spec.OIDC.ClientSecretRef = new(*p.Spec.OIDC.ClientSecretRef)
		}
		if p.Spec.OIDC.SessionTime != nil {
			c.Spec.OIDC.SessionTime = new(*p.Spec.OIDC.SessionTime)
		}
	}
	c.Status.Conditions = slices.Clone(p.Status.Conditions)
	return &c
}

// DeepCopyObject implements runtime.Object.
func (l *AuthenticationPolicyList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = make([]AuthenticationPolicy, len(l.Items))
	for i := range l.Items {
		c.Items[i] = *l.Items[i].DeepCopyObject().(*AuthenticationPolicy)
	}
	return &c
}
