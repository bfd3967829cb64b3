package api

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The words of an AuthenticationPolicy.
const (
	PresenceRequired = "Required"
	PresenceOptional = "Optional"
)

// An AuthenticationPolicy (sennit.dev/v1alpha1) says how it is proven who the end users of requests are.
type AuthenticationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   AuthenticationPolicySpec   `json:"spec,omitempty"`
	Status AuthenticationPolicyStatus `json:"status,omitempty"`
}

// AuthenticationPolicySpec says for which requests it is, and what proves who their users are.
type AuthenticationPolicySpec struct {
	TargetRefs   []AuthenticationTarget `json:"targetRefs"`
	Presence     string                 `json:"presence,omitempty"`
	Issuers      []AuthenticationIssuer `json:"issuers"`
	Sources      []AuthenticationSource `json:"sources,omitempty"` // none: Authorization, behind "Bearer "
	RemoveToken  bool                   `json:"removeToken,omitempty"`
	ClaimHeaders []ClaimHeader          `json:"claimHeaders,omitempty"`
	ACRValues    []string               `json:"acrValues,omitempty"`
	MaxAge       *metav1.Duration       `json:"maxAge,omitempty"`
	OIDC         *OIDCLogin             `json:"oidc,omitempty"` // nil: nobody signs in here
}

// OIDCLogin says how people sign in at a gateway.
type OIDCLogin struct {
	Issuer          string           `json:"issuer"` // one of the policy's issuers
	ClientID        string           `json:"clientID"`
	ClientSecretRef *OIDCSecret      `json:"clientSecretRef,omitempty"` // nil: the client has none
	Scopes          []string         `json:"scopes,omitempty"`
	CallbackPath    string           `json:"callbackPath,omitempty"`
	LogoutPath      string           `json:"logoutPath,omitempty"`
	CookieName      string           `json:"cookieName,omitempty"`
	SessionTime     *metav1.Duration `json:"sessionTime,omitempty"`
	ForwardIDToken  bool             `json:"forwardIDToken,omitempty"`
	CABundle        string           `json:"caBundle,omitempty"`
}

// An OIDCSecret is a Secret of the policy's namespace, that has the client's secret as client-secret.
type OIDCSecret struct {
	Name string `json:"name"`
}

// An AuthenticationTarget is a Service, a Gateway, or an HTTPRoute or GRPCRoute at Gateways, of the policy's namespace.
type AuthenticationTarget struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// An AuthenticationIssuer is one whose tokens prove something.
type AuthenticationIssuer struct {
	Issuer      string             `json:"issuer"`
	Audiences   []string           `json:"audiences,omitempty"`
	AnyAudience bool               `json:"anyAudience,omitempty"` // tokens for others are good too
	Algorithms  []string           `json:"algorithms,omitempty"`  // none: all that fit a key
	Leeway      metav1.Duration    `json:"leeway,omitempty"`
	Keys        AuthenticationKeys `json:"keys"`
}

// AuthenticationKeys are where an issuer's keys are: at a URL, or here.
type AuthenticationKeys struct {
	URL       string `json:"url,omitempty"`
	CABundle  string `json:"caBundle,omitempty"`
	AllowHTTP bool   `json:"allowHTTP,omitempty"`
	Inline    string `json:"inline,omitempty"` // a JWK set
}

// An AuthenticationSource is where a token may stand: one of header, cookie and query.
type AuthenticationSource struct {
	Header string `json:"header,omitempty"`
	Prefix string `json:"prefix,omitempty"` // of the header's value
	Cookie string `json:"cookie,omitempty"`
	Query  string `json:"query,omitempty"`
}

// A ClaimHeader tells the service a claim in a header.
type ClaimHeader struct {
	Header string   `json:"header"`
	Claim  []string `json:"claim"` // a path of names
}

// AuthenticationPolicyStatus is what became of the policy.
type AuthenticationPolicyStatus struct {
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AuthenticationPolicyList is the list of AuthenticationPolicy.
type AuthenticationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []AuthenticationPolicy `json:"items"`
}

const (
	maxAuthenticationTargets = 16
	maxAuthenticationIssuers = 8
	maxAuthenticationSources = 8
	maxAuthenticationValues  = 32
	maxAuthenticationText    = 1024
	maxInlineKeys            = 64 << 10
	maxAuthenticationLeeway  = 10 * time.Minute
	maxAuthenticationAge     = 365 * 24 * time.Hour
)

// tokenAlgorithms are those that a token may be signed with.
var tokenAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// ownHeaders are fields that no claim may be told in: they frame messages, say where they come from, or are Sennit's.
var ownHeaders = regexp.MustCompile(`^(?i:host|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-length|expect|cookie|forwarded|x-forwarded-.*|x-real-ip|traceparent|tracestate|sennit-.*)$`)

// cookieName is a token of RFC 9110, as a cookie's name is.
var cookieName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")

