package compile

import (
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/net/http/httpguts"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// compileFilters is what the filters of a rule or backendRef change, nil where there are none.
func compileFilters(filters []gatewayv1.HTTPRouteFilter) *snapshot.Filters {
	if len(filters) == 0 {
		return nil
	}
	compiled := &snapshot.Filters{}
	for i := range filters {
		switch f := &filters[i]; {
		case f.RequestHeaderModifier != nil:
			compiled.Request = fieldChanges(f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			compiled.Response = fieldChanges(f.ResponseHeaderModifier)
		case f.URLRewrite != nil:
			compiled.Path = pathChange(f.URLRewrite.Path)
			if f.URLRewrite.Hostname != nil {
				compiled.Authority = string(*f.URLRewrite.Hostname)
			}
		case f.RequestRedirect != nil:
			compiled.Redirect = redirect(f.RequestRedirect)
		case f.CORS != nil:
			compiled.Cors = cors(f.CORS)
		}
	}
	return compiled
}

// compileMirrors adds the mirrors of a rule. One that does not resolve gets nothing.
func compileMirrors(route *routeDocument, index int, rule *gatewayv1.HTTPRouteRule, services *catalog, problems *refProblems, to *snapshot.Filters) {
	for i := range rule.Filters {
		f := rule.Filters[i].RequestMirror
		if f == nil {
			continue
		}
		ref := &gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: f.BackendRef}}
		backend, reason, problem := resolve(route, ref, services)
		if reason != "" {
			problems.add(reason, fmt.Sprintf("spec.rules[%d].filters[%d].requestMirror.backendRef: %s", index, i, problem))
			continue
		}
		m := &snapshot.Mirror{Backend: backend, Numerator: 100, Denominator: 100}
		if f.Percent != nil {
			m.Numerator = uint32(max(*f.Percent, 0))
		}
		if f.Fraction != nil {
			m.Numerator, m.Denominator = uint32(max(f.Fraction.Numerator, 0)), 100
			if f.Fraction.Denominator != nil {
				m.Denominator = uint32(max(*f.Fraction.Denominator, 1))
			}
		}
		to.Mirrors = append(to.Mirrors, m)
	}
}

func fieldChanges(f *gatewayv1.HTTPHeaderFilter) *snapshot.FieldChanges {
	changes := &snapshot.FieldChanges{Remove: f.Remove}
	for _, h := range f.Set {
		changes.Set = append(changes.Set, &snapshot.Field{Name: string(h.Name), Value: h.Value})
	}
	for _, h := range f.Add {
		changes.Add = append(changes.Add, &snapshot.Field{Name: string(h.Name), Value: h.Value})
	}
	return changes
}

func pathChange(p *gatewayv1.HTTPPathModifier) *snapshot.PathChange {
	switch {
	case p == nil:
		return nil
	case p.ReplacePrefixMatch != nil:
		return &snapshot.PathChange{Prefix: true, Value: *p.ReplacePrefixMatch}
	case p.ReplaceFullPath != nil:
		return &snapshot.PathChange{Value: *p.ReplaceFullPath}
	}
	return nil
}

func redirect(f *gatewayv1.HTTPRequestRedirectFilter) *snapshot.Redirect {
	r := &snapshot.Redirect{Path: pathChange(f.Path), Status: 302}
	if f.Scheme != nil {
		r.Scheme = *f.Scheme
	}
	if f.Hostname != nil {
		r.Hostname = string(*f.Hostname)
	}
	if f.Port != nil {
		r.Port = uint32(*f.Port)
	}
	if f.StatusCode != nil {
		r.Status = uint32(*f.StatusCode)
	}
	return r
}

func cors(f *gatewayv1.HTTPCORSFilter) *snapshot.Cors {
	c := &snapshot.Cors{
		Origins: texts(f.AllowOrigins), Methods: texts(f.AllowMethods), Headers: texts(f.AllowHeaders), Expose: texts(f.ExposeHeaders),
		Credentials: f.AllowCredentials != nil && *f.AllowCredentials, MaxAgeSeconds: 5, // Gateway API's default
	}
	if f.MaxAge > 0 {
		c.MaxAgeSeconds = uint32(f.MaxAge)
	}
	return c
}

