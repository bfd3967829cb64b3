package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const dnsDocuments = `
kind: Service
metadata: {name: dns, namespace: shop}
spec: {ports: [{name: udp, port: 53, protocol: UDP, targetPort: 5353}, {name: tcp, port: 53, targetPort: 5353}, {name: own, port: 54, protocol: UDP}]}
---
kind: Service
metadata: {name: other, namespace: shop}
spec: {ports: [{port: 53, protocol: UDP}]}
---
kind: Service
metadata: {name: remote, namespace: desk}
spec: {ports: [{port: 53, protocol: UDP}]}
`

// TestPortsOfUDP have numbers beyond all others: one of TCP may have the same, and an instance offers them apart.
func TestPortsOfUDP(t *testing.T) {
	in := InputOf(t, dnsDocuments)
	both := &snapshot.Instance{Service: "shop/dns", Node: "n1", Instance: "both", LaneAddress: "10.0.0.1:7443", Ports: []*snapshot.InstancePort{
		{Number: 5353, Protocol: snapshot.Protocol_PROTOCOL_TCP}, {Number: 5353, Protocol: snapshot.Protocol_PROTOCOL_UDP}, {Number: 54, Protocol: snapshot.Protocol_PROTOCOL_UDP},
	}}
	udp := &snapshot.Instance{Service: "shop/dns", Node: "n2", Instance: "udp", LaneAddress: "10.0.0.2:7443", Ports: []*snapshot.InstancePort{
		{Number: 5353, Protocol: snapshot.Protocol_PROTOCOL_UDP}, {Number: 54, Protocol: snapshot.Protocol_PROTOCOL_TCP},
	}}
	implied := &snapshot.Instance{Service: "shop/implied", Node: "n1", Instance: "i", LaneAddress: "10.0.0.1:7443", Ports: []*snapshot.InstancePort{
		{Number: 53, Protocol: snapshot.Protocol_PROTOCOL_UDP}, {Number: 53, Protocol: snapshot.Protocol_PROTOCOL_TCP},
	}}
	in.Instances = []*snapshot.Instance{both, udp, implied}
	o := Compile(in)
	for service, want := range map[string]string{
		"dns":     "53 PROTOCOL_TCP 53, 65589 PROTOCOL_UDP 65589, 65590 PROTOCOL_UDP 65590",
		"implied": "53 PROTOCOL_TCP 53, 65589 PROTOCOL_UDP 65589",
	} {
		var got []string
		for _, p := range out(t, o, "shop", service, "").Ports {
			got = append(got, fmt.Sprintf("%d %s %d", p.Number, p.Protocol, p.Rules[0].Backends[0].Port))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: %s", service, strings.Join(got, ", "))
		}
	}
	var offers []string
	for _, e := range o.Bodies[snapshot.EndpointsSubject("shop", "dns", 0)].(*snapshot.Endpoints).Endpoints {
		for _, p := range e.Ports {
			offers = append(offers, fmt.Sprintf("%s %d>%d", e.Instance, p.Number, p.Target))
		}
	}
	slices.Sort(offers)
	if want := "both 53>5353, both 65589>70889, both 65590>65590, udp 65589>70889"; strings.Join(offers, ", ") != want {
		t.Errorf("offers %s\nwant   %s", strings.Join(offers, ", "), want)
	}
	for subject, body := range o.Bodies {
		about := strings.Contains(subject, ".dns") || strings.Contains(subject, ".implied") && !strings.Contains(subject, "endpoints") || strings.Contains(subject, ".other") && !strings.Contains(subject, "endpoints") || strings.Contains(subject, ".remote") && !strings.Contains(subject, "endpoints")
		if needs := slices.Contains(Requires(body), snapshot.FeatureUDP); needs != about {
			t.Errorf("%s requires %q", subject, Requires(body))
		}
	}
}

