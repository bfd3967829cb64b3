package compile

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func endpoints(t testing.TB, o Output, namespace, service string) []*snapshot.Endpoint {
	t.Helper()
	var all []*snapshot.Endpoint
	for i := uint32(0); ; i++ {
		shard, ok := o.Bodies[snapshot.EndpointsSubject(namespace, service, i)].(*snapshot.Endpoints)
		if !ok {
			return all
		}
		all = append(all, shard.Endpoints...)
	}
}

func TestImpliedService(t *testing.T) {
	o := Compile(Input{Instances: []*snapshot.Instance{
		instance("shop/cart", "n1", "c1", nil, httpPort(80)),
		instance("shop/cart", "n2", "c2", nil, httpPort(80), &snapshot.InstancePort{Number: 9000, Name: "raw"}),
	}})
	ports := out(t, o, "shop", "cart", "").Ports
	if len(ports) != 2 || ports[0].Number != 80 || ports[0].Protocol != snapshot.Protocol_PROTOCOL_HTTP || ports[1].Number != 9000 || ports[1].Protocol != snapshot.Protocol_PROTOCOL_TCP {
		t.Fatalf("ports: %v", ports)
	}
	all := endpoints(t, o, "shop", "cart")
	if len(all) != 2 || len(all[0].Ports) != 1 || all[0].Ports[0].Number != 80 || len(all[1].Ports) != 0 {
		t.Errorf("endpoints: %v; want the first at port 80 only, the second at every port", all)
	}
	if in, ok := o.Bodies[snapshot.InSubject("shop", "cart")].(*snapshot.Inbound); !ok || len(in.Ports) != 2 {
		t.Errorf("inbound: %v", in)
	}
}

func TestEndpointsSayWhatAnInstanceWeighsAndWhereItIs(t *testing.T) {
	in := instance("shop/cart", "n1", "c1", nil, httpPort(80))
	in.Weight, in.Zone, in.Region = 50, "eu-1a", "eu-1"
	e := endpoints(t, Compile(Input{Instances: []*snapshot.Instance{in}}), "shop", "cart")[0]
	if e.Weight != 50 || e.Zone != "eu-1a" || e.Region != "eu-1" {
		t.Errorf("%v", e)
	}
}

func TestRoutesAttachToImpliedServices(t *testing.T) {
	in := InputOf(t, `{kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: {parentRefs: [{group: "", kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80}]}]}}`)
	in.Instances = []*snapshot.Instance{instance("shop/cart", "n1", "c1", nil)}
	if got := out(t, Compile(in), "shop", "cart", "").Ports[0].Rules[0].Origin; got != "httproute/shop/r#0/0" {
		t.Errorf("rule %s", got)
	}
}

func TestSelectorsAndTheIdentityOfWhatTheySelect(t *testing.T) {
	in := InputOf(t, shop+`
---
{kind: Service, metadata: {name: payments-all, namespace: shop}, spec: {ports: [{port: 80}], selector: {sennit.dev/service: payments}}}`)
	liar := instance("shop/other", "n3", "o1", map[string]string{"version": "v2", ServiceLabel: "payments"})
	in.Instances = []*snapshot.Instance{
		instance("shop/payments", "n1", "p1", map[string]string{"version": "v1"}),
		instance("shop/payments", "n2", "p2", map[string]string{"version": "v2"}),
		instance("web/payments", "n2", "p3", map[string]string{"version": "v2"}),
		liar,
	}
	o := Compile(in)
	all := endpoints(t, o, "shop", "payments-v2")
	if len(all) != 1 || all[0].Instance != "p2" || all[0].Service != "shop/payments" {
		t.Errorf("payments-v2 has %v; want p2 with the identity shop/payments", all)
	}
	if all := endpoints(t, o, "shop", "payments-all"); len(all) != 2 {
		t.Errorf("payments-all has %v; want p1 and p2, and nobody who only says so", all)
	}
	if all := endpoints(t, o, "shop", "payments"); len(all) != 2 {
		t.Errorf("payments has %v; want what registered under its name", all)
	}
	if o.Bodies[snapshot.InSubject("shop", "payments-v2")] != nil {
		t.Error("there is an inbound of a service that nobody has the identity of")
	}
}

