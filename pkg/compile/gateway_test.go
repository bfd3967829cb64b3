package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const class = `
kind: GatewayClass
metadata: {name: sennit, generation: 2}
spec: {controllerName: sennit.dev/gateway-controller}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80, appProtocol: http}]}
`

// withGateway is a mesh with Gateway shop/edge of some listeners, and a route of each of the given namespaces to it.
func withGateway(t *testing.T, listeners, parent string, namespaces ...string) Input {
	t.Helper()
	text := class + `
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: sennit, listeners: [` + listeners + `]}`
	for _, ns := range namespaces {
		text += `
---
kind: HTTPRoute
metadata: {name: r, namespace: ` + ns + `, generation: 7}
spec: {parentRefs: [{name: edge, namespace: shop` + parent + `}], rules: [{backendRefs: [{name: web, port: 80}]}]}`
	}
	return InputOf(t, text)
}

func edgeStatus(t *testing.T, o Output) gatewayv1.GatewayStatus {
	t.Helper()
	status, ok := o.Gateways[types.NamespacedName{Namespace: "shop", Name: "edge"}]
	if !ok {
		t.Fatal("shop/edge has no status")
	}
	return status
}

func said(t *testing.T, conditions []v1.Condition, kind string) string {
	t.Helper()
	at := slices.IndexFunc(conditions, func(c v1.Condition) bool { return c.Type == kind })
	if at < 0 {
		return "none"
	}
	if c := conditions[at]; c.ObservedGeneration != 3 || c.Message == "" {
		t.Errorf("%+v", c)
	}
	return string(conditions[at].Status) + " " + conditions[at].Reason
}

func opened(node, address string, ports ...*snapshot.GatewayPort) *snapshot.Instance {
	return &snapshot.Instance{Service: "shop/edge", Node: node, Instance: node, LaneAddress: "10.0.0.1:7443", Gateway: &snapshot.Gateway{Address: address, Ports: ports}}
}

// TestWhoseRoutesAListenerTakes: by kind, namespace, section, port and hostname, with the reasons of Gateway API.
func TestWhoseRoutesAListenerTakes(t *testing.T) {
	const http = "name: a, port: 80, protocol: HTTP"
	for _, tt := range []struct {
		name, listeners, parent, namespace string
		want                               string // Accepted of the route
		attached                           int32  // to the first listener
	}{
		{"the same namespace", "{" + http + "}", "", "shop", "True Accepted", 1},
		{"another namespace", "{" + http + "}", "", "desk", "False NotAllowedByListeners", 0},
		{"all namespaces", "{" + http + ", allowedRoutes: {namespaces: {from: All}}}", "", "desk", "True Accepted", 1},
		{"no namespace", "{" + http + ", allowedRoutes: {namespaces: {from: None}}}", "", "shop", "False NotAllowedByListeners", 0},
		{"by labels", "{" + http + ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}}", "", "desk", "True Accepted", 1},
		{"by other labels", "{" + http + ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: y}}}}}", "", "desk", "False NotAllowedByListeners", 0},
		{"a selector that is not there", "{" + http + ", allowedRoutes: {namespaces: {from: Selector}}}", "", "desk", "False NotAllowedByListeners", 0},
		{"another kind", "{" + http + ", allowedRoutes: {kinds: [{kind: TCPRoute}]}}", "", "shop", "False NotAllowedByListeners", 0},
		{"this kind and another", "{" + http + ", allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}}", "", "shop", "True Accepted", 1},
		{"by name", "{" + http + "}", ", sectionName: a", "shop", "True Accepted", 1},
		{"by another name", "{" + http + "}", ", sectionName: b", "shop", "False NoMatchingParent", 0},
		{"by another port", "{" + http + "}", ", port: 81", "shop", "False NoMatchingParent", 0},
		{"by name and another port", "{" + http + "}, {name: b, port: 81, protocol: HTTP}", ", port: 81, sectionName: a", "shop", "False NoMatchingParent", 0},
		{"another protocol", "{name: a, port: 443, protocol: UDP}", "", "shop", "False NotAllowedByListeners", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withGateway(t, tt.listeners, tt.parent, tt.namespace)
			in.Namespaces = append(in.Namespaces, InputOf(t, "kind: Namespace\nmetadata: {name: desk, labels: {team: x}}").Namespaces...)
			o := Compile(in)
			c := condition(t, o, tt.namespace, "r", 0, gatewayv1.RouteConditionAccepted)
			if got := string(c.Status) + " " + c.Reason; got != tt.want || c.ObservedGeneration != 7 {
				t.Errorf("%+v", c)
			}
			if p := o.Statuses[types.NamespacedName{Namespace: tt.namespace, Name: "r"}].Parents[0]; p.ControllerName != GatewayControllerName {
				t.Errorf("written by %q", p.ControllerName)
			}
			if got := edgeStatus(t, o).Listeners[0].AttachedRoutes; got != tt.attached {
				t.Errorf("%d routes are attached", got)
			}
		})
	}
}

