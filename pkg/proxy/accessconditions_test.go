package proxy

import (
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestWhatIsDecidedOn has each thing that a policy may ask for reach the decision from a real lane and a real request.
func TestWhatIsDecidedOn(t *testing.T) {
	from := func(s *snapshot.AuthorizationSource) *snapshot.AuthorizationRule {
		return &snapshot.AuthorizationRule{From: []*snapshot.AuthorizationSource{s}}
	}
	to := func(o *snapshot.AuthorizationOperation) *snapshot.AuthorizationRule {
		return &snapshot.AuthorizationRule{To: []*snapshot.AuthorizationOperation{o}}
	}
	tenant := []*snapshot.AuthorizationHeader{{Name: "x-tenant", Value: "a"}}
	p := startPair(t, http11, nil, startProcess(t, func(http.ResponseWriter, *http.Request) {}))
	for _, tt := range []struct {
		name   string
		rule   *snapshot.AuthorizationRule
		status int
	}{
		{"its node", from(&snapshot.AuthorizationSource{Nodes: []string{"web1"}}), 200},
		{"another node", from(&snapshot.AuthorizationSource{Nodes: []string{"web2"}}), 403},
		{"its trust domain", from(&snapshot.AuthorizationSource{TrustDomains: []string{"test"}}), 200},
		{"another trust domain", from(&snapshot.AuthorizationSource{NotTrustDomains: []string{"test"}}), 403},
		{"a header", to(&snapshot.AuthorizationOperation{Headers: tenant}), 200},
		{"no such header", to(&snapshot.AuthorizationOperation{NotHeaders: tenant}), 403},
		{"a host", to(&snapshot.AuthorizationOperation{Hosts: []string{"orders"}}), 200},
		{"another host", to(&snapshot.AuthorizationOperation{NotHosts: []string{"orders"}}), 403},
	} {
		p.restrict(&snapshot.AuthorizationPolicy{Origin: "shop/p", Rules: []*snapshot.AuthorizationRule{tt.rule}})
		request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://ORDERS:80/", nil)
		request.Header.Set("X-Tenant", "a")
		response, err := p.client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != tt.status {
			t.Errorf("%s: %s", tt.name, response.Status)
		}
		p.ended()
	}
}
