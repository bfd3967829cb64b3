package registry

import (
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var equal = []cmp.Option{cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}, netip.Prefix{}), cmp.AllowUnexported(Check{}), cmpopts.IgnoreFields(Instance{}, "Origin")}

const ordersFile = `service: default/orders
instance: orders-1
labels: {version: v1}
weight: 50
ports: [{port: 80, name: http, protocol: http, address: "127.0.0.1:8080"}]
health: {http: {port: http, path: /healthz}, interval: 5s}
listeners: [{as: default/orders, to: default/payments:80, address: "127.0.0.1:15001", uid: 1000}]
`

func TestParseReadsEveryField(t *testing.T) {
	got, err := Parse("orders.yaml", []byte(ordersFile), "web1")
	if err != nil {
		t.Fatal(err)
	}
	orders := exchange.ServiceName{Namespace: "default", Name: "orders"}
	address := netip.MustParseAddrPort("127.0.0.1:8080")
	want := []*Instance{{
		Service: orders, Name: "orders-1",
		Labels: map[string]string{"version": "v1"}, Weight: 50,
		Ports:  []Port{{Number: 80, Name: "http", Protocol: snapshot.Protocol_PROTOCOL_HTTP, Address: address}},
		Health: &Check{Kind: CheckHTTP, Address: address, Path: "/healthz", Interval: 5 * time.Second, Timeout: time.Second, Healthy: 2, Unhealthy: 3, port: "http"},
		Listeners: []Listener{{As: orders, To: exchange.ServiceName{Namespace: "default", Name: "payments"}, Port: 80,
			Address: netip.MustParseAddrPort("127.0.0.1:15001"), HasUID: true, UID: 1000}},
	}}
	if diff := cmp.Diff(want, got, equal...); diff != "" {
		t.Error(diff)
	}
	if got[0].Origin != "orders.yaml:1" {
		t.Errorf("origin %q", got[0].Origin)
	}
}

func TestWrittenInstancesAreReadBack(t *testing.T) {
	instances, err := Parse("a.yaml", []byte(ordersFile+"---\nservice: default/proxy\nports: [{port: 3128, protocol: http, connect: true, address: '127.0.0.1:3128'}]\n---\nservice: default/db\nports: [{port: 5432, address: '[::1]:5432'}]\nhealth: {tcp: {port: 5432}}\n---\nservice: default/edge\ngateway: {address: 192.0.2.1}\n---\nservice: default/api\negress: {allow: [10.1.0.0/16]}\n---\nservice: default/mail\negress: {}\n---\nservice: default/batch\nworkload: {unit: batch@.service}\n---\nservice: default/root\nworkload: {uid: 0}\n"), "web1")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range instances {
		data, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("stored", data, "another")
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if diff := cmp.Diff([]*Instance{in}, back, equal...); diff != "" {
			t.Errorf("%s: %s", data, diff)
		}
	}
}

