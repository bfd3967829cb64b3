package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// A splitState is what is there when a service is split.
type splitState struct {
	namespace, service string
	services           []*corev1.Service // of the namespace
	revision           string            // that everything here was read at
	routeName          string
	kind               *api.Kind
	live               *unstructured.Unstructured // the route as it is; nil: there is none
	route              *gatewayv1.HTTPRoute       // the same, or a new one; of a GRPCRoute, what asHTTP makes of it
	calls              *gatewayv1.GRPCRoute       // the route as it is, where it is one
}

// A weighted version of a service.
type weighted struct {
	version string
	weight  int32
}

const maxWeight = 1_000_000 // of Gateway API

// parseWeights reads v1=90 v2=10, or v2 alone.
func parseWeights(args []string) ([]weighted, error) {
	var all []weighted
	total := 0
	for _, arg := range args {
		version, text, given := strings.Cut(arg, "=")
		weight := uint64(1)
		if given {
			var err error
			if weight, err = strconv.ParseUint(text, 10, 32); err != nil || weight > maxWeight {
				return nil, fmt.Errorf("%s: a weight is a number from 0 to %d", arg, maxWeight)
			}
		} else if len(args) > 1 {
			return nil, fmt.Errorf("%s has no weight: where there are several versions, give each one, as %s=10", arg, arg)
		}
		if version == "" {
			return nil, fmt.Errorf("%q names no version; write VERSION=WEIGHT, as v1=90", arg)
		}
		if slices.ContainsFunc(all, func(w weighted) bool { return w.version == version }) {
			return nil, fmt.Errorf("version %s is given twice", version)
		}
		all, total = append(all, weighted{version, int32(weight)}), total+int(weight)
	}
	if len(all) > 0 && total == 0 {
		return nil, errors.New("the weights add up to 0, and every request would be answered with 500: give one version more")
	}
	return all, nil
}

// parseHeaders reads NAME=VALUE of --header.
func parseHeaders(flags []string) ([]gatewayv1.HTTPHeaderMatch, error) {
	var all []gatewayv1.HTTPHeaderMatch
	for _, f := range flags {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("--header must be NAME=VALUE, is %q", f)
		}
		exact := gatewayv1.HeaderMatchExact
		all = append(all, gatewayv1.HTTPHeaderMatch{Type: &exact, Name: gatewayv1.HTTPHeaderName(name), Value: value})
	}
	return all, nil
}

// choose finds the route of the service among all of its namespace, or begins a new one.
func (s *splitState) choose(routes []*unstructured.Unstructured, name string) error {
	var candidates []string
	for _, u := range routes {
		kind, route, calls, err := readRoute(u)
		if err != nil {
			return err
		}
		parents := s.parents(route)
		if name == "" && slices.Contains(parents, s.service) || name == u.GetName() || name == kind.Singular+"/"+u.GetName() {
			candidates = append(candidates, kind.Singular+"/"+u.GetName())
			s.kind, s.routeName, s.live, s.route, s.calls = kind, u.GetName(), u, route, calls
		}
	}
	switch {
	case len(candidates) > 1:
		return fmt.Errorf("service %s/%s has several routes: %s (say with --route which one to edit)", s.namespace, s.service, strings.Join(candidates, ", "))
	case len(candidates) == 1:
		parents := s.parents(s.route)
		if !slices.Contains(parents, s.service) {
			return fmt.Errorf("%s is no route of service %s/%s: its parents are others (name one that is, or add the parentRef)", s.name(), s.namespace, s.service)
		}
		for _, other := range parents {
			if other != s.service {
				return fmt.Errorf("%s is a route of service %s too, which would be split with it (make a route for each of them first)", s.name(), other)
			}
		}
		return nil
	}
	if s.routeName = strings.TrimPrefix(name, api.HTTPRoute.Singular+"/"); name == "" {
		s.routeName = s.service
	}
	s.kind = api.HTTPRoute
	for _, u := range routes {
		if u.GetName() == s.routeName && u.GetKind() == s.kind.Name {
			return fmt.Errorf("%s is there and is no route of service %s/%s (name a new one with --route)", s.name(), s.namespace, s.service)
		}
	}
	s.route = &gatewayv1.HTTPRoute{}
	return nil
}

// name is how the route is called in what is printed.
func (s *splitState) name() string { return s.kind.Singular + "/" + s.routeName }

// parents are the Services of the route's namespace whose route it is, and those of other namespaces as they are called.
func (s *splitState) parents(route *gatewayv1.HTTPRoute) []string {
	var names []string
	for _, ref := range route.Spec.ParentRefs {
		if ref.Kind == nil || *ref.Kind != "Service" || ref.Group == nil || *ref.Group != "" {
			continue
		}
		name := string(ref.Name)
		if ref.Namespace != nil && *ref.Namespace != "" && string(*ref.Namespace) != s.namespace {
			name = string(*ref.Namespace) + "/" + name
		}
		names = append(names, name)
	}
	return names
}