// authenticationPolicy checks what the schema cannot say, and names the group of targets that do not.
func (w *walker) authenticationPolicy(u *unstructured.Unstructured) {
	spec, _ := u.Object["spec"].(map[string]any)
	targets, issuers := items(spec, "targetRefs"), items(spec, "issuers")
	w.between("spec.targetRefs", "items", int64(len(targets)), 1, maxAuthenticationTargets)
	w.targets("spec.targetRefs", targets, Service.Name, Gateway.Name, HTTPRoute.Name, GRPCRoute.Name)
	w.oneOf("spec.presence", str(spec, "presence"), PresenceRequired, PresenceOptional)
	w.between("spec.issuers", "items", int64(len(issuers)), 1, maxAuthenticationIssuers)
	for i, issuer := range issuers {
		w.authenticationIssuer(index("spec.issuers", i), issuer)
	}
	sources := items(spec, "sources")
	w.between("spec.sources", "items", int64(len(sources)), 0, maxAuthenticationSources)
	for i, s := range sources {
		w.authenticationSource(index("spec.sources", i), s)
	}
	headers := items(spec, "claimHeaders")
	w.between("spec.claimHeaders", "items", int64(len(headers)), 0, maxAuthenticationValues)
	var told []string
	for i, h := range headers {
		at := index("spec.claimHeaders", i)
		name := str(h, "header")
		switch {
		case !headerName.MatchString(name):
			w.add(field(at, "header"), Invalid, "must be the name of a header (RFC 9110 §5.1), is %q", name)
		case ownHeaders.MatchString(name) || strings.EqualFold(name, "authorization"):
			w.add(field(at, "header"), Invalid, "must be a header of the service's own, is %q", name)
		}
		key := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
		if slices.Contains(told, key) {
			w.add(field(at, "header"), DuplicateValue, "must be unique, but %q is there before (upper case and _ count as lower case and -)", name)
		}
		told = append(told, key)
		w.authenticationTexts(at, h, "claim", 1)
	}
	w.authenticationTexts("spec", spec, "acrValues", 0)
	if has(spec, "oidc") {
		w.oidcLogin("spec.oidc", part(spec, "oidc"), spec)
	}
	w.span("spec", spec, "maxAge", time.Second, maxAuthenticationAge)
}

// ownPath is a path that servers read alike and that needs no encoding.
var ownPath = regexp.MustCompile(`^(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}$`)