func TestRoutesWithoutAHostInCommon(t *testing.T) {
	in := withGateway(t, "{name: a, port: 80, protocol: HTTP, hostname: a.example}", "", "shop")
	in.Routes[0].Spec.Hostnames = []gatewayv1.Hostname{"b.example", "*.a.example"}
	if c := condition(t, Compile(in), "shop", "r", 0, gatewayv1.RouteConditionAccepted); c.Reason != "NoMatchingListenerHostname" || c.Status != "False" {
		t.Errorf("%+v", c)
	}
}

func TestHostnamesInCommon(t *testing.T) {
	for _, tt := range []struct{ listener, route, want string }{
		{"", "", "all"}, {"", "a.b", "a.b"}, {"a.b", "", "a.b"}, {"a.b", "a.b", "a.b"}, {"a.b", "a.c", "none"},
		{"*.b", "a.b", "a.b"}, {"a.b", "*.b", "a.b"}, {"*.b", "c.a.b", "c.a.b"}, {"*.b", "b", "none"}, {"b", "*.b", "none"},
		{"*.b", "*.b", "*.b"}, {"*.b", "*.a.b", "*.a.b"}, {"*.a.b", "*.b", "*.a.b"}, {"*.a", "*.b", "none"}, {"*.b", "xb", "none"},
	} {
		got, ok := intersection(tt.listener, tt.route)
		switch {
		case !ok:
			got = "none"
		case got == "":
			got = "all"
		}
		if got != tt.want {
			t.Errorf("%q and %q: %s, want %s", tt.listener, tt.route, got, tt.want)
		}
	}
	if got := commonHostnames([]gatewayv1.Hostname{"A.b", "a.B", "c.d"}, "*.b"); fmt.Sprint(got) != "[a.b]" {
		t.Error(got)
	}
}