func TestTargetPorts(t *testing.T) {
	for _, tt := range []struct {
		name, port string
		want       string // number>target of the endpoint's ports; empty: all, as they are
	}{
		{"the number itself", `{port: 80}`, ""},
		{"another number", `{port: 90, targetPort: 80}`, "90>80 "},
		{"a name", `{port: 90, targetPort: http}`, "90>80 "},
		{"not registered: the port's own number", `{port: 80, targetPort: 8080}`, ""},
		{"nothing registered", `{port: 91}`, "0>0 "},
		{"one of two", `{port: 80, name: a}, {port: 91, name: b}`, "80>80 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := InputOf(t, "kind: Service\nmetadata: {name: v, namespace: ns}\nspec: {selector: {app: x}, ports: ["+tt.port+"]}")
			in.Instances = []*snapshot.Instance{instance("ns/a", "n1", "a", map[string]string{"app": "x"})}
			var got strings.Builder
			for _, p := range endpoints(t, Compile(in), "ns", "v")[0].Ports {
				fmt.Fprintf(&got, "%d>%d ", p.Number, p.Target)
			}
			if got.String() != tt.want {
				t.Errorf("ports %q, want %q", got.String(), tt.want)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	sick := instance("ns/a", "n1", "sick", nil)
	sick.Unhealthy = true
	homeless := instance("ns/a", "n1", "homeless", nil)
	homeless.LaneAddress = ""
	o := Compile(Input{Instances: []*snapshot.Instance{sick, homeless, instance("ns/a", "n2", "gone", nil), instance("ns/a", "n3", "well", nil)}, Lost: map[string]bool{"n2": true}})
	got := ""
	for _, e := range endpoints(t, o, "ns", "a") {
		got += fmt.Sprintf("%s:%v ", e.Instance, e.Unhealthy)
	}
	if got != "sick:true gone:true well:false " {
		t.Errorf("endpoints %s", got)
	}
}

func many(count int) []*snapshot.Instance {
	all := make([]*snapshot.Instance, count)
	for i := range all {
		all[i] = instance("ns/a", fmt.Sprintf("node-%d", i%100), fmt.Sprintf("a-%d", i), nil)
	}
	return all
}

func TestOneChangeTouchesOneShard(t *testing.T) {
	before := Input{Instances: many(2000)}
	for name, change := range map[string]func(all []*snapshot.Instance) []*snapshot.Instance{
		"one comes": func(all []*snapshot.Instance) []*snapshot.Instance {
			return append(all, instance("ns/a", "new", "new", nil))
		},
		"one goes":       func(all []*snapshot.Instance) []*snapshot.Instance { return append(all[:77:77], all[78:]...) },
		"one falls sick": func(all []*snapshot.Instance) []*snapshot.Instance { all[5].Unhealthy = true; return all },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := encode(t, Compile(before)), encode(t, Compile(Input{Instances: change(many(2000))}))
			if len(a) != len(b) {
				t.Fatalf("%d bodies, then %d", len(a), len(b))
			}
			var touched []string
			for subject := range a {
				if !bytes.Equal(a[subject], b[subject]) {
					touched = append(touched, subject)
				}
			}
			if len(touched) != 1 || !strings.HasPrefix(touched[0], "sennit.config.endpoints.") {
				t.Errorf("touched %v", touched)
			}
		})
	}
}

func TestShardsHoldEveryInstanceOnceInOrder(t *testing.T) {
	collide := func(count int) []*snapshot.Instance {
		// Names that were chosen so that their hashes agree in the low bits.
		var all []*snapshot.Instance
		for i := 0; len(all) < count; i++ {
			if name := fmt.Sprintf("x%d", i); hashOf("n", name)%64 == 0 {
				all = append(all, instance("ns/a", "n", name, nil))
			}
		}
		return all
	}
	for _, tt := range []struct {
		name      string
		instances []*snapshot.Instance
		most      int // shards
	}{
		{"none", nil, 1},
		{"few", many(256), 1},
		{"one too many", many(257), 2},
		{"many", many(10_000), 64},
		{"chosen to collide", collide(600), 40},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{Instances: tt.instances, Services: []*corev1.Service{{ObjectMeta: v1.ObjectMeta{Namespace: "ns", Name: "a"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}}}
			o := Compile(in)
			shards := out(t, o, "ns", "a", "").Ports[0].Rules[0].Backends[0].Shards
			if shards < 1 || int(shards) > tt.most {
				t.Errorf("%d shards, want at most %d", shards, tt.most)
			}
			seen := make(map[string]bool)
			for i := range shards {
				shard := o.Bodies[snapshot.EndpointsSubject("ns", "a", i)].(*snapshot.Endpoints)
				if len(shard.Endpoints) > shardSize || shard.Shards != shards {
					t.Errorf("shard %d has %d endpoints and says %d shards", i, len(shard.Endpoints), shard.Shards)
				}
				last := ""
				for _, e := range shard.Endpoints {
					key := e.Node + "\x00" + e.Instance
					if seen[key] || key < last {
						t.Errorf("%q is there twice or out of order", key)
					}
					seen[key], last = true, key
				}
			}
			if len(seen) != len(tt.instances) || o.Bodies[snapshot.EndpointsSubject("ns", "a", shards)] != nil {
				t.Errorf("%d of %d instances in %d shards", len(seen), len(tt.instances), shards)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	var in Input
	for i := range 1000 {
		name := fmt.Sprintf("s%d", i)
		in.Services = append(in.Services, &corev1.Service{ObjectMeta: v1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Name: "http"}}}})
		for j := range 10 {
			in.Instances = append(in.Instances, instance("ns/"+name, fmt.Sprintf("n%d", i%50), fmt.Sprintf("%s-%d", name, j), map[string]string{"version": "v1"}))
		}
		in.Routes = append(in.Routes, InputOf(b, fmt.Sprintf(`{kind: HTTPRoute, metadata: {name: r%d, namespace: ns}, spec: {parentRefs: [{group: "", kind: Service, name: %s}], rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: %s, port: 80}]}]}}`, i, name, name)).Routes...)
	}
	b.ReportAllocs()
	for b.Loop() {
		Compile(in)
	}
}
