package compile

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// unsupported names the first field of a route that this version does not execute or cannot read, with the
// reason; it is empty where all can be executed. A route is taken whole or not at all.
func unsupported(route *gatewayv1.HTTPRoute) string {
	if d := route.Spec.UseDefaultGateways; d != "" && d != gatewayv1.GatewayDefaultScopeNone {
		return "spec.useDefaultGateways is not supported in this version"
	}
	for i := range route.Spec.Rules {
		rule := &route.Spec.Rules[i]
		at := fmt.Sprintf("spec.rules[%d]", i)
		if problem := unsupportedFilters(rule.Filters, rule.Matches, false); problem != "" {
			return at + problem
		}
		if problem := unsupportedRetry(rule.Retry); problem != "" {
			return at + ".retry" + problem
		}
		if problem := unsupportedSession(rule.SessionPersistence); problem != "" {
			return at + ".sessionPersistence" + problem
		}
		for j := range rule.BackendRefs {
			ref := &rule.BackendRefs[j]
			if problem := unsupportedFilters(ref.Filters, rule.Matches, true); problem != "" {
				return fmt.Sprintf("%s.backendRefs[%d]%s", at, j, problem)
			}
			if ref.Weight != nil && (*ref.Weight < 0 || *ref.Weight > 1_000_000) {
				return fmt.Sprintf("%s.backendRefs[%d].weight: must be 0 to 1000000, is %d", at, j, *ref.Weight)
			}
		}
		if problem := unsupportedTimeouts(rule.Timeouts); problem != "" {
			return at + ".timeouts" + problem
		}
		for j := range rule.Matches {
			if problem := unsupportedMatch(&rule.Matches[j]); problem != "" {
				return fmt.Sprintf("%s.matches[%d]%s", at, j, problem)
			}
		}
	}
	return ""
}

func unsupportedTimeouts(t *gatewayv1.HTTPRouteTimeouts) string {
	if t == nil {
		return ""
	}
	request, err := duration(t.Request)
	if err != nil {
		return ".request: " + err.Error()
	}
	backend, err := duration(t.BackendRequest)
	if err != nil {
		return ".backendRequest: " + err.Error()
	}
	if request > 0 && backend > request {
		return fmt.Sprintf(".backendRequest: %s is more than the %s of .request, which encompasses it", *t.BackendRequest, *t.Request)
	}
	return ""
}

var durationForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// duration reads a duration of GEP-2257. An absent one is zero, and zero means no timeout.
func duration(d *gatewayv1.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if !durationForm.MatchString(string(*d)) {
		return 0, fmt.Errorf("%q is not a duration such as 1m30s or 250ms (GEP-2257)", *d)
	}
	return time.ParseDuration(string(*d))
}

func unsupportedMatch(m *gatewayv1.HTTPRouteMatch) string {
	if m.Path != nil {
		if problem := unsupportedPath(m.Path); problem != "" {
			return ".path" + problem
		}
	}
	if m.Method != nil && *m.Method == "" {
		return ".method: must not be empty"
	}
	for i, h := range m.Headers {
		if problem := unsupportedHeader(string(h.Name), (*string)(h.Type), h.Value); problem != "" {
			return fmt.Sprintf(".headers[%d]%s", i, problem)
		}
	}
	for i, q := range m.QueryParams {
		kind := gatewayv1.QueryParamMatchExact
		if q.Type != nil {
			kind = *q.Type
		}
		if problem := unsupportedValue(string(q.Name), string(kind), q.Value); problem != "" {
			return fmt.Sprintf(".queryParams[%d]%s", i, problem)
		}
	}
	return ""
}

func unsupportedHeader(name string, kind *string, value string) string {
	if framing[strings.ToLower(name)] {
		return fmt.Sprintf(".name: %s belongs to one connection or frames the message, and cannot be matched", name)
	}
	of := string(gatewayv1.HeaderMatchExact)
	if kind != nil {
		of = *kind
	}
	return unsupportedValue(name, of, value)
}

// framing are the fields that a head does not hold (exchange.Request.Fields), in lower case: a rule on
// them could never match.
var framing = map[string]bool{
	"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "transfer-encoding": true,
	"upgrade": true, "content-length": true, "expect": true,
}

func unsupportedValue(name, kind, value string) string {
	switch {
	case name == "":
		return ".name: must not be empty"
	case kind == "RegularExpression":
		return unsupportedRegexp(value)
	case kind != "Exact":
		return fmt.Sprintf(".type: must be Exact or RegularExpression, is %s", kind)
	}
	return ""
}

func unsupportedRegexp(pattern string) string {
	if _, err := regexp.Compile(pattern); err != nil {
		return fmt.Sprintf(".value: not a regular expression of RE2: %v", err)
	}
	return ""
}

var pathForm = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)

// unsupportedPath repeats what Gateway API's schema says of a path, for the compiler must not depend on
// how a document came in.
func unsupportedPath(p *gatewayv1.HTTPPathMatch) string {
	kind, value := pathOf(p)
	switch kind {
	case gatewayv1.PathMatchRegularExpression:
		return unsupportedRegexp(value)
	case gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix:
	default:
		return fmt.Sprintf(".type: must be Exact, PathPrefix or RegularExpression, is %s", kind)
	}
	switch {
	case !strings.HasPrefix(value, "/"):
		return fmt.Sprintf(".value: must begin with /, is %q", value)
	case !pathForm.MatchString(value):
		return fmt.Sprintf(".value: %q has characters that a path cannot have", value)
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(value, bad) {
			return fmt.Sprintf(".value: must not contain %s, is %q", bad, value)
		}
	}
	if strings.HasSuffix(value, "/.") || strings.HasSuffix(value, "/..") {
		return fmt.Sprintf(".value: must not end with a dot segment, is %q", value)
	}
	return ""
}

// pathOf is a path match with Gateway API's defaults.
func pathOf(p *gatewayv1.HTTPPathMatch) (gatewayv1.PathMatchType, string) {
	kind, value := gatewayv1.PathMatchPathPrefix, "/"
	if p != nil && p.Type != nil {
		kind = *p.Type
	}
	if p != nil && p.Value != nil {
		value = *p.Value
	}
	return kind, value
}
