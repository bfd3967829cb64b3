package compile

import (
	"fmt"
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// asHTTP is what a GRPCRoute shares with an HTTPRoute: all but its matches.
func asHTTP(route *gatewayv1.GRPCRoute) *gatewayv1.HTTPRoute {
	as := &gatewayv1.HTTPRoute{ObjectMeta: route.ObjectMeta}
	as.Spec.CommonRouteSpec, as.Spec.Hostnames = route.Spec.CommonRouteSpec, route.Spec.Hostnames
	for i := range route.Spec.Rules {
		from := &route.Spec.Rules[i]
		rule := gatewayv1.HTTPRouteRule{Name: from.Name, Filters: filtersAsHTTP(from.Filters), SessionPersistence: from.SessionPersistence}
		for _, ref := range from.BackendRefs {
			rule.BackendRefs = append(rule.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: ref.BackendRef, Filters: filtersAsHTTP(ref.Filters)})
		}
		as.Spec.Rules = append(as.Spec.Rules, rule)
	}
	return as
}

func filtersAsHTTP(filters []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var all []gatewayv1.HTTPRouteFilter
	for _, f := range filters {
		all = append(all, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return all
}

// compileCalls makes an entry of each match of a rule: a call is a POST of /SERVICE/METHOD (gRPC, "Requests").
func compileCalls(route *gatewayv1.GRPCRoute, rule int) []*entry {
	var matches []gatewayv1.GRPCRouteMatch
	if len(route.Spec.Rules) > 0 {
		matches = route.Spec.Rules[rule].Matches
	}
	if len(matches) == 0 {
		matches = []gatewayv1.GRPCRouteMatch{{}}
	}
	entries := make([]*entry, len(matches))
	for i := range matches {
		entries[i] = compileCall(&matches[i])
	}
	return entries
}

func compileCall(m *gatewayv1.GRPCRouteMatch) *entry {
	kind, service, method := callOf(m.Method)
	match := &snapshot.Match{Method: "POST", Path: callPath(kind, service, method)}
	seen := make(map[string]bool) // of several entries for one name only the first counts
	for _, h := range m.Headers {
		if name := strings.ToLower(string(h.Name)); !seen[name] {
			seen[name] = true
			match.Headers = append(match.Headers, fieldMatch(name, h.Type != nil && *h.Type == gatewayv1.GRPCHeaderMatchRegularExpression, h.Value))
		}
	}
	return &entry{rule: &snapshot.Rule{Match: match}, pathLength: len(service), method: len(method), headers: len(match.Headers)}
}

// callPath is the path of the calls that a method match takes; nil: of all.
func callPath(kind gatewayv1.GRPCMethodMatchType, service, method string) *snapshot.StringMatch {
	exact := kind == gatewayv1.GRPCMethodMatchExact
	switch {
	case service == "" && method == "":
		return nil
	case exact && method == "":
		return &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/" + service}
	case exact && service != "":
		return &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: "/" + service + "/" + method}
	}
	part := func(value string) string {
		switch {
		case value == "":
			return "[^/]+"
		case exact:
			return regexp.QuoteMeta(value)
		}
		return "(?:" + value + ")"
	}
	return &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: "/" + part(service) + "/" + part(method)}
}

// callOf is a method match with Gateway API's defaults.
func callOf(m *gatewayv1.GRPCMethodMatch) (kind gatewayv1.GRPCMethodMatchType, service, method string) {
	kind = gatewayv1.GRPCMethodMatchExact
	if m == nil {
		return kind, "", ""
	}
	if m.Type != nil {
		kind = *m.Type
	}
	if m.Service != nil {
		service = *m.Service
	}
	if m.Method != nil {
		method = *m.Method
	}
	return kind, service, method
}

var (
	callService = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	callMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// unsupportedCalls names the first match of a GRPCRoute that cannot be read; it repeats what Gateway API's schema says,
// for the compiler must not depend on how a document came in.
func unsupportedCalls(route *gatewayv1.GRPCRoute) string {
	for i := range route.Spec.Rules {
		for j := range route.Spec.Rules[i].Matches {
			m := &route.Spec.Rules[i].Matches[j]
			at := fmt.Sprintf("spec.rules[%d].matches[%d]", i, j)
			if m.Method != nil {
				if problem := unsupportedCall(m.Method); problem != "" {
					return at + ".method" + problem
				}
			}
			for k, h := range m.Headers {
				if problem := unsupportedHeader(string(h.Name), (*string)(h.Type), h.Value); problem != "" {
					return fmt.Sprintf("%s.headers[%d]%s", at, k, problem)
				}
			}
		}
	}
	return ""
}

func unsupportedCall(m *gatewayv1.GRPCMethodMatch) string {
	kind, service, method := callOf(m)
	if service == "" && method == "" {
		return ": must have a service or a method"
	}
	for _, part := range []struct {
		name, value string
		form        *regexp.Regexp
	}{{"service", service, callService}, {"method", method, callMethod}} {
		switch {
		case part.value == "":
		case kind == gatewayv1.GRPCMethodMatchRegularExpression:
			if _, err := regexp.Compile(part.value); err != nil { // alone, so that "a)|(b" is no expression
				return fmt.Sprintf(".%s: not a regular expression of RE2: %v", part.name, err)
			}
		case kind != gatewayv1.GRPCMethodMatchExact:
			return fmt.Sprintf(".type: must be Exact or RegularExpression, is %s", kind)
		case !part.form.MatchString(part.value):
			return fmt.Sprintf(".%s: %q has characters that the name of a %s cannot have", part.name, part.value, part.name)
		}
	}
	return ""
}
