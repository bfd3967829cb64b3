package main

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// splitStateOf knows versions v1 and v2 of orders, and a route.
func splitStateOf(t *testing.T, route string) (*splitState, error) {
	t.Helper()
	s := &splitState{namespace: "default", service: "orders", revision: "7"}
	for _, version := range []string{"v1", "v2"} {
		s.services = append(s.services, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "orders-" + version},
			Spec: corev1.ServiceSpec{
				Selector: map[string]string{"sennit.dev/service": "orders", "version": version}, Ports: []corev1.ServicePort{{Port: 80}},
			},
		})
	}
	docs, err := api.Decode("route.yaml", []byte(`{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: orders, namespace: default}, spec: {`+route+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	docs[0].Object.SetResourceVersion("5")
	return s, s.choose([]*unstructured.Unstructured{docs[0].Object}, "")
}

const ofOrders = `parentRefs: [{group: "", kind: Service, name: orders, port: 80}], `

// TestASplitIsOfWhatWasShown: what is applied names the version that was read, so that it is refused where somebody
// changed the route since, and the revision to which an undo goes back.
func TestASplitIsOfWhatWasShown(t *testing.T) {
	s, err := splitStateOf(t, ofOrders+`rules: [{backendRefs: [{name: orders-v1, port: 80}]}]`)
	if err != nil {
		t.Fatal(err)
	}
	route, err := s.split([]weighted{{"v2", 1}}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.document(route)
	if err != nil {
		t.Fatal(err)
	}
	if u.GetResourceVersion() != "5" || u.GetAnnotations()[splitFrom] != "7" {
		t.Errorf("version %q, from %q", u.GetResourceVersion(), u.GetAnnotations()[splitFrom])
	}
}

// TestSplitsThatAreRefused: what a split would change beside what it was asked for is left alone.
func TestSplitsThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, route, want string }{
		{"a second service's route", `parentRefs: [{group: "", kind: Service, name: orders, port: 80}, {group: "", kind: Service, name: payments, port: 80}]`, "is a route of service payments too"},
		{"a rule for other requests too", ofOrders + `rules: [{matches: [{path: {value: /}}, {method: PUT}], backendRefs: [{name: orders-v1, port: 80}]}]`, "make it two rules"},
		{"a redirect", ofOrders + `rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: a.example}}]}]`, "redirects these requests"},
		{"another service behind it", ofOrders + `rules: [{backendRefs: [{name: payments, port: 80}]}]`, "leads to payments, which is no version of orders"},
		{"another route of its name", `parentRefs: [{name: edge}]`, "name a new one with --route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := splitStateOf(t, tt.route)
			if err == nil {
				_, err = s.split([]weighted{{"v1", 90}, {"v2", 10}}, nil, 0)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