func texts[T ~string](from []T) []string {
	var list []string
	for _, t := range from {
		list = append(list, string(t))
	}
	return list
}

// unsupportedFilters names what of a list of filters is not executed; matches are those of their rule. An inner list
// is a backendRef's.
func unsupportedFilters(filters []gatewayv1.HTTPRouteFilter, matches []gatewayv1.HTTPRouteMatch, inner bool) string {
	seen := make(map[gatewayv1.HTTPRouteFilterType]bool)
	for i := range filters {
		f, at := &filters[i], fmt.Sprintf(".filters[%d]", i)
		if seen[f.Type] && f.Type != gatewayv1.HTTPRouteFilterRequestMirror {
			return fmt.Sprintf("%s: there is a filter of type %s already", at, f.Type)
		}
		seen[f.Type] = true
		problem := ""
		switch {
		case f.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			problem = unsupportedChanges(".requestHeaderModifier", f.RequestHeaderModifier)
		case f.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			problem = unsupportedChanges(".responseHeaderModifier", f.ResponseHeaderModifier)
		case f.Type == gatewayv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
			problem = unsupportedPathChange(".urlRewrite", f.URLRewrite.Path, matches)
		case inner && (f.RequestRedirect != nil || f.CORS != nil || f.RequestMirror != nil):
			problem = fmt.Sprintf(": %s is for all requests of a rule; write it in the rule's filters", f.Type)
		case f.Type == gatewayv1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
			problem = unsupportedMirror(f.RequestMirror)
		case f.Type == gatewayv1.HTTPRouteFilterCORS && f.CORS != nil:
			problem = unsupportedCORS(f.CORS)
		case f.Type == gatewayv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
			problem = unsupportedRedirect(f.RequestRedirect, matches)
		default:
			problem = fmt.Sprintf(": filters of type %s are not executed in this version", f.Type)
		}
		if problem != "" {
			return at + problem
		}
	}
	if seen[gatewayv1.HTTPRouteFilterURLRewrite] && seen[gatewayv1.HTTPRouteFilterRequestRedirect] {
		return ".filters: a request that is redirected is not sent, and so cannot be rewritten"
	}
	return ""
}

func unsupportedChanges(at string, f *gatewayv1.HTTPHeaderFilter) string {
	check := func(at, name, value string) string {
		lower := strings.ToLower(name)
		switch {
		case lower == "host":
			return at + ".name: Host is the authority; write urlRewrite.hostname"
		case framing[lower]:
			return fmt.Sprintf("%s.name: %s belongs to one connection or frames the message, and cannot be changed", at, name)
		case !httpguts.ValidHeaderFieldName(name):
			return fmt.Sprintf("%s.name: %q is no field name (RFC 9110 §5.1)", at, name)
		case !httpguts.ValidHeaderFieldValue(value):
			return fmt.Sprintf("%s.value: %q has characters that a field value cannot have (RFC 9110 §5.5)", at, value)
		}
		return ""
	}
	for verb, list := range map[string][]gatewayv1.HTTPHeader{"set": f.Set, "add": f.Add} {
		for i, h := range list {
			if problem := check(fmt.Sprintf("%s.%s[%d]", at, verb, i), string(h.Name), h.Value); problem != "" {
				return problem
			}
		}
	}
	for i, name := range f.Remove {
		if problem := check(fmt.Sprintf("%s.remove[%d]", at, i), name, ""); problem != "" {
			return problem
		}
	}
	return ""
}