// TestProgrammed follows what nodes tell of the ports that they open.
func TestProgrammed(t *testing.T) {
	open, failed := &snapshot.GatewayPort{Number: 80}, &snapshot.GatewayPort{Number: 80, Problem: "address already in use"}
	for _, tt := range []struct {
		name           string
		nodes          []*snapshot.Instance
		lost           string
		listener, edge string
		addresses      string
	}{
		{"nobody runs it", nil, "", "False Pending", "False NoResources", ""},
		{"another gateway runs", []*snapshot.Instance{{Service: "shop/other", Node: "n1", Instance: "n1", Gateway: &snapshot.Gateway{Address: "10.1.1.1"}}}, "", "False Pending", "False NoResources", ""},
		{"a process of that name runs", []*snapshot.Instance{instance("shop/edge", "n1", "n1", nil)}, "", "False Pending", "False NoResources", ""},
		{"not open yet", []*snapshot.Instance{opened("n1", "10.1.1.1")}, "", "False Pending", "False Pending", "10.1.1.1"},
		{"open", []*snapshot.Instance{opened("n1", "10.1.1.1", open)}, "", "True Programmed", "True Programmed", "10.1.1.1"},
		{"open on each address", []*snapshot.Instance{opened("n1", "0.0.0.0", open)}, "", "True Programmed", "True Programmed", "10.0.0.1"},
		{"open on two", []*snapshot.Instance{opened("n2", "10.1.1.2", open), opened("n1", "10.1.1.1", open)}, "", "True Programmed", "True Programmed", "10.1.1.1 10.1.1.2"},
		{"open on one of two", []*snapshot.Instance{opened("n1", "10.1.1.1", open), opened("n2", "10.1.1.2", failed)}, "", "False PortUnavailable", "False Pending", "10.1.1.1 10.1.1.2"},
		{"the other is lost", []*snapshot.Instance{opened("n1", "10.1.1.1", open), opened("n2", "10.1.1.2", failed)}, "n2", "True Programmed", "True Programmed", "10.1.1.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := withGateway(t, "{name: a, port: 80, protocol: HTTP}", "", "shop")
			in.Instances, in.Lost = tt.nodes, map[string]bool{tt.lost: true}
			status := edgeStatus(t, Compile(in))
			var addresses []string
			for _, a := range status.Addresses {
				addresses = append(addresses, a.Value)
			}
			if got := said(t, status.Listeners[0].Conditions, "Programmed"); got != tt.listener {
				t.Errorf("listener: %s, %+v", got, status.Listeners[0].Conditions)
			}
			if got := said(t, status.Conditions, "Programmed"); got != tt.edge || strings.Join(addresses, " ") != tt.addresses {
				t.Errorf("gateway: %s at %v, %+v", got, addresses, status.Conditions)
			}
		})
	}
}

// TestListenersThatAreNotInEffect: the others of their Gateway are.
func TestListenersThatAreNotInEffect(t *testing.T) {
	const good = "{name: z, port: 8080, protocol: HTTP}"
	for _, tt := range []struct{ name, listeners, accepted, conflicted, refs, gateway string }{
		{"all are", good, "True Accepted", "none", "True ResolvedRefs", "True Accepted"},
		{"a protocol that is not served", "{name: a, port: 443, protocol: example.com/own}, " + good, "False UnsupportedProtocol", "none", "True ResolvedRefs", "True ListenersNotValid"},
		{"no other", "{name: a, port: 443, protocol: example.com/own}", "False UnsupportedProtocol", "none", "True ResolvedRefs", "False ListenersNotValid"},
		{"the same port and hostname", "{name: a, port: 80, protocol: HTTP, hostname: a.b}, {name: b, port: 80, protocol: HTTP, hostname: a.b}, " + good, "False HostnameConflict", "True HostnameConflict", "True ResolvedRefs", "True ListenersNotValid"},
		{"the same port, another protocol", "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}, " + good, "False ProtocolConflict", "True ProtocolConflict", "True ResolvedRefs", "True ListenersNotValid"},
		{"the same port, another hostname", "{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: a.b}", "True Accepted", "none", "True ResolvedRefs", "True Accepted"},
		{"a kind that it does not take", "{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TLSRoute}]}}", "True Accepted", "none", "False InvalidRouteKinds", "True Accepted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Compile(withGateway(t, tt.listeners, ""))
			status := edgeStatus(t, o)
			l := status.Listeners[0]
			got := []string{said(t, l.Conditions, "Accepted"), said(t, l.Conditions, "Conflicted"), said(t, l.Conditions, "ResolvedRefs"), said(t, status.Conditions, "Accepted")}
			if want := []string{tt.accepted, tt.conflicted, tt.refs, tt.gateway}; !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
			in, _ := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
			for _, compiled := range in.GetIngress().GetListeners() {
				if compiled.Name == "a" && !strings.HasPrefix(tt.accepted, "True") {
					t.Error("it is compiled all the same")
				}
			}
			if in == nil && strings.HasPrefix(tt.gateway, "True") {
				t.Error("nothing is compiled")
			}
		})
	}
}

