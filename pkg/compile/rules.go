package compile

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// compileRules makes an entry of each match of a route. What cannot be resolved is in the problems, and
// its share of the requests is answered with 500.
func compileRules(route *routeDocument, services *catalog) ([]*entry, *refProblems) {
	problems := &refProblems{}
	rules := route.Spec.Rules
	if len(rules) == 0 {
		rules = []gatewayv1.HTTPRouteRule{{}} // Gateway API's default: everything matches
	}
	var entries []*entry
	for i := range rules {
		compiled := compileActions(route, i, &rules[i], services, problems)
		for j, e := range route.matches(i) {
			e.rule.Origin = fmt.Sprintf("%s/%s/%s#%d/%d", route.kind.Singular, route.Namespace, route.Name, i, j)
			e.rule.Backends = compiled.Backends
			e.rule.TimeoutMs, e.rule.BackendTimeoutMs = compiled.TimeoutMs, compiled.BackendTimeoutMs
			e.rule.Answer, e.rule.AnswerReason, e.rule.Filters = compiled.Answer, compiled.AnswerReason, compiled.Filters
			e.rule.Retry, e.rule.HedgeDelayMs, e.rule.Session = compiled.Retry, compiled.HedgeDelayMs, compiled.Session
			e.route, e.position = route, len(entries)
			entries = append(entries, e)
		}
	}
	return entries, problems
}

// compileActions is what a rule does with a request, the same for all of its matches.
func compileActions(route *routeDocument, index int, rule *gatewayv1.HTTPRouteRule, services *catalog, problems *refProblems) *snapshot.Rule {
	compiled := &snapshot.Rule{Filters: compileFilters(rule.Filters), Retry: compileRetry(rule.Retry)}
	policy := services.routePolicy(route)
	if compiled.HedgeDelayMs = policy.GetHedgeDelayMs(); compiled.Retry == nil {
		compiled.Retry = policy.GetRetry()
	}
	compiled.Session = compileSession(rule.SessionPersistence, route, sessionRule(rule, index))
	total := uint64(0)
	compileMirrors(route, index, rule, services, problems, compiled.Filters)
	if rule.Timeouts != nil {
		// What cannot be read was refused, and the rule is not used.
		request, _ := duration(rule.Timeouts.Request)
		backend, _ := duration(rule.Timeouts.BackendRequest)
		compiled.TimeoutMs, compiled.BackendTimeoutMs = uint64(request.Milliseconds()), uint64(backend.Milliseconds())
	}
	for j := range rule.BackendRefs {
		ref := &rule.BackendRefs[j]
		weight := uint32(1)
		if ref.Weight != nil {
			weight = uint32(max(*ref.Weight, 0))
		}
		backend, reason, problem := resolve(route, ref, services)
		if reason != "" {
			problem = fmt.Sprintf("spec.rules[%d].backendRefs[%d]: %s", index, j, problem)
			problems.add(reason, problem)
			backend.Answer, backend.AnswerReason = route.unresolved(), problem
		}
		total += uint64(weight)
		if weight > 0 || compiled.Session != nil { // sessions go on where no new ones begin
			backend.Weight, backend.Filters = weight, compileFilters(ref.Filters)
			compiled.Backends = append(compiled.Backends, backend)
		}
	}
	if total == 0 && compiled.Filters.GetRedirect() == nil {
		compiled.Answer, compiled.AnswerReason = route.unresolved(), "the rule has no backendRefs"
		if len(rule.BackendRefs) > 0 {
			compiled.AnswerReason = "the weights of all backendRefs are 0"
		}
	}
	return compiled
}