// TestUDPRoutesOfServices: flows of callers are shared out by a UDPRoute, at ports of UDP and to those alone.
func TestUDPRoutesOfServices(t *testing.T) {
	const udp = "kind: UDPRoute\nmetadata: {name: r, namespace: shop, generation: 3}\nspec: {parentRefs: [{kind: Service, group: '', %s}], rules: [{backendRefs: [%s]}]}"
	for _, tt := range []struct{ name, kind, parent, backends, accepted, resolved, rules string }{
		{"by weight", udp, "name: dns, port: 53", "{name: dns, port: 53, weight: 9}, {name: other, port: 53, weight: 1}", "True Accepted", "True ResolvedRefs", "53/UDP: 9 shop/dns 1 shop/other"},
		{"every port of UDP", udp, "name: dns", "{name: other, port: 53}", "True Accepted", "True ResolvedRefs", "53/UDP: 1 shop/other, 54/UDP: 1 shop/other"},
		{"a section", udp, "name: dns, sectionName: own", "{name: other, port: 53}", "True Accepted", "True ResolvedRefs", "54/UDP: 1 shop/other"},
		{"a section of TCP", udp, "name: dns, sectionName: tcp", "{name: other, port: 53}", "False NoMatchingParent", "True ResolvedRefs", ""},
		{"a backend of TCP alone", udp, "name: dns, port: 53", "{name: db, port: 5432}", "True Accepted", "False BackendNotFound", "53/UDP: 1 shop/db 500"},
		{"another namespace needs no grant in the mesh", udp, "name: dns, port: 53", "{name: remote, namespace: desk, port: 53}", "True Accepted", "True ResolvedRefs", "53/UDP: 1 desk/remote"},
		{"a TCPRoute has the port of TCP", strings.Replace(udp, "UDPRoute", "TCPRoute", 1), "name: dns, port: 53", "{name: db, port: 5432}", "True Accepted", "True ResolvedRefs", "53: 1 shop/db"},
		{"a TCPRoute to a port of UDP", strings.Replace(udp, "UDPRoute", "TCPRoute", 1), "name: dns, port: 53", "{name: other, port: 53}", "True Accepted", "False BackendNotFound", "53: 1 shop/other 500"},
		{"a TCPRoute at a Service of UDP", strings.Replace(udp, "UDPRoute", "TCPRoute", 1), "name: other", "{name: db, port: 5432}", "False NoMatchingParent", "True ResolvedRefs", ""},
		{"an HTTPRoute at a Service of UDP", strings.Replace(udp, "UDPRoute", "HTTPRoute", 1), "name: other", "{name: web, port: 80}", "False NoMatchingParent", "True ResolvedRefs", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withConnections(t, "{name: a, port: 5432, protocol: TCP}", dnsDocuments, fmt.Sprintf(tt.kind, tt.parent, tt.backends))
			o := Compile(in)
			at := types.NamespacedName{Namespace: "shop", Name: "r"}
			conditions := map[int][]v1.Condition{}
			for i, all := range []map[types.NamespacedName]gatewayv1.RouteStatus{o.UDP, o.TCP, o.Statuses} {
				if s, ok := all[at]; ok {
					conditions[i] = s.Parents[0].Conditions
				}
			}
			if len(conditions) != 1 {
				t.Fatalf("statuses %v", conditions)
			}
			var rules []string
			for _, p := range out(t, o, "shop", "dns", "").Ports {
				rule := PortName(p.Number) + ":"
				for _, b := range p.Rules[0].Backends {
					rule += fmt.Sprintf(" %d %s/%s", b.Weight, b.Namespace, b.Service)
					if b.Answer != 0 {
						rule += fmt.Sprint(" ", b.Answer)
					}
				}
				if strings.HasPrefix(p.Rules[0].Origin, "service/") {
					continue
				}
				rules = append(rules, rule)
			}
			for _, c := range conditions {
				got := []string{said(t, c, "Accepted"), said(t, c, "ResolvedRefs"), strings.Join(rules, ", ")}
				if want := []string{tt.accepted, tt.resolved, tt.rules}; !slices.Equal(got, want) {
					t.Errorf("got %q\nwant %q\n%+v", got, want, c)
				}
			}
		})
	}
}

