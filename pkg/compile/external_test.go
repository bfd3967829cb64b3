package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const externalAPI = `
kind: ExternalService
metadata: {name: api, namespace: shop, generation: 4}
spec: {host: api.example, port: 443, protocol: HTTP, tls: {mode: Simple}}
`

func egressOn(node string) *snapshot.Instance {
	return &snapshot.Instance{Service: "shop/api", Node: node, Instance: node, LaneAddress: "192.0.2.1:7443", Egress: true}
}

func conditionOf(t *testing.T, conditions []v1.Condition, kind string) string {
	t.Helper()
	for _, c := range conditions {
		if c.Type == kind {
			return string(c.Status) + " " + c.Reason + " " + c.Message
		}
	}
	return "none"
}

func externalSaid(t *testing.T, o Output, kind string) string {
	t.Helper()
	return conditionOf(t, o.External[types.NamespacedName{Namespace: "shop", Name: "api"}], kind)
}

// TestExternalService wants an ExternalService to be a service whose instances are the nodes that are its egress, and
// these to be told where it leads.
func TestExternalService(t *testing.T) {
	in := InputOf(t, externalAPI)
	out := Compile(in)
	if got := externalSaid(t, out, "Programmed"); !strings.Contains(got, "NoEgress") || !strings.Contains(got, "sennit node allow NODE shop/api") {
		t.Errorf("without a node: %s", got)
	}
	process := &snapshot.Instance{Service: "shop/api", Node: "c", Instance: "c", LaneAddress: "192.0.2.3:7443", Ports: []*snapshot.InstancePort{{Number: 443}}}
	in.Instances, in.Lost = []*snapshot.Instance{egressOn("a"), egressOn("b"), process}, map[string]bool{"b": true}
	out = Compile(in)
	if got := externalSaid(t, out, "Programmed"); !strings.HasSuffix(got, "carried by: a") {
		t.Errorf("with a node that lives, one that is lost and a process: %s", got)
	}
	endpoints, _ := out.Bodies[snapshot.EndpointsSubject("shop", "api", 0)].(*snapshot.Endpoints)
	if len(endpoints.GetEndpoints()) != 2 || endpoints.Endpoints[0].Node != "a" || !endpoints.Endpoints[1].Unhealthy {
		t.Errorf("endpoints: %v", endpoints)
	}
	inbound, _ := out.Bodies[snapshot.InSubject("shop", "api")].(*snapshot.Inbound)
	if to := inbound.GetOutside(); to.GetHost() != "api.example" || to.GetPort() != 443 || !to.GetTls() || to.GetServerName() != "api.example" {
		t.Errorf("nodes that are its egress are told: %v", to)
	}
	in.External[0].Spec.Protocol = "HTTP2"
	inbound, _ = Compile(in).Bodies[snapshot.InSubject("shop", "api")].(*snapshot.Inbound)
	if got := inbound.GetOutside().GetProtocol(); got != snapshot.Protocol_PROTOCOL_HTTP2 {
		t.Errorf("nodes are told to speak %v", got)
	}
	in.External = nil
	for subject := range Compile(in).Bodies {
		if strings.Contains(subject, "api") {
			inbound, _ := Compile(in).Bodies[subject].(*snapshot.Inbound)
			if inbound.GetOutside() != nil {
				t.Errorf("without the document %s leads outside", subject)
			}
		}
	}
}

// TestExternalServiceOfATakenName: of a Service and an ExternalService of one name the older is in effect, the Service
// where they are equally old; a selector never leads out of the mesh.
func TestExternalServiceOfATakenName(t *testing.T) {
	const taken = externalAPI + `---
kind: Service
metadata: {name: api, namespace: shop}
spec: {ports: [{port: 443}]}
`
	for _, tt := range []struct {
		age  time.Duration // of the ExternalService before the Service
		want string
	}{{0, "Conflicted"}, {-time.Hour, "Conflicted"}, {time.Hour, "Accepted"}} {
		in := InputOf(t, taken)
		made := time.Unix(1_700_000_000, 0)
		in.Services[0].CreationTimestamp, in.External[0].CreationTimestamp = v1.NewTime(made), v1.NewTime(made.Add(-tt.age))
		in.Instances = []*snapshot.Instance{egressOn("a")}
		out := Compile(in)
		if got := externalSaid(t, out, "Accepted"); !strings.Contains(got, tt.want) {
			t.Errorf("older by %s: %s", tt.age, got)
		}
		inbound, _ := out.Bodies[snapshot.InSubject("shop", "api")].(*snapshot.Inbound)
		if leads := inbound.GetOutside() != nil; leads != (tt.want == "Accepted") {
			t.Errorf("older by %s: it leads outside: %v", tt.age, leads)
		}
	}
	in := InputOf(t, externalAPI+`---
kind: Service
metadata: {name: alias, namespace: shop}
spec: {selector: {sennit.dev/service: api}, ports: [{port: 443}]}
`)
	in.Instances = []*snapshot.Instance{egressOn("a")}
	alias, _ := Compile(in).Bodies[snapshot.EndpointsSubject("shop", "alias", 0)].(*snapshot.Endpoints)
	if len(alias.GetEndpoints()) != 0 {
		t.Errorf("a Service's selector leads to %v", alias)
	}
}

// TestExternalServiceInRoutesAndQuotas: routes and policies name it by group and kind, and the parent of one name by
// another kind is not it.
func TestExternalServiceInRoutesAndQuotas(t *testing.T) {
	in := InputOf(t, externalAPI+`---
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{group: sennit.dev, kind: ExternalService, name: api}, {group: "", kind: Service, name: api}]
  rules: [{backendRefs: [{group: sennit.dev, kind: ExternalService, name: api, port: 443}]}]
---
kind: QuotaPolicy
metadata: {name: q, namespace: shop}
spec:
  targetRefs: [{group: sennit.dev, kind: ExternalService, name: api}]
  limits: [{name: few, requests: 1, per: Day}]
`)
	in.Instances = []*snapshot.Instance{egressOn("a")}
	out := Compile(in)
	var accepted []string
	for _, status := range out.Statuses {
		for _, parent := range status.Parents {
			accepted = append(accepted, string(*parent.ParentRef.Kind)+" "+conditionOf(t, parent.Conditions, "Accepted")[:4])
		}
	}
	if !slices.Equal(accepted, []string{"ExternalService True", "Service Fals"}) {
		t.Errorf("parents: %q", accepted)
	}
	if got := conditionOf(t, out.Quotas[types.NamespacedName{Namespace: "shop", Name: "q"}], "Accepted"); !strings.HasPrefix(got, "True") {
		t.Errorf("quota: %s", got)
	}
}
