package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ruleShares say what becomes of the requests of one rule.
type ruleShares struct {
	Requests string         `json:"requests"`
	Backends []versionShare `json:"backends"`
}

type versionShare struct {
	Version string  `json:"version,omitempty"`
	Service string  `json:"service"`
	Weight  int32   `json:"weight"`
	Share   float64 `json:"share"` // 0 to 1
}

// shares are those of all rules of a route, in the order of the document.
func (s *splitState) shares(route *gatewayv1.HTTPRoute) []ruleShares {
	all := []ruleShares{}
	for _, rule := range route.Spec.Rules {
		one := ruleShares{Requests: requestsOf(rule.Matches), Backends: []versionShare{}}
		total := 0.0
		for _, ref := range rule.BackendRefs {
			total += float64(weightOf(ref))
		}
		for _, ref := range rule.BackendRefs {
			share := 0.0
			if total > 0 {
				share = math.Round(float64(weightOf(ref))/total*1e4) / 1e4
			}
			one.Backends = append(one.Backends, versionShare{s.versionOf(string(ref.Name)), string(ref.Name), weightOf(ref), share})
		}
		all = append(all, one)
	}
	return all
}

func weightOf(ref gatewayv1.HTTPBackendRef) int32 {
	if ref.Weight == nil {
		return 1
	}
	return *ref.Weight
}

// requestsOf says in words what matches ask for.
func requestsOf(matches []gatewayv1.HTTPRouteMatch) string {
	var all []string
	for _, m := range matches {
		var parts []string
		if m.Method != nil {
			parts = append(parts, string(*m.Method))
		}
		if !onlyHeaders(gatewayv1.HTTPRouteMatch{Path: m.Path}, nil) {
			kind, value := gatewayv1.PathMatchPathPrefix, ""
			if m.Path.Type != nil {
				kind = *m.Path.Type
			}
			if m.Path.Value != nil {
				value = *m.Path.Value
			}
			parts = append(parts, strings.TrimSuffix("path "+value+" ("+string(kind)+")", " ("+string(gatewayv1.PathMatchPathPrefix)+")"))
		}
		for _, h := range m.Headers {
			parts = append(parts, string(h.Name)+": "+h.Value)
		}
		for _, q := range m.QueryParams {
			parts = append(parts, "?"+string(q.Name)+"="+q.Value)
		}
		if len(parts) > 0 {
			all = append(all, strings.Join(parts, ", "))
		} else {
			all = append(all, "all others")
		}
	}
	if len(all) == 0 {
		return "all others"
	}
	return strings.Join(all, " or ")
}

func showShares(w io.Writer, all []ruleShares) error {
	rows := [][]string{{"REQUESTS", "VERSION", "SERVICE", "SHARE"}}
	for _, rule := range all {
		for _, b := range rule.Backends {
			rows = append(rows, []string{rule.Requests, orDash(b.Version), b.Service, strconv.FormatFloat(b.Share*100, 'f', -1, 64) + " %"})
		}
		if len(rule.Backends) == 0 {
			rows = append(rows, []string{rule.Requests, "-", "-", "-"})
		}
	}
	if len(rows) == 1 {
		_, err := fmt.Fprintln(w, "without a route, requests go to all instances of the service")
		return err
	}
	return (&table{out: w}).print(rows)
}
