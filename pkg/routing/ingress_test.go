package routing

import (
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var edge = exchange.ServiceName{Namespace: "shop", Name: "edge"}

// ingressOf has one listener for every host on each of some ports, whose only rule is for a backend.
func ingressOf(backend string, ports ...uint32) *snapshot.Inbound {
	in := &snapshot.Ingress{Rules: []*snapshot.Rule{{Origin: "to " + backend, Backends: []*snapshot.Backend{to(backend, 1)}}}}
	for _, p := range ports {
		in.Listeners = append(in.Listeners, &snapshot.IngressListener{Name: "l", Port: p, Hosts: []*snapshot.IngressHost{{Rules: []uint32{0}}}})
	}
	return &snapshot.Inbound{Ingress: in}
}

// outside routes a request from outside and tells by which rule, or with what it is answered.
func outside(t *testing.T, table *Table, port uint16) (rule string, status int) {
	t.Helper()
	var d Decision
	table.PickIngress(&Call{Caller: edge, Callee: edge, Port: port, Now: start, Random: random(t)}, &exchange.Request{Method: "GET", Path: "/", Authority: "a"}, &d)
	defer d.Done()
	return d.Rule, d.Status
}

// TestGatewaysWaitForEndpoints: a port is opened, and a rule used, when all that it leads to is held; what was there
// goes on until then.
func TestGatewaysWaitForEndpoints(t *testing.T) {
	table, subject := New(), snapshot.InSubject("shop", "edge")
	want(t, "before its endpoints", apply(t, table, subject, 1, ingressOf("orders", 80)), nil)
	want(t, "needs", table.Needs(), []string{epSubject("orders", 0)})
	if ports := table.IngressPorts(edge); len(ports) > 0 {
		t.Errorf("open: %v", ports)
	}
	want(t, "with its endpoints", apply(t, table, epSubject("orders", 0), 1, instances("a")), []string{epSubject("orders", 0) + "@1", subject + "@1"})
	if rule, status := outside(t, table, 80); rule != "to orders" || status != 0 {
		t.Errorf("%q %d", rule, status)
	}
	apply(t, table, subject, 2, ingressOf("billing", 80, 8080))
	if rule, _ := outside(t, table, 80); rule != "to orders" || !slices.Equal(table.IngressPorts(edge), []uint16{80}) {
		t.Errorf("before the endpoints of the next: %q on %v", rule, table.IngressPorts(edge))
	}
	want(t, "older", apply(t, table, subject, 1, ingressOf("orders", 81)), nil)
	apply(t, table, epSubject("billing", 0), 1, instances("a"))
	if rule, _ := outside(t, table, 8080); rule != "to billing" || !slices.Equal(table.IngressPorts(edge), []uint16{80, 8080}) {
		t.Errorf("after: %q on %v", rule, table.IngressPorts(edge))
	}
	want(t, "of a service that is no gateway", apply(t, table, snapshot.InSubject("shop", "web"), 1, &snapshot.Inbound{}), []string{snapshot.InSubject("shop", "web") + "@1"})
	want(t, "gone", apply(t, table, subject, 3, nil), []string{subject + "@3"})
	if _, status := outside(t, table, 80); status != 404 || len(table.IngressPorts(edge)) > 0 || len(table.Needs()) > 0 {
		t.Errorf("of a gateway that is gone: %d on %v, needs %v", status, table.IngressPorts(edge), table.Needs())
	}
	apply(t, table, subject, 4, ingressOf("orders", 80))
	table.Drop(subject)
	if len(table.IngressPorts(edge)) > 0 {
		t.Error("a dropped gateway is open")
	}
}

func TestIngressThatCannotBeUsed(t *testing.T) {
	for says, change := range map[string]func(*snapshot.Ingress){
		"rule 7 of 1 is named":  func(in *snapshot.Ingress) { in.Listeners[0].Hosts[0].Rules = []uint32{7} },
		"has port 70000":        func(in *snapshot.Ingress) { in.Listeners[0].Port = 70000 },
		"limit 3 of 0 is named": func(in *snapshot.Ingress) { in.Rules[0].Limits = []uint32{3} },
		"two listeners for":     func(in *snapshot.Ingress) { in.Listeners = append(in.Listeners, in.Listeners[0]) },
		`has hostname "" twice`: func(in *snapshot.Ingress) {
			in.Listeners[0].Hosts = append(in.Listeners[0].Hosts, in.Listeners[0].Hosts[0])
		},
		"kind of match 9 is not":   func(in *snapshot.Ingress) { in.Rules[0].Match = &snapshot.Match{Path: &snapshot.StringMatch{Kind: 9}} },
		"its body is not an Inbou": nil,
	} {
		table := New()
		body := ingressOf("orders", 80)
		_, err := table.Apply(snapshot.InSubject("shop", "edge"), snapshot.Version{Revision: 1}, &snapshot.Outbound{})
		if change != nil {
			change(body.Ingress)
			_, err = table.Apply(snapshot.InSubject("shop", "edge"), snapshot.Version{Revision: 1}, body)
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