// The addresses that a Gateway asks for are those of nodes that run it, or it is not programmed.
func TestAddressesThatAGatewayAsksFor(t *testing.T) {
	open := &snapshot.GatewayPort{Number: 80}
	at := func(address string) *snapshot.Instance { return opened("n"+address, address, open) }
	for _, tt := range []struct {
		name, asks, want string
		nodes            []*snapshot.Instance
	}{
		{"none", "[{type: IPAddress}]", "True Programmed", []*snapshot.Instance{at("10.1.1.1")}},
		{"the one there is", "[{value: 10.1.1.1}]", "True Programmed", []*snapshot.Instance{at("10.1.1.1")}},
		{"one of two", "[{value: 10.1.1.1}]", "True Programmed", []*snapshot.Instance{at("10.1.1.1"), at("10.1.1.2")}},
		{"another", "[{value: 10.1.1.2}]", "False AddressNotUsable", []*snapshot.Instance{at("10.1.1.1")}},
		{"one more", "[{value: 10.1.1.1}, {value: 10.1.1.2}]", "False AddressNotUsable", []*snapshot.Instance{at("10.1.1.1")}},
		{"a node that lets in everywhere", "[{value: 10.0.0.1}]", "True Programmed", []*snapshot.Instance{at("0.0.0.0")}},
		{"written in another way", "[{value: 'fd00:0::1'}]", "True Programmed", []*snapshot.Instance{at("fd00::1")}},
		{"nobody", "[{value: 10.1.1.1}]", "False NoResources", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := InputOf(t, class+`
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: `+tt.asks+`}`)
			in.Instances = tt.nodes
			if got := said(t, edgeStatus(t, Compile(in)).Conditions, "Programmed"); got != tt.want {
				t.Error(got)
			}
		})
	}
}

func TestGatewaysThatAreRefused(t *testing.T) {
	for _, tt := range []struct{ spec, says string }{
		{"addresses: [{type: Hostname, value: a.example}]", "False UnsupportedAddress"},
		{"addresses: [{type: x/y, value: 10.1.1.1}]", "False UnsupportedAddress"},
		{"addresses: [{value: a.example}]", "False UnsupportedAddress"},
		{"addresses: [{value: 10.1.1.1}]", "True Accepted"},
		{"addresses: [{type: IPAddress}]", "True Accepted"},
		{"infrastructure: {parametersRef: {group: a, kind: b, name: c}}", "False InvalidParameters"},
		{"defaultScope: All", "False Invalid"},
		{"defaultScope: None", "True Accepted"},
		{"tls: {backend: {clientCertificateRef: {name: c}}}", "False Invalid"},
	} {
		o := Compile(InputOf(t, class+`
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], `+tt.spec+`}`))
		status := edgeStatus(t, o)
		if got := said(t, status.Conditions, "Accepted"); got != tt.says {
			t.Errorf("%s: %s", tt.spec, got)
		}
		if compiled := o.Bodies[snapshot.InSubject("shop", "edge")] != nil; compiled != strings.HasPrefix(tt.says, "True") {
			t.Errorf("%s: compiled %v", tt.spec, compiled)
		}
	}
}

func TestClasses(t *testing.T) {
	o := Compile(InputOf(t, class+`
---
kind: GatewayClass
metadata: {name: theirs}
spec: {controllerName: example.com/c}
---
kind: GatewayClass
metadata: {name: odd}
spec: {controllerName: sennit.dev/gateway-controller, parametersRef: {group: a, kind: b, name: c}}
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: odd, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: Gateway
metadata: {name: theirs, namespace: shop}
spec: {gatewayClassName: theirs, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: Gateway
metadata: {name: lost, namespace: shop}
spec: {gatewayClassName: nobodys, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{name: theirs}, {name: lost}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`))
	if len(o.Classes) != 2 || o.Classes["sennit"][0].Status != "True" || o.Classes["odd"][0].Reason != "InvalidParameters" {
		t.Errorf("%+v", o.Classes)
	}
	if len(o.Gateways) != 1 || said(t, edgeStatus(t, o).Conditions, "Accepted") != "False Pending" {
		t.Errorf("%+v", o.Gateways)
	}
	parents := o.Statuses[types.NamespacedName{Namespace: "shop", Name: "r"}].Parents
	if len(parents) != 1 || parents[0].ParentRef.Name != "lost" || !strings.Contains(parents[0].Conditions[0].Message, "class nobodys, which is not there") {
		t.Errorf("somebody else's parent has our status, or ours none: %+v", parents)
	}
}