// split returns the rules of the route when its versions have the weights, for the requests that have the headers.
func (s *splitState) split(weights []weighted, headers []gatewayv1.HTTPHeaderMatch, port int32) (*gatewayv1.HTTPRoute, error) {
	number, err := s.portOf(port)
	if err != nil {
		return nil, err
	}
	route := s.route.DeepCopy()
	if s.live == nil {
		group, kind, at := gatewayv1.Group(""), gatewayv1.Kind("Service"), number
		route.Spec.ParentRefs = []gatewayv1.ParentReference{{Group: &group, Kind: &kind, Name: gatewayv1.ObjectName(s.service), Port: &at}}
	}
	everything, err := s.ruleOf(route, nil)
	if err != nil {
		return nil, err
	}
	at := everything
	if len(headers) > 0 {
		if everything < 0 { // who has no such header goes where he went: with a route, what no rule matches is answered with 404
			if s.live == nil {
				route.Spec.Rules = append(route.Spec.Rules, gatewayv1.HTTPRouteRule{BackendRefs: []gatewayv1.HTTPBackendRef{backendRef(s.service, number, 1)}})
				everything = 0
			}
		}
		if at, err = s.ruleOf(route, headers); err != nil {
			return nil, err
		}
	}
	if at < 0 {
		var rule gatewayv1.HTTPRouteRule
		if len(headers) > 0 {
			if everything >= 0 {
				rule = *route.Spec.Rules[everything].DeepCopy() // its timeouts and filters hold for these requests too
			}
			rule.Name, rule.BackendRefs = nil, nil
			rule.Matches = []gatewayv1.HTTPRouteMatch{{Headers: headers}}
			route.Spec.Rules, at = slices.Insert(route.Spec.Rules, 0, rule), 0
		} else {
			route.Spec.Rules, at = append(route.Spec.Rules, rule), len(route.Spec.Rules)
		}
	}
	rule := &route.Spec.Rules[at]
	for i, f := range rule.Filters {
		if f.Type == gatewayv1.HTTPRouteFilterRequestRedirect {
			return nil, fmt.Errorf("spec.rules[%d].filters[%d] of %s redirects these requests, and none of them reaches a version (edit the document)", at, i, s.name())
		}
	}
	rule.BackendRefs, err = s.backends(rule.BackendRefs, weights, number, at)
	return route, err
}

// ruleOf finds the one rule for requests with the headers and nothing else; -1: there is none.
func (s *splitState) ruleOf(route *gatewayv1.HTTPRoute, headers []gatewayv1.HTTPHeaderMatch) (int, error) {
	at := -1
	for i, rule := range route.Spec.Rules {
		hits := 0
		for _, m := range rule.Matches {
			if onlyHeaders(m, headers) {
				hits++
			}
		}
		if hits == 0 && (len(rule.Matches) > 0 || len(headers) > 0) {
			continue
		}
		if len(rule.Matches) > 1 {
			return 0, fmt.Errorf("spec.rules[%d] of %s matches other requests too, which would be split with these (edit the document: make it two rules)", i, s.name())
		}
		if at < 0 { // of several, the first decides
			at = i
		}
	}
	return at, nil
}

// onlyHeaders tells whether a match asks for the headers, with exact values, and nothing else.
func onlyHeaders(m gatewayv1.HTTPRouteMatch, headers []gatewayv1.HTTPHeaderMatch) bool {
	anyPath := m.Path == nil || (m.Path.Type == nil || *m.Path.Type == gatewayv1.PathMatchPathPrefix) && (m.Path.Value == nil || *m.Path.Value == "/")
	if !anyPath || m.Method != nil || len(m.QueryParams) > 0 || len(m.Headers) != len(headers) {
		return false
	}
	for _, want := range headers {
		if !slices.ContainsFunc(m.Headers, func(h gatewayv1.HTTPHeaderMatch) bool {
			return (h.Type == nil || *h.Type == gatewayv1.HeaderMatchExact) && strings.EqualFold(string(h.Name), string(want.Name)) && h.Value == want.Value
		}) {
			return false
		}
	}
	return true
}

// backends gives the versions their weights. What the route says of a version beside its weight stays.
func (s *splitState) backends(now []gatewayv1.HTTPBackendRef, weights []weighted, port int32, rule int) ([]gatewayv1.HTTPBackendRef, error) {
	for i, ref := range now {
		if name := string(ref.Name); s.isOther(ref) || name != s.service && s.versionOf(name) == "" {
			return nil, fmt.Errorf("spec.rules[%d].backendRefs[%d] of %s leads to %s, which is no version of %s (edit the document)", rule, i, s.name(), name, s.service)
		}
	}
	var all []gatewayv1.HTTPBackendRef
	for _, w := range weights {
		name, number, err := s.serviceOf(w.version, port, now)
		if err != nil {
			return nil, err
		}
		ref := backendRef(name, number, w.weight)
		for _, before := range now {
			if string(before.Name) == name {
				ref.Filters = before.Filters
			}
		}
		all = append(all, ref)
	}
	return all, nil
}

func (s *splitState) isOther(ref gatewayv1.HTTPBackendRef) bool {
	return ref.Namespace != nil && *ref.Namespace != "" && string(*ref.Namespace) != s.namespace ||
		ref.Kind != nil && *ref.Kind != "Service" || ref.Group != nil && *ref.Group != ""
}