func TestMistakesNameFileLineAndField(t *testing.T) {
	const port = "ports: [{port: 80, address: '127.0.0.1:8080'}]\n"
	for _, tt := range []struct{ name, in, want string }{
		{"unknown field", "service: orders\nports:\n- port: 80\n  addr: 127.0.0.1:1\n", "f.yaml:4: ports[0].addr: unknown field (known here: address, connect, name, plaintext, port, protocol)"},
		{"another case is another field", "Service: orders\n" + port, "f.yaml:1: Service: unknown field"},
		{"no service", port, "f.yaml:1: service: is missing"},
		{"neither port nor listener", "service: orders\n", "f.yaml:1: ports: is missing"},
		{"no address", "service: orders\nports:\n- port: 80\n", "f.yaml:3: ports[0].address: is missing"},
		{"bad service", "service: a/b/c\n" + port, `f.yaml:1: service: not a service's name: "a/b/c"`},
		{"a number as a label", "service: orders\n" + port + "labels:\n  version: 1\n", `f.yaml:4: labels.version: must be a string; write it in quotes: "1"`},
		{"a word as a port", "service: orders\nports: [{port: http, address: '127.0.0.1:8080'}]\n", `f.yaml:2: ports[0].port: must be a whole decimal number`},
		{"a quoted port", "service: orders\nports: [{port: '80', address: '127.0.0.1:8080'}]\n", `f.yaml:2: ports[0].port: must be a whole decimal number`},
		{"an octal port", "service: orders\nports: [{port: 080, address: '127.0.0.1:8080'}]\n", `f.yaml:2: ports[0].port: must be`},
		{"a port out of range", "service: orders\nports: [{port: 65536, address: '127.0.0.1:8080'}]\n", `f.yaml:2: ports[0].port: must be from 1 to 65535, is 65536`},
		{"a name as an address", "service: orders\nports: [{port: 80, address: 'localhost:8080'}]\n", `f.yaml:2: ports[0].address: must be an IP address with a port`},
		{"every address", "service: orders\nports: [{port: 80, address: '0.0.0.0:8080'}]\n", `f.yaml:2: ports[0].address: must be one address of this host`},
		{"unknown protocol", "service: orders\nports: [{port: 80, protocol: HTTP, address: '127.0.0.1:8080'}]\n", `f.yaml:2: ports[0].protocol: must be http, http2, grpc, tcp or udp, is "HTTP"`},
		{"CONNECT of something else", "service: orders\nports: [{port: 80, protocol: http, connect: 1, address: '127.0.0.1:1'}]\n", `f.yaml:2: ports[0].connect: must be true or false, is "1"`},
		{"CONNECT by TCP", "service: orders\nports: [{port: 80, connect: true, address: '127.0.0.1:1'}]\n", `f.yaml:2: ports[0].connect: is for ports of protocol http or http2`},
		{"a port twice", "service: orders\nports:\n- {port: 80, address: '127.0.0.1:1'}\n- {port: 80, address: '127.0.0.1:2'}\n", `f.yaml:4: ports[1].port: 80 is given twice`},
		{"a port of UDP twice", "service: orders\nports:\n- {port: 53, protocol: udp, address: '127.0.0.1:1'}\n- {port: 53, protocol: tcp, address: '127.0.0.1:2'}\n- {port: 53, protocol: udp, address: '127.0.0.1:3'}\n", `f.yaml:5: ports[2].port: 53 is given twice`},
		{"CONNECT by UDP", "service: orders\nports: [{port: 80, protocol: udp, connect: true, address: '127.0.0.1:1'}]\n", `f.yaml:2: ports[0].connect: is for ports of protocol http or http2`},
		{"health of a port of UDP", "service: orders\nports: [{port: 53, protocol: udp, address: '127.0.0.1:1'}]\nhealth: {tcp: {port: 53}}\n", `f.yaml:3: health.tcp.port: is none of the instance's ports that answer connections: "53"`},
		{"a field twice", "service: orders\n" + port + "service: billing\n", `f.yaml:3: service: is given twice; the first is in line 1`},
		{"an instance twice", "service: orders\n" + port + "---\nservice: orders\n" + port, `f.yaml:4: instance: default/orders/web1 is declared in line 1 already`},
		{"an alias", "service: &a orders\ninstance: *a\n" + port, `f.yaml:1: service: anchors and aliases are not read`},
		{"a list for a mapping", "- service: orders\n", `f.yaml:1: must be a mapping of fields`},
		{"not YAML", "service: [\n", `f.yaml:1: not YAML: `},
		{"no weight", "service: orders\n" + port + "weight: 0\n", `f.yaml:3: weight: must be from 1 to 1000, is 0`},
		{"a tab", "service: orders\nlabels:\n\tversion: v1\n", `not YAML: `},
		{"health of an unknown port", "service: orders\n" + port + "health: {tcp: {port: web}}\n", `f.yaml:3: health.tcp.port: is none of the instance's ports: "web"`},
		{"two kinds of health", "service: orders\n" + port + "health: {tcp: {port: 80}, http: {port: 80}}\n", `f.yaml:3: health: needs one of http and tcp`},
		{"a timeout over the interval", "service: orders\n" + port + "health: {tcp: {port: 80}, interval: 1s, timeout: 2s}\n", `f.yaml:3: health.timeout: must not be longer than the interval of 1s, is 2s`},
		{"no unit of time", "service: orders\n" + port + "health: {tcp: {port: 80}, interval: 2}\n", `f.yaml:3: health.interval: must be`},
		{"a listener to no port", "service: orders\nlisteners: [{as: orders, to: payments, address: '127.0.0.1:1'}]\n", `f.yaml:2: listeners[0].to: must be a service and its port`},
		{"uid and unit", "service: orders\nlisteners: [{as: orders, to: payments:80, address: '127.0.0.1:1', uid: 1, unit: a.service}]\n", `f.yaml:2: listeners[0]: has uid and unit`},
		{"a negative uid", "service: orders\nlisteners: [{as: orders, to: payments:80, address: '127.0.0.1:1', uid: -1}]\n", `f.yaml:2: listeners[0].uid: must be from 0`},
		{"a path as a unit", "service: orders\nlisteners: [{as: orders, to: payments:80, address: '127.0.0.1:1', unit: /a.service}]\n", `f.yaml:2: listeners[0].unit: must be a unit or slice`},
		{"two listeners of one address", "service: orders\nlisteners:\n- {as: orders, to: payments:80, address: '127.0.0.1:1'}\n- {as: orders, to: billing:80, address: '127.0.0.1:1'}\n", `two listeners have the address 127.0.0.1:1`},
		{"two listeners of UDP of one address", "service: orders\nlisteners:\n- {as: orders, to: dns:53, address: '127.0.0.1:1'}\n- {as: orders, to: dns:53, protocol: udp, address: '127.0.0.1:1'}\n- {as: orders, to: billing:53, protocol: udp, address: '127.0.0.1:1'}\n", `two listeners have the address 127.0.0.1:1`},
		{"a listener of HTTP", "service: orders\nlisteners: [{as: orders, to: dns:53, protocol: http, address: '127.0.0.1:1'}]\n", `f.yaml:2: listeners[0].protocol: must be tcp, which is for HTTP too, or udp, is "http"`},
		{"a listener of UDP for others", "service: orders\nlisteners: [{as: orders, to: dns:53, protocol: udp, address: '192.0.2.1:1'}]\n", `f.yaml:2: listeners[0].address: must be of 127.0.0.0/8 or ::1 for UDP, is 192.0.2.1:1`},
		{"a gateway without an address", "service: edge\ngateway: {}\n", `f.yaml:2: gateway.address: is missing`},
		{"a gateway with a port", "service: edge\ngateway: {address: '0.0.0.0:80'}\n", `f.yaml:2: gateway.address: must be an IP address of this host without a port`},
		{"a gateway with a process", "service: edge\n" + port + "gateway: {address: 0.0.0.0}\n", `f.yaml:1: gateway: stands beside ports or health`},
		{"an egress with a process", "service: api\n" + port + "egress: {}\n", `f.yaml:1: egress: stands beside ports, health or gateway`},
		{"an egress that says where it leads", "service: api\negress: {host: api.example}\n", `f.yaml:2: egress.host: unknown field`},
		{"an egress that allows no prefix", "service: api\negress: {allow: [127.0.0.1/8]}\n", `f.yaml:2: egress.allow[0]: must be a prefix`},
		{"a workload of nobody", "service: orders\nworkload: {}\n", `f.yaml:2: workload: needs one of uid and unit`},
		{"a workload of two kinds", "service: orders\nworkload: {uid: 1, unit: a.service}\n", `f.yaml:2: workload: needs one of uid and unit`},
		{"a workload that is everybody", "service: orders\nworkload: {unit: '*.service'}\n", `f.yaml:2: workload.unit: must be a unit`},
		{"a workload that is the node", "service: api\negress: {}\nworkload: {uid: 1}\n", `f.yaml:1: workload: stands beside gateway or egress`},
		{"processes that are two services", "service: orders\nworkload: {uid: 1}\n---\nservice: payments\nworkload: {uid: 1}\n", `f.yaml:4: workload: uid 1 is default/orders already (line 1)`},
		{"an empty instance", "service: orders\ninstance: ''\n" + port, `f.yaml:2: instance: must be`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse("f.yaml", []byte(tt.in), "web1")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant one with %q", err, tt.want)
			}
			if got != nil {
				t.Errorf("returned %d instances beside an error", len(got))
			}
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, err := Parse("f.yaml", []byte("service: A\ncolour: red\nports: [{port: 0, address: x}]\n"), "web1")
	if err == nil || strings.Count(err.Error(), "f.yaml:") != 4 {
		t.Errorf("want four mistakes, have:\n%v", err)
	}
	_, err = Parse("f.yaml", []byte(strings.Repeat("a: b\n", 5000)), "web1")
	if err == nil || strings.Count(err.Error(), "\n") > maxErrors {
		t.Error("a file of mistakes gives an error without bound")
	}
}

func TestTheExampleOfTheReferenceIsRead(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/services-d.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(page), "```yaml\n")[1:]
	if len(examples) < 2 {
		t.Fatalf("the page has %d examples", len(examples))
	}
	for _, example := range examples {
		text, _, _ := strings.Cut(example, "```")
		instances, err := Parse("example.yaml", []byte(text), "web1")
		if err != nil || len(instances) == 0 {
			t.Errorf("%v in\n%s", err, text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(ordersFile))
	f.Add([]byte("service: orders\nports: []\n"))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		instances, err := Parse("f", data, "web1")
		if err != nil && instances != nil {
			t.Fatal("instances beside an error")
		}
		for _, in := range instances {
			written, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := Parse("g", written, "web1"); err != nil || !cmp.Equal(back, []*Instance{in}, append(equal, cmpopts.EquateEmpty())...) {
				t.Fatalf("%s: %v", written, err)
			}
		}
	})
}

// What becomes an egress, or is one no more, is another registration, or controllers would not hear of it.
func TestHashKnowsAnEgress(t *testing.T) {
	in := snapshot.Instance{Service: "default/api", Node: "web1", Instance: "web1"}
	before := Hash(&in)
	if in.Egress = true; Hash(&in) == before {
		t.Error("an egress has the hash of what is none")
	}
}