// TestOutsideReachesItsNamespaceAlone: what callers in the mesh may reach is not for those outside.
func TestOutsideReachesItsNamespaceAlone(t *testing.T) {
	in := withGateway(t, "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}", "", "desk")
	shop, empty, service := gatewayv1.Namespace("shop"), gatewayv1.Group(""), gatewayv1.Kind("Service")
	in.Routes[0].Spec.Rules[0].BackendRefs[0].Namespace = &shop
	in.Routes[0].Spec.ParentRefs = append(in.Routes[0].Spec.ParentRefs, gatewayv1.ParentReference{Group: &empty, Kind: &service, Namespace: &shop, Name: "web"})
	o := Compile(in)
	if c := condition(t, o, "desk", "r", 0, gatewayv1.RouteConditionResolvedRefs); c.Reason != "RefNotPermitted" || c.Status != "False" {
		t.Errorf("at the Gateway: %+v", c)
	}
	if c := condition(t, o, "desk", "r", 1, gatewayv1.RouteConditionResolvedRefs); c.Status != "True" {
		t.Errorf("at the Service: %+v", c)
	}
	inbound := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
	if b := inbound.Ingress.Rules[0].Backends[0]; b.Answer != 500 {
		t.Errorf("%+v", b)
	}
}

// TestLimitsHoldAtGateways: those of the route, and of each service that it leads to.
func TestLimitsHoldAtGateways(t *testing.T) {
	in := withGateway(t, "{name: a, port: 80, protocol: HTTP}", "", "shop")
	for _, target := range []api.QuotaTarget{{Kind: "Service", Name: "web"}, {Group: gatewayv1.GroupName, Kind: "HTTPRoute", Name: "r"}} {
		p := &api.QuotaPolicy{}
		p.Namespace, p.Name = "shop", strings.ToLower(target.Kind)
		p.Spec.TargetRefs = []api.QuotaTarget{target}
		p.Spec.Limits = []api.QuotaLimit{{Name: "l", Requests: 1, Per: "Second"}}
		in.Quotas = append(in.Quotas, p)
	}
	inbound := Compile(in).Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
	var ids []string
	for _, at := range inbound.Ingress.Rules[0].Limits {
		ids = append(ids, inbound.Ingress.Limits[at].Id)
	}
	slices.Sort(ids)
	if fmt.Sprint(ids) != "[shop/httproute/l shop/service/l]" {
		t.Error(ids)
	}
	if got := Requires(inbound); !slices.Contains(got, quota.Feature) {
		t.Errorf("a node that knows no limits may use it: %q", got)
	}
}

func TestMergeGatewayStatusKeepsTimes(t *testing.T) {
	in := withGateway(t, "{name: a, port: 80, protocol: HTTP}", "", "shop")
	first, second := v1.NewTime(time.Unix(100, 0)), v1.NewTime(time.Unix(200, 0))
	stored, changed := MergeGatewayStatus(gatewayv1.GatewayStatus{}, edgeStatus(t, Compile(in)), first)
	if !changed {
		t.Error("a new status changes nothing")
	}
	if _, changed := MergeGatewayStatus(stored, edgeStatus(t, Compile(in)), second); changed {
		t.Error("the same status is a change")
	}
	in.Instances = []*snapshot.Instance{opened("n1", "10.1.1.1", &snapshot.GatewayPort{Number: 80})}
	merged, changed := MergeGatewayStatus(stored, edgeStatus(t, Compile(in)), second)
	for _, conditions := range [][]v1.Condition{merged.Conditions, merged.Listeners[0].Conditions} {
		for _, c := range conditions {
			if want := map[bool]v1.Time{true: second, false: first}[c.Type == "Programmed"]; c.LastTransitionTime != want || !changed {
				t.Errorf("%s since %v, changed %v", c.Type, c.LastTransitionTime, changed)
			}
		}
	}
}