func backendRef(name string, port, weight int32) gatewayv1.HTTPBackendRef {
	group, kind, ref := gatewayv1.Group(""), gatewayv1.Kind("Service"), gatewayv1.HTTPBackendRef{} // as the controller completes it
	ref.Group, ref.Kind, ref.Name, ref.Port, ref.Weight = &group, &kind, gatewayv1.ObjectName(name), &port, &weight
	return ref
}

// versionOf is the version that a Service selects of the split one; empty where it is none.
func (s *splitState) versionOf(name string) string {
	for _, one := range s.services {
		if one.Name == name && len(one.Spec.Selector) == 2 && one.Spec.Selector[compile.ServiceLabel] == s.service {
			return one.Spec.Selector["version"]
		}
	}
	return ""
}

// serviceOf is the Service that is a version, and its port that stands for one of the split service.
func (s *splitState) serviceOf(version string, port int32, now []gatewayv1.HTTPBackendRef) (string, int32, error) {
	var names []string
	for _, one := range s.services {
		if s.versionOf(one.Name) == version {
			names = append(names, one.Name)
		}
	}
	if len(names) == 0 {
		return "", 0, fmt.Errorf("no Service of namespace %s is version %s of %s (apply one: name %s-%s, selector {%s: %s, version: %s}, ports as those of %s)",
			s.namespace, version, s.service, s.service, version, compile.ServiceLabel, s.service, version, s.service)
	}
	slices.SortStableFunc(names, func(a, b string) int { return s.liking(b, version, now) - s.liking(a, version, now) })
	ports := s.ports(names[0])
	switch {
	case slices.Contains(ports, port):
		return names[0], port, nil
	case len(ports) == 1:
		return names[0], ports[0], nil
	}
	return "", 0, fmt.Errorf("port %d of %s is not a port of Service %s (give it one, or say with --port which)", port, s.service, names[0])
}

// liking orders several Services that are the same version: what the rule has already, then what is named for it.
func (s *splitState) liking(name, version string, now []gatewayv1.HTTPBackendRef) int {
	switch {
	case slices.ContainsFunc(now, func(ref gatewayv1.HTTPBackendRef) bool { return string(ref.Name) == name }):
		return 2
	case name == s.service+"-"+version:
		return 1
	}
	return 0
}

func (s *splitState) ports(service string) []int32 {
	var ports []int32
	for _, one := range s.services {
		if one.Name == service {
			for _, p := range one.Spec.Ports {
				ports = append(ports, p.Port)
			}
		}
	}
	return ports
}

// portOf is the port of the service that is split: what --port or the route says, or the only one.
func (s *splitState) portOf(given int32) (int32, error) {
	for _, ref := range s.route.Spec.ParentRefs {
		if string(ref.Name) == s.service && ref.Port != nil {
			if given != 0 && given != *ref.Port {
				return 0, fmt.Errorf("%s is of port %d of %s, not of %d (leave --port out, or name another --route)", s.name(), *ref.Port, s.service, given)
			}
			return *ref.Port, nil
		}
	}
	if given != 0 {
		return given, nil
	}
	ports := s.ports(s.service)
	for _, one := range s.services { // a service without a document has the ports of its versions
		if len(ports) == 0 && s.versionOf(one.Name) != "" {
			ports = s.ports(one.Name)
		}
	}
	if len(ports) != 1 {
		return 0, fmt.Errorf("service %s/%s has %s (say with --port which one is split)", s.namespace, s.service, counted(len(ports), "port"))
	}
	return ports[0], nil
}

// document is the route with the rules, to be applied where nobody changed it meanwhile.
func (s *splitState) document(route *gatewayv1.HTTPRoute) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	from := splitFromNothing
	if s.live != nil {
		u.Object, from = compared(s.live), s.revision
	}
	u.SetGroupVersionKind(s.kind.GVK())
	u.SetNamespace(s.namespace)
	u.SetName(s.routeName)
	if s.live != nil {
		u.SetResourceVersion(s.live.GetResourceVersion())
	}
	spec, err := json.Marshal(s.specOf(route))
	if err != nil {
		return nil, fmt.Errorf("encode the route: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(spec, &fields); err != nil {
		return nil, fmt.Errorf("encode the route: %w", err)
	}
	if s.sameRules(route) { // what the last split did stays what --undo undoes
		return u, nil
	}
	for _, field := range []string{"parentRefs", "rules"} {
		if err := unstructured.SetNestedField(u.Object, fields[field], "spec", field); err != nil {
			return nil, fmt.Errorf("encode the route: %w", err)
		}
	}
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[splitFrom] = from
	u.SetAnnotations(annotations)
	return u, nil
}

// sameRules tells whether the split changes nothing.
func (s *splitState) sameRules(route *gatewayv1.HTTPRoute) bool {
	if s.live == nil || len(s.route.Spec.Rules) != len(route.Spec.Rules) {
		return false
	}
	was, err1 := json.Marshal(s.route.Spec.Rules)
	is, err2 := json.Marshal(route.Spec.Rules)
	return err1 == nil && err2 == nil && string(was) == string(is)
}