func unsupportedMirror(f *gatewayv1.HTTPRequestMirrorFilter) string {
	const at = ".requestMirror"
	if p := f.Percent; p != nil && (*p < 0 || *p > 100) {
		return fmt.Sprintf("%s.percent: must be 0 to 100, is %d", at, *p)
	}
	if f.Fraction == nil {
		return ""
	}
	denominator := int32(100)
	if f.Fraction.Denominator != nil {
		denominator = *f.Fraction.Denominator
	}
	if n := f.Fraction.Numerator; n < 0 || denominator < 1 || n > denominator {
		return fmt.Sprintf("%s.fraction: must be 0 to 1, is %d/%d", at, n, denominator)
	}
	return ""
}

var originForm = regexp.MustCompile(`^(\*|https?://(\*|(\*\.)?[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?)(:[0-9]{1,5})?)$`)

func unsupportedCORS(f *gatewayv1.HTTPCORSFilter) string {
	for i, o := range f.AllowOrigins {
		if !originForm.MatchString(string(o)) || o == "*" && len(f.AllowOrigins) > 1 {
			return fmt.Sprintf(".cors.allowOrigins[%d]: must be https://host or https://*.host with a port or none, or * alone, is %q", i, o)
		}
	}
	for name, list := range map[string][]string{"allowMethods": texts(f.AllowMethods), "allowHeaders": texts(f.AllowHeaders), "exposeHeaders": texts(f.ExposeHeaders)} {
		for i, s := range list {
			if !httpguts.ValidHeaderFieldName(s) || s == "*" && len(list) > 1 {
				return fmt.Sprintf(".cors.%s[%d]: must be a name, or * alone, is %q", name, i, s)
			}
		}
	}
	return ""
}

func unsupportedRedirect(f *gatewayv1.HTTPRequestRedirectFilter, matches []gatewayv1.HTTPRouteMatch) string {
	const at = ".requestRedirect"
	if f.Scheme != nil && *f.Scheme != "http" && *f.Scheme != "https" {
		return fmt.Sprintf("%s.scheme: must be http or https, is %q", at, *f.Scheme)
	}
	if f.StatusCode != nil {
		switch *f.StatusCode {
		case 301, 302, 303, 307, 308:
		default:
			return fmt.Sprintf("%s.statusCode: must be 301, 302, 303, 307 or 308, is %d", at, *f.StatusCode)
		}
	}
	return unsupportedPathChange(at, f.Path, matches)
}

func unsupportedPathChange(at string, p *gatewayv1.HTTPPathModifier, matches []gatewayv1.HTTPRouteMatch) string {
	at += ".path"
	switch {
	case p == nil:
		return ""
	case p.Type == gatewayv1.FullPathHTTPPathModifier && p.ReplaceFullPath != nil:
		return unsupportedTarget(at+".replaceFullPath", *p.ReplaceFullPath)
	case p.Type != gatewayv1.PrefixMatchHTTPPathModifier || p.ReplacePrefixMatch == nil:
		return fmt.Sprintf("%s: must be replaceFullPath or replacePrefixMatch, as its type says, which is %q", at, p.Type)
	}
	for i := range matches {
		if kind, _ := pathOf(matches[i].Path); kind != gatewayv1.PathMatchPathPrefix {
			return fmt.Sprintf("%s.replacePrefixMatch: matches[%d] of the rule matches no prefix", at, i)
		}
	}
	return unsupportedTarget(at+".replacePrefixMatch", *p.ReplacePrefixMatch)
}

// unsupportedTarget says what of a path cannot be sent. Gateway API allows an empty one.
func unsupportedTarget(at, path string) string {
	if path == "" || strings.HasPrefix(path, "/") && pathForm.MatchString(path) {
		return ""
	}
	return fmt.Sprintf("%s: must begin with / and have only characters of a path, is %q", at, path)
}

// hasFilters reports whether a rule changes what passes.
func hasFilters(rules []*snapshot.Rule) bool {
	for _, r := range rules {
		if r.Filters != nil {
			return true
		}
		for _, b := range r.Backends {
			if b.Filters != nil {
				return true
			}
		}
	}
	return false
}