func (w *walker) oidcLogin(path string, login, spec map[string]any) {
	u, err := url.Parse(str(login, "issuer"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		w.add(field(path, "issuer"), Invalid, "must be the issuer's https URL, without user, query and fragment, is %q", str(login, "issuer"))
	}
	for i, t := range items(spec, "targetRefs") {
		if str(t, "kind") == Service.Name {
			w.add(index("spec.targetRefs", i), Invalid, "must not be a Service with oidc: people sign in at gateways, and the service gets their ID token where forwardIDToken is true")
		}
	}
	client := str(login, "clientID")
	if client == "" || len(client) > 256 || strings.ContainsFunc(client, func(r rune) bool { return r < '!' || r > '~' }) {
		w.add(field(path, "clientID"), Invalid, "must be 1 to 256 visible characters of ASCII, is %q", client)
	}
	known, takes := false, false
	for _, issuer := range items(spec, "issuers") {
		if str(issuer, "issuer") == str(login, "issuer") {
			known = true
			takes = slices.ContainsFunc(items(issuer, "audiences"), func(a any) bool { return a == client })
		}
	}
	switch {
	case !known:
		w.add(field(path, "issuer"), Invalid, "must be one of spec.issuers, by which its tokens are verified, is %q", str(login, "issuer"))
	case !takes:
		w.add(field(path, "clientID"), Invalid, "must be among audiences of the issuer, for whom its ID tokens are made, is %q", client)
	}
	if has(login, "clientSecretRef") {
		w.form(field(path, "clientSecretRef.name"), str(login["clientSecretRef"], "name"), subdomain)
	}
	for _, name := range []string{"callbackPath", "logoutPath"} {
		if p := str(login, name); !ownPath.MatchString(p) {
			w.add(field(path, name), Invalid, "must be a path such as /sennit/callback, without encoded characters and dot segments, is %q", p)
		}
	}
	if str(login, "callbackPath") == str(login, "logoutPath") {
		w.add(field(path, "logoutPath"), DuplicateValue, "must not be callbackPath")
	}
	if name := str(login, "cookieName"); !cookieName.MatchString(name) || len(name) > 64 {
		w.add(field(path, "cookieName"), Invalid, "must be the name of a cookie (RFC 6265 §4.1.1) of at most 64 bytes, is %q", name)
	}
	w.authenticationTexts(path, login, "scopes", 0)
	scopes := items(login, "scopes")
	if len(scopes) > 0 && !slices.Contains(scopes, any("openid")) {
		w.add(field(path, "scopes"), Invalid, "must have openid, without which there is no ID token")
	}
	w.span(path, login, "sessionTime", time.Minute, maxSessionTime)
	if problem := checkBundle(str(login, "caBundle")); problem != "" {
		w.add(field(path, "caBundle"), Invalid, "%s", problem)
	}
}

// maxSessionTime bounds a session, which nobody can end but the browser that holds it.
const maxSessionTime = 7 * 24 * time.Hour

// authenticationTexts checks a list of texts that a token is compared with.
func (w *walker) authenticationTexts(path string, of any, name string, least int64) {
	texts := items(of, name)
	if has(of, name) {
		least = 1
	}
	w.between(field(path, name), "items", int64(len(texts)), least, maxAuthenticationValues)
	for i, t := range texts {
		if s, _ := t.(string); s == "" || len(s) > maxAuthenticationText {
			w.add(index(field(path, name), i), Invalid, "must have 1 to %d bytes, has %d", maxAuthenticationText, len(s))
		}
	}
}

func (w *walker) authenticationIssuer(path string, issuer any) {
	m, _ := issuer.(map[string]any)
	if name := str(m, "issuer"); name == "" || len(name) > maxAuthenticationText {
		w.add(field(path, "issuer"), Invalid, "must be what tokens have as iss, of 1 to %d bytes", maxAuthenticationText)
	}
	anyAudience, _ := m["anyAudience"].(bool)
	w.authenticationTexts(path, m, "audiences", 0)
	switch audiences := items(m, "audiences"); {
	case len(audiences) == 0 && !anyAudience && !has(m, "audiences"):
		w.add(field(path, "audiences"), Required, "must have an item: without it, tokens that the issuer made for others would be good here (write anyAudience: true where they shall)")
	case len(audiences) > 0 && anyAudience:
		w.add(field(path, "anyAudience"), Invalid, "must not be true with audiences")
	}
	w.authenticationTexts(path, m, "algorithms", 0)
	for i, a := range items(m, "algorithms") {
		s, _ := a.(string)
		w.oneOf(index(field(path, "algorithms"), i), s, tokenAlgorithms...)
	}
	w.span(path, m, "leeway", 0, maxAuthenticationLeeway)
	w.authenticationKeys(field(path, "keys"), part(m, "keys"))
}

func (w *walker) authenticationKeys(path string, keys map[string]any) {
	at, inline, bundle := str(keys, "url"), str(keys, "inline"), str(keys, "caBundle")
	plain, _ := keys["allowHTTP"].(bool)
	if (at == "") == (inline == "") {
		w.add(path, Invalid, "must have one of url and inline")
		return
	}
	if problem := checkBundle(bundle); problem != "" {
		w.add(field(path, "caBundle"), Invalid, "%s", problem)
	}
	if inline != "" {
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		switch err := json.Unmarshal([]byte(inline), &set); {
		case len(inline) > maxInlineKeys:
			w.add(field(path, "inline"), Invalid, "must have at most %d bytes, has %d", maxInlineKeys, len(inline))
		case err != nil || len(set.Keys) == 0:
			w.add(field(path, "inline"), Invalid, `must be a JWK set: {"keys": […]} with at least one (RFC 7517 §5)`)
		}
		for name, given := range map[string]bool{"caBundle": bundle != "", "allowHTTP": plain} {
			if given {
				w.add(field(path, name), Invalid, "must not be given with inline: nothing is fetched")
			}
		}
		return
	}
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" || len(at) > maxAuthenticationText:
		w.add(field(path, "url"), Invalid, "must be a URL such as https://id.example/keys, without user and fragment, is %q", at)
	case u.Scheme == "http" && !plain:
		w.add(field(path, "url"), Invalid, "must begin with https://: whoever is on the way could give keys of his own (write allowHTTP: true where that is no concern)")
	case u.Scheme == "http" && bundle != "":
		w.add(field(path, "caBundle"), Invalid, "must not be given with http, which verifies nothing")
	}
}

func (w *walker) authenticationSource(path string, source any) {
	header, cookie, query, prefix := str(source, "header"), str(source, "cookie"), str(source, "query"), str(source, "prefix")
	given := 0
	for _, one := range []string{header, cookie, query} {
		if one != "" {
			given++
		}
	}
	switch {
	case given != 1:
		w.add(path, Invalid, "must have one of header, cookie and query")
	case header != "" && (!headerName.MatchString(header) || ownHeaders.MatchString(header)):
		w.add(field(path, "header"), Invalid, "must be the name of a header (RFC 9110 §5.1) that may hold a token, is %q", header)
	case cookie != "" && !cookieName.MatchString(cookie):
		w.add(field(path, "cookie"), Invalid, "must be the name of a cookie (RFC 6265 §4.1.1), is %q", cookie)
	case query != "" && !cookieName.MatchString(query):
		w.add(field(path, "query"), Invalid, "must be the name of a parameter, is %q", query)
	}
	if prefix != "" && header == "" {
		w.add(field(path, "prefix"), Invalid, "must not be given without header")
	}
	if len(prefix) > 64 || strings.ContainsFunc(prefix, func(r rune) bool { return r < ' ' || r > '~' }) {
		w.add(field(path, "prefix"), Invalid, "must be at most 64 printable characters of ASCII, is %q", prefix)
	}
}
