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
	if rule, _ := outside(t, table, 80); rule != "to orders" || !slices.Equal(table.IngressPorts(edge), []uint32{80}) {
		t.Errorf("before the endpoints of the next: %q on %v", rule, table.IngressPorts(edge))
	}
	want(t, "older", apply(t, table, subject, 1, ingressOf("orders", 81)), nil)
	apply(t, table, epSubject("billing", 0), 1, instances("a"))
	if rule, _ := outside(t, table, 8080); rule != "to billing" || !slices.Equal(table.IngressPorts(edge), []uint32{80, 8080}) {
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
		"lets TLS through and looks": func(in *snapshot.Ingress) { in.Listeners[0].Tls = &snapshot.IngressTLS{Passthrough: true} },
		"for TCP and for HTTP": func(in *snapshot.Ingress) {
			in.Listeners = append(in.Listeners, &snapshot.IngressListener{Name: "tcp", Port: 80, Hostname: "a", Tcp: true})
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

// TestConnectionsFromOutside: connections and requests have listeners of their own, chosen by the server's name and the
// host; no listener is given what is for another.
func TestConnectionsFromOutside(t *testing.T) {
	table := New()
	hosts := func(name string, rule uint32) []*snapshot.IngressHost {
		return []*snapshot.IngressHost{{Hostname: name, Rules: []uint32{rule}}}
	}
	apply(t, table, epSubject("orders", 0), 1, instances("a"))
	apply(t, table, snapshot.InSubject("shop", "edge"), 1, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Rules: []*snapshot.Rule{
			{Origin: "http", Backends: []*snapshot.Backend{to("orders", 1)}},
			{Origin: "tls", Backends: []*snapshot.Backend{to("orders", 1)}},
			{Origin: "tcp", Backends: []*snapshot.Backend{to("orders", 1)}},
		},
		Listeners: []*snapshot.IngressListener{
			{Name: "http", Port: 443, Hostname: "http.example", Tls: &snapshot.IngressTLS{}, Hosts: hosts("http.example", 0)},
			{Name: "tls", Port: 443, Hostname: "*.example", Tcp: true, Tls: &snapshot.IngressTLS{Passthrough: true}, Hosts: hosts("a.example", 1)},
			{Name: "tcp", Port: 5432, Tcp: true, Hosts: hosts("", 2)},
		},
	}})
	for _, tt := range []struct {
		name   string
		port   uint16
		server string
		secure bool
		host   string // of a request; empty: it is a connection
		rule   string
		status int
	}{
		{"a request", 443, "http.example", true, "http.example", "http", 0},
		{"a request for what is not looked at", 443, "http.example", true, "a.example", "", 421},
		{"a request on what is not looked at", 443, "a.example", true, "a.example", "", 421},
		{"a connection", 443, "a.example", true, "", "tls", 0},
		{"a connection to what is looked at", 443, "http.example", true, "", "", 421},
		{"a connection without TLS", 443, "a.example", false, "", "", 421},
		{"a connection of which no route is", 443, "b.example", true, "", "", 404},
		{"a connection of which no listener is", 443, "b.org", true, "", "", 404},
		{"TCP", 5432, "", false, "", "tcp", 0},
		{"a request where TCP is", 5432, "", false, "a.example", "", 421},
		{"TLS where TCP is", 5432, "", true, "", "", 421},
	} {
		var req *exchange.Request
		if tt.host != "" {
			req = &exchange.Request{Method: "GET", Path: "/", Authority: tt.host}
		}
		var d Decision
		table.PickIngress(&Call{Caller: edge, Callee: edge, Port: tt.port, Now: start, Random: random(t), Secure: tt.secure, ServerName: tt.server}, req, &d)
		if d.Rule != tt.rule || d.Status != tt.status {
			t.Errorf("%s: %q %d, want %q %d", tt.name, d.Rule, d.Status, tt.rule, tt.status)
		}
		d.Done()
	}
	for _, tt := range []struct {
		port           uint16
		server         string
		secure, listed bool
		want           IngressListener
	}{
		{443, "HTTP.example", true, true, IngressListener{Name: "http"}},
		{443, "a.example", true, true, IngressListener{Name: "tls", TCP: true, Passthrough: true}},
		{443, "", true, false, IngressListener{}},
		{5432, "", false, true, IngressListener{Name: "tcp", TCP: true}},
		{80, "", false, false, IngressListener{}},
	} {
		got, listed := table.IngressListener(edge, tt.port, tt.server)
		if got != tt.want || listed != tt.listed || table.IngressSecure(edge, tt.port) != tt.secure {
			t.Errorf("%d %q: %+v %v", tt.port, tt.server, got, listed)
		}
	}
	for _, q := range []Question{{Port: 443, Authority: "A.example"}, {Port: 5432, Authority: "whatever"}} {
		q.From, q.To, q.Gateway, q.Method, q.Scheme, q.Path = edge, edge, true, "GET", "http", "/"
		if e := table.Explain(&q, start); e.Status != 0 || len(e.Backends) != 1 || len(e.Rules) != 1 || !e.Rules[0].Decides {
			t.Errorf("%+v: %+v", q, e)
		}
	}
}
