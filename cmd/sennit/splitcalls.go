package main

import (
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// readRoute reads a route of either kind as an HTTPRoute; calls is the GRPCRoute where it is one.
func readRoute(u *unstructured.Unstructured) (kind *api.Kind, route *gatewayv1.HTTPRoute, calls *gatewayv1.GRPCRoute, err error) {
	if u.GetKind() == api.GRPCRoute.Name {
		calls = &gatewayv1.GRPCRoute{}
		if err := api.As(u, calls); err != nil {
			return nil, nil, nil, err
		}
		return api.GRPCRoute, asHTTP(calls), calls, nil
	}
	route = &gatewayv1.HTTPRoute{}
	return api.HTTPRoute, route, nil, api.As(u, route)
}

// asHTTP shows a GRPCRoute as an HTTPRoute, whose rules are named for those that they were: specOf goes back by that.
func asHTTP(calls *gatewayv1.GRPCRoute) *gatewayv1.HTTPRoute {
	route := &gatewayv1.HTTPRoute{ObjectMeta: calls.ObjectMeta}
	route.Spec.CommonRouteSpec, route.Spec.Hostnames = calls.Spec.CommonRouteSpec, calls.Spec.Hostnames
	for i := range calls.Spec.Rules {
		from := &calls.Spec.Rules[i]
		name := gatewayv1.SectionName(strconv.Itoa(i))
		rule := gatewayv1.HTTPRouteRule{Name: &name, Filters: filtersAsHTTP(from.Filters)}
		for j := range from.Matches {
			rule.Matches = append(rule.Matches, matchAsHTTP(&from.Matches[j]))
		}
		for _, ref := range from.BackendRefs {
			rule.BackendRefs = append(rule.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: ref.BackendRef, Filters: filtersAsHTTP(ref.Filters)})
		}
		route.Spec.Rules = append(route.Spec.Rules, rule)
	}
	return route
}

func matchAsHTTP(m *gatewayv1.GRPCRouteMatch) gatewayv1.HTTPRouteMatch {
	match := gatewayv1.HTTPRouteMatch{}
	for _, h := range m.Headers {
		match.Headers = append(match.Headers, gatewayv1.HTTPHeaderMatch{Type: (*gatewayv1.HeaderMatchType)(h.Type), Name: gatewayv1.HTTPHeaderName(h.Name), Value: h.Value})
	}
	if m.Method != nil {
		kind, path := gatewayv1.PathMatchPathPrefix, "/" // shown as it is
		if m.Method.Type != nil && *m.Method.Type != gatewayv1.GRPCMethodMatchExact {
			kind = gatewayv1.PathMatchType(*m.Method.Type)
		}
		for _, part := range []*string{m.Method.Service, m.Method.Method} {
			if path != "/" {
				path += "/"
			}
			if part == nil || *part == "" {
				path += "*"
			} else {
				path += *part
			}
		}
		match.Path = &gatewayv1.HTTPPathMatch{Type: &kind, Value: &path}
	}
	return match
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

func filtersAsGRPC(filters []gatewayv1.HTTPRouteFilter) []gatewayv1.GRPCRouteFilter {
	var all []gatewayv1.GRPCRouteFilter
	for _, f := range filters {
		all = append(all, gatewayv1.GRPCRouteFilter{
			Type: gatewayv1.GRPCRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return all
}

// specOf is what the document says of a route that was split: of a GRPCRoute, all but the backends of a rule is as it
// was, and a rule that is new asks for headers alone.
func (s *splitState) specOf(route *gatewayv1.HTTPRoute) any {
	if s.calls == nil {
		return route.Spec
	}
	spec := *s.calls.Spec.DeepCopy()
	spec.Rules = nil
	for _, from := range route.Spec.Rules {
		rule := gatewayv1.GRPCRouteRule{Filters: filtersAsGRPC(from.Filters)}
		if from.Name != nil {
			i, _ := strconv.Atoi(string(*from.Name))
			rule = *s.calls.Spec.Rules[i].DeepCopy()
		} else {
			for _, m := range from.Matches {
				match := gatewayv1.GRPCRouteMatch{}
				for _, h := range m.Headers {
					match.Headers = append(match.Headers, gatewayv1.GRPCHeaderMatch{Type: (*gatewayv1.GRPCHeaderMatchType)(h.Type), Name: gatewayv1.GRPCHeaderName(h.Name), Value: h.Value})
				}
				rule.Matches = append(rule.Matches, match)
			}
		}
		rule.BackendRefs = nil
		for _, ref := range from.BackendRefs {
			rule.BackendRefs = append(rule.BackendRefs, gatewayv1.GRPCBackendRef{BackendRef: ref.BackendRef, Filters: filtersAsGRPC(ref.Filters)})
		}
		spec.Rules = append(spec.Rules, rule)
	}
	return spec
}