// TestUDPRoutesAtGateways: a listener of UDP may have the number of another, and takes UDPRoutes.
func TestUDPRoutesAtGateways(t *testing.T) {
	const grant = "kind: ReferenceGrant\nmetadata: {name: g, namespace: desk}\nspec: {from: [{group: gateway.networking.k8s.io, kind: UDPRoute, namespace: shop}], to: [{group: '', kind: Service}]}"
	for _, tt := range []struct{ name, listeners, kind, backend, more, listener, accepted, resolved, leads string }{
		{"its port", "{name: a, port: 53, protocol: UDP}", "UDPRoute", "name: dns, port: 53", "", "True Accepted", "True Accepted", "True ResolvedRefs", "65589>shop/dns"},
		{"beside TCP", "{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: TCP}", "UDPRoute", "name: dns, port: 53", "", "True Accepted", "True Accepted", "True ResolvedRefs", "65589>shop/dns"},
		{"twice", "{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: UDP}", "UDPRoute", "name: dns, port: 53", "", "False HostnameConflict", "True Accepted", "True ResolvedRefs", ""},
		{"another kind", "{name: a, port: 53, protocol: UDP}", "TCPRoute", "name: db, port: 5432", "", "True Accepted", "False NotAllowedByListeners", "True ResolvedRefs", ""},
		{"another listener", "{name: a, port: 53, protocol: TCP}", "UDPRoute", "name: dns, port: 53", "", "True Accepted", "False NotAllowedByListeners", "True ResolvedRefs", ""},
		{"nothing there", "{name: a, port: 53, protocol: UDP}", "UDPRoute", "name: none, port: 53", "", "True Accepted", "True Accepted", "False BackendNotFound", "65589>500"},
		{"another namespace", "{name: a, port: 53, protocol: UDP}", "UDPRoute", "name: remote, namespace: desk, port: 53", "", "True Accepted", "True Accepted", "False RefNotPermitted", "65589>500"},
		{"another namespace, by a grant", "{name: a, port: 53, protocol: UDP}", "UDPRoute", "name: remote, namespace: desk, port: 53", grant, "True Accepted", "True Accepted", "True ResolvedRefs", "65589>desk/remote"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withConnections(t, tt.listeners, dnsDocuments, "kind: "+tt.kind+"\nmetadata: {name: r, namespace: shop, generation: 3}\nspec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{"+tt.backend+"}]}]}", tt.more)
			o := Compile(in)
			leads := ""
			body, _ := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			for _, l := range body.GetIngress().GetListeners() {
				if l.Name != "a" || l.Port < snapshot.UDPPort {
					continue
				}
				if !slices.Contains(Requires(body), snapshot.FeatureUDP) || !l.Tcp {
					t.Errorf("%+v requires %q", l, Requires(body))
				}
				for _, h := range l.Hosts {
					b := body.Ingress.Rules[h.Rules[0]].Backends[0]
					leads = fmt.Sprintf("%d>%s/%s", l.Port, b.Namespace, b.Service)
					if b.Answer != 0 {
						leads = fmt.Sprintf("%d>%d", l.Port, b.Answer)
					}
				}
			}
			statuses := o.UDP
			if tt.kind == "TCPRoute" {
				statuses = o.TCP
			}
			c := statuses[types.NamespacedName{Namespace: "shop", Name: "r"}].Parents[0].Conditions
			got := []string{said(t, edgeStatus(t, o).Listeners[0].Conditions, "Accepted"), said(t, c, "Accepted"), said(t, c, "ResolvedRefs"), leads}
			if want := []string{tt.listener, tt.accepted, tt.resolved, tt.leads}; !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q\n%+v", got, want, c)
			}
		})
	}
}