// resolve finds what a backendRef names. In the mesh a Service of another namespace needs no ReferenceGrant: its
// callers may call it as they are (GEP-1294, "Namespace boundaries"). Those outside could not.
func resolve(route *routeDocument, ref *gatewayv1.HTTPBackendRef, services *catalog) (*snapshot.Backend, gatewayv1.RouteConditionReason, string) {
	name := exchange.ServiceName{Namespace: route.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	unresolved := &snapshot.Backend{Namespace: name.Namespace, Service: name.Name}
	if ref.Port != nil {
		unresolved.Port = snapshot.PortID(uint16(max(*ref.Port, 0)), route.kind == api.UDPRoute) // the schema says that it is not larger
	}
	group, kind := "", "Service"
	if ref.Group != nil {
		group = string(*ref.Group)
	}
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if (group != "" || kind != "Service") && (group != api.ExternalServices.Group || kind != api.ExternalServices.Name) {
		return unresolved, gatewayv1.RouteReasonInvalidKind, fmt.Sprintf("kind %s in group %q is not supported; a backend is a Service of the core group, or an ExternalService of group sennit.dev", kind, group)
	}
	if services.outside && !services.grants.allow(reference{gatewayv1.GroupName, route.kind.Name, route.Namespace}, referred{group, kind, name.Namespace, name.Name}) {
		return unresolved, gatewayv1.RouteReasonRefNotPermitted, fmt.Sprintf("%s %s is of another namespace, and no ReferenceGrant there lets %ss of namespace %s name it", kind, name, route.kind.Name, route.Namespace)
	}
	s, problem := services.find(kind, name)
	if problem != "" {
		return unresolved, gatewayv1.RouteReasonBackendNotFound, problem
	}
	if ref.Port == nil && s.outside != nil {
		unresolved.Port = s.ports[0].number
	} else if ref.Port == nil {
		return unresolved, gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("port is missing; Service %s needs one", name)
	}
	port, known := s.port(unresolved.Port)
	if !known {
		return unresolved, gatewayv1.RouteReasonBackendNotFound, fmt.Sprintf("%s %s has no port %s", kind, name, PortName(unresolved.Port))
	}
	switch {
	case s.outside != nil && route.kind == api.UDPRoute:
		return unresolved, gatewayv1.RouteReasonUnsupportedProtocol, fmt.Sprintf("%s %s is for connections, and a UDPRoute brings datagrams", kind, name)
	case ofConnections(route.kind):
		if s.outside != nil && isHTTP(port.protocol) {
			return unresolved, gatewayv1.RouteReasonUnsupportedProtocol, fmt.Sprintf("%s %s is for HTTP, and a %s brings connections; write spec.protocol: TCP", kind, name, route.kind.Name)
		}
	case port.declared && !isHTTP(port.protocol):
		return unresolved, gatewayv1.RouteReasonUnsupportedProtocol, fmt.Sprintf("port %d of %s %s is not HTTP, as it says itself", port.number, kind, name)
	}
	return s.backend(port.number, 0), "", ""
}

// compileMatch is one match, with what decides on its precedence. A match of everything is an absent one.
func compileMatch(m *gatewayv1.HTTPRouteMatch) *entry {
	e := &entry{rule: &snapshot.Rule{}, pathKind: prefixPath}
	match := &snapshot.Match{}
	kind, value := pathOf(m.Path)
	switch kind {
	case gatewayv1.PathMatchExact:
		e.pathKind = exactPath
		match.Path = &snapshot.StringMatch{Kind: snapshot.StringMatch_EXACT, Value: value}
	case gatewayv1.PathMatchRegularExpression:
		e.pathKind = regexPath
		match.Path = &snapshot.StringMatch{Kind: snapshot.StringMatch_REGEX, Value: value}
	default:
		value = strings.TrimSuffix(value, "/") // "a trailing / is ignored"
		if value != "" {
			match.Path = &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: value}
		}
	}
	e.pathLength = len(value)
	if m.Method != nil {
		match.Method, e.method = string(*m.Method), 1
	}
	// Of several entries for one name only the first counts.
	seen := make(map[string]bool)
	for _, h := range m.Headers {
		if name := strings.ToLower(string(h.Name)); !seen[name] {
			seen[name] = true
			match.Headers = append(match.Headers, fieldMatch(name, h.Type != nil && *h.Type == gatewayv1.HeaderMatchRegularExpression, h.Value))
		}
	}
	clear(seen)
	for _, q := range m.QueryParams {
		if name := string(q.Name); !seen[name] {
			seen[name] = true
			match.Query = append(match.Query, fieldMatch(name, q.Type != nil && *q.Type == gatewayv1.QueryParamMatchRegularExpression, q.Value))
		}
	}
	e.headers, e.query = len(match.Headers), len(match.Query)
	if match.Path != nil || match.Method != "" || e.headers > 0 || e.query > 0 {
		e.rule.Match = match
	}
	return e
}

func fieldMatch(name string, isRegexp bool, value string) *snapshot.FieldMatch {
	kind := snapshot.StringMatch_EXACT
	if isRegexp {
		kind = snapshot.StringMatch_REGEX
	}
	return &snapshot.FieldMatch{Name: name, Value: &snapshot.StringMatch{Kind: kind, Value: value}}
}
