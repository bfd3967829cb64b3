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

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// withSets is Gateway shop/edge, with a listener of its own for a.test at port 80, and ListenerSets for it.
func withSets(t *testing.T, allowed string, sets ...string) Input {
	t.Helper()
	in := InputOf(t, class+`
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec:
  gatewayClassName: sennit
  listeners: [{name: own, port: 80, protocol: HTTP, hostname: a.test, allowedRoutes: {namespaces: {from: All}}}]
  allowedListeners: `+allowed+`
---
kind: Namespace
metadata: {name: desk, labels: {team: x}}
---
`+strings.Join(sets, "---\n"))
	in.Instances = append(in.Instances, opened("n1", "10.1.1.1", &snapshot.GatewayPort{Number: 80}))
	return in
}

func listenerSetOf(namespace, name, listeners string) string {
	return fmt.Sprintf("kind: ListenerSet\nmetadata: {name: %s, namespace: %s, generation: 3}\nspec: {parentRef: {name: edge, namespace: shop}, listeners: [%s]}\n", name, namespace, listeners)
}

func setStatus(t *testing.T, o Output, namespace, name string) gatewayv1.ListenerSetStatus {
	t.Helper()
	status, known := o.ListenerSets[types.NamespacedName{Namespace: namespace, Name: name}]
	if !known {
		t.Fatalf("%s/%s has no status", namespace, name)
	}
	return status
}

// ingressNames are the names of the listeners that nodes open.
func ingressNames(o Output) (names []string) {
	for _, l := range o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress.Listeners {
		names = append(names, l.Name)
	}
	return names
}

const bTest = "{name: l, port: 80, protocol: HTTP, hostname: b.test}"

// TestWhoseListenersAGatewayTakes: nobody's unless it says so.
func TestWhoseListenersAGatewayTakes(t *testing.T) {
	for _, tt := range []struct {
		allowed, namespace, want string
	}{
		{"null", "shop", "False NotAllowed"},
		{"{}", "shop", "False NotAllowed"},
		{"{namespaces: {from: None}}", "shop", "False NotAllowed"},
		{"{namespaces: {from: Same}}", "shop", "True Accepted"},
		{"{namespaces: {from: Same}}", "desk", "False NotAllowed"},
		{"{namespaces: {from: All}}", "desk", "True Accepted"},
		{"{namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}", "desk", "True Accepted"},
		{"{namespaces: {from: Selector, selector: {matchLabels: {team: y}}}}", "desk", "False NotAllowed"},
		{"{namespaces: {from: Selector}}", "desk", "False NotAllowed"},
	} {
		o := Compile(withSets(t, tt.allowed, listenerSetOf(tt.namespace, "set", bTest)))
		status := setStatus(t, o, tt.namespace, "set")
		programmed := map[string]string{"True Accepted": "True Programmed"}[tt.want]
		if programmed == "" {
			programmed = tt.want
		}
		if got := said(t, status.Conditions, "Accepted"); got != tt.want {
			t.Errorf("%s, from %s: %s, want %s", tt.allowed, tt.namespace, got, tt.want)
		}
		if got := said(t, status.Conditions, "Programmed"); got != programmed {
			t.Errorf("%s, from %s: %s, want %s", tt.allowed, tt.namespace, got, programmed)
		}
		want, attached := []string{"own"}, int32(0)
		if tt.want == "True Accepted" {
			want, attached = []string{"own", tt.namespace + "/set/l"}, 1
		}
		if got := ingressNames(o); !slices.Equal(got, want) {
			t.Errorf("%s, from %s: nodes open %v", tt.allowed, tt.namespace, got)
		}
		if got := edgeStatus(t, o).AttachedListenerSets; tt.allowed != "null" && (got == nil || *got != attached) {
			t.Errorf("%s, from %s: %v are attached", tt.allowed, tt.namespace, got)
		}
	}
}

// TestOfTwoListenersTheFirst: the Gateway's own before those of sets, and the older set's before the younger's.
func TestOfTwoListenersTheFirst(t *testing.T) {
	const all = "{namespaces: {from: All}}"
	younger := listenerSetOf("desk", "a", bTest+", {name: m, port: 80, protocol: HTTP, hostname: c.test}")
	older := listenerSetOf("desk", "b", bTest+", {name: m, port: 80, protocol: HTTP, hostname: a.test}, {name: n, port: 80, protocol: TCP}")
	in := withSets(t, all, younger, older)
	in.ListenerSets[0].CreationTimestamp = v1.NewTime(time.Unix(2000, 0))
	in.ListenerSets[1].CreationTimestamp = v1.NewTime(time.Unix(1000, 0))
	o := Compile(in)
	if got := ingressNames(o); !slices.Equal(got, []string{"own", "desk/b/l", "desk/a/m"}) {
		t.Errorf("nodes open %v", got)
	}
	for _, tt := range []struct{ set, listener, accepted, programmed, conflicted string }{
		{"b", "l", "True Accepted", "True Programmed", "none"},
		{"b", "m", "False HostnameConflict", "False HostnameConflict", "True HostnameConflict"},
		{"b", "n", "False ProtocolConflict", "False ProtocolConflict", "True ProtocolConflict"},
		{"a", "l", "False HostnameConflict", "False HostnameConflict", "True HostnameConflict"},
		{"a", "m", "True Accepted", "True Programmed", "none"},
	} {
		for _, l := range setStatus(t, o, "desk", tt.set).Listeners {
			if string(l.Name) != tt.listener {
				continue
			}
			for kind, want := range map[string]string{"Accepted": tt.accepted, "Programmed": tt.programmed, "Conflicted": tt.conflicted} {
				if got := said(t, l.Conditions, kind); got != want {
					t.Errorf("%s/%s %s: %s, want %s", tt.set, tt.listener, kind, got, want)
				}
			}
		}
	}
	if got := said(t, setStatus(t, o, "desk", "a").Conditions, "Accepted"); got != "True ListenersNotValid" {
		t.Errorf("one of two: %s", got)
	}
	if got := said(t, edgeStatus(t, o).Listeners[0].Conditions, "Accepted"); got != "True Accepted" || len(edgeStatus(t, o).Listeners) != 1 {
		t.Errorf("the Gateway's own: %s", got)
	}
	o = Compile(withSets(t, all, listenerSetOf("desk", "set", "{name: l, port: 80, protocol: HTTP, hostname: a.test}")))
	for _, kind := range []string{"Accepted", "Programmed"} {
		if got := said(t, setStatus(t, o, "desk", "set").Conditions, kind); got != "False ListenersNotValid" {
			t.Errorf("none of one: %s %s", kind, got)
		}
	}
	// The Gateway's two take each other's place, and nobody else takes it.
	in = withSets(t, all, listenerSetOf("desk", "set", "{name: taker, port: 80, protocol: HTTP, hostname: a.test}, "+bTest))
	in.Gateways[0].Spec.Listeners = append(in.Gateways[0].Spec.Listeners, in.Gateways[0].Spec.Listeners[0])
	in.Gateways[0].Spec.Listeners[1].Name = "again"
	if got := ingressNames(Compile(in)); !slices.Equal(got, []string{"desk/set/l"}) {
		t.Errorf("nodes open %v", got)
	}
}

// TestRoutesOfListenerSets: a route attaches by the parent that it names, Gateway or set, and by nothing else.
func TestRoutesOfListenerSets(t *testing.T) {
	const all, set = "{namespaces: {from: All}}", "kind: ListenerSet, name: set"
	for _, tt := range []struct {
		name, namespace, parent string
		want                    string // Accepted
		at                      string // the listener that has it; empty: none
	}{
		{"by the set", "desk", set, "True Accepted", "desk/set/l"},
		{"by the Gateway, which is not the set's", "shop", "name: edge", "True Accepted", "own"},
		{"by the name of a listener", "desk", set + ", sectionName: l", "True Accepted", "desk/set/l"},
		{"by the name of the Gateway's listener", "desk", set + ", sectionName: own", "False NoMatchingParent", ""},
		{"by the Gateway and the name of the set's listener", "shop", "name: edge, sectionName: l", "False NoMatchingParent", ""},
		{"of the Gateway's namespace, which is not the set's", "shop", set + ", namespace: desk", "False NotAllowedByListeners", ""},
		{"a set that is not there", "desk", "kind: ListenerSet, name: gone", "False NoMatchingParent", ""},
		{"a set that is not attached", "desk", "kind: ListenerSet, name: lost", "False NoMatchingParent", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			route := fmt.Sprintf("kind: HTTPRoute\nmetadata: {name: r, namespace: %s, generation: 7}\nspec: {parentRefs: [{%s}], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}\n", tt.namespace, tt.parent)
			lost := strings.Replace(listenerSetOf("desk", "lost", bTest), "name: edge", "name: gone", 1)
			o := Compile(withSets(t, all, listenerSetOf("desk", "set", bTest), lost, route))
			c := condition(t, o, tt.namespace, "r", 0, gatewayv1.RouteConditionAccepted)
			if got := string(c.Status) + " " + c.Reason; got != tt.want {
				t.Errorf("%+v, want %s", c, tt.want)
			}
			if p := o.Statuses[types.NamespacedName{Namespace: tt.namespace, Name: "r"}].Parents; len(p) != 1 || p[0].ControllerName != GatewayControllerName {
				t.Errorf("%+v", p)
			}
			at := ""
			for _, l := range o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound).Ingress.Listeners {
				if len(l.Hosts) > 0 {
					at += l.Name
				}
			}
			if at != tt.at {
				t.Errorf("attached to %q, want %q", at, tt.at)
			}
			attached := int32(0)
			for _, l := range setStatus(t, o, "desk", "set").Listeners {
				attached += l.AttachedRoutes
			}
			if want := int32(len(tt.at) / len("desk/set/l")); attached != want {
				t.Errorf("%d routes are attached to the set, want %d", attached, want)
			}
		})
	}
}

// TestCertificatesOfListenerSets: of its own namespace, or where a grant lets ListenerSets have them; a grant for Gateways is none.
func TestCertificatesOfListenerSets(t *testing.T) {
	const all = "{namespaces: {from: All}}"
	for _, tt := range []struct {
		name, namespace, grant  string
		resolved, accepted, set string
	}{
		{"its own", "desk", "", "True ResolvedRefs", "True Accepted", "True Accepted"},
		{"another's", "shop", "", "False RefNotPermitted", "True Accepted", "False ListenersNotValid"},
		{"by a grant", "shop", "ListenerSet", "True ResolvedRefs", "True Accepted", "True Accepted"},
		{"by a grant for Gateways", "shop", "Gateway", "False RefNotPermitted", "True Accepted", "False ListenersNotValid"},
	} {
		in := withSets(t, all, listenerSetOf("desk", "set", "{name: l, port: 443, protocol: HTTPS, hostname: b.test, tls: {certificateRefs: [{name: s, namespace: "+tt.namespace+"}]}}"))
		secret, _ := certificateSecret(t, tt.namespace, "s")
		in.Secrets = append(in.Secrets, secret)
		if tt.grant != "" {
			in.Grants = InputOf(t, "kind: ReferenceGrant\nmetadata: {name: g, namespace: "+tt.namespace+"}\nspec: {from: [{group: gateway.networking.k8s.io, kind: "+tt.grant+", namespace: desk}], to: [{group: \"\", kind: Secret}]}").Grants
		}
		o := Compile(in)
		status := setStatus(t, o, "desk", "set")
		if got := said(t, status.Listeners[0].Conditions, "ResolvedRefs"); got != tt.resolved {
			t.Errorf("%s: %s", tt.name, got)
		}
		if got := said(t, status.Listeners[0].Conditions, "Accepted"); got != tt.accepted {
			t.Errorf("%s: %s", tt.name, got)
		}
		if got := said(t, status.Conditions, "Accepted"); got != tt.set {
			t.Errorf("%s: the set: %s", tt.name, got)
		}
	}
}

func TestListenerSetsWithoutAGateway(t *testing.T) {
	const all = "{namespaces: {from: All}}"
	in := withSets(t, all, strings.Replace(listenerSetOf("desk", "set", bTest), "name: edge", "name: gone", 1))
	if got := said(t, setStatus(t, Compile(in), "desk", "set").Conditions, "Accepted"); got != "False ParentNotAccepted" {
		t.Errorf("no Gateway: %s", got)
	}
	in = withSets(t, all, strings.Replace(listenerSetOf("desk", "set", bTest), "name: edge", "kind: Service, name: edge", 1))
	if got := said(t, setStatus(t, Compile(in), "desk", "set").Conditions, "Accepted"); got != "False Invalid" {
		t.Errorf("another kind: %s", got)
	}
	in = withSets(t, all, listenerSetOf("desk", "set", bTest))
	in.Gateways[0].Spec.DefaultScope = gatewayv1.GatewayDefaultScopeAll
	status := setStatus(t, Compile(in), "desk", "set").Conditions
	if got := said(t, status, "Accepted") + ", " + said(t, status, "Programmed"); got != "False ParentNotAccepted, False ParentNotProgrammed" {
		t.Errorf("a Gateway that is not accepted: %s", got)
	}
	in = withSets(t, all, listenerSetOf("desk", "set", bTest))
	in.Instances = nil
	if got := said(t, setStatus(t, Compile(in), "desk", "set").Conditions, "Programmed"); got != "False Pending" {
		t.Errorf("nobody runs the Gateway: %s", got)
	}
	in = withSets(t, all, listenerSetOf("desk", "set", bTest))
	in.Classes[0].Spec.ControllerName = "a.example/b"
	if o := Compile(in); len(o.ListenerSets) != 0 {
		t.Errorf("somebody else's: %+v", o.ListenerSets)
	}
}

// TestListenersOfAGatewayAreCounted: what is beyond the limit is said, and not in effect.
func TestListenersOfAGatewayAreCounted(t *testing.T) {
	const sets, each = 16, 64
	var all []string
	for i := range sets {
		var listeners []string
		for j := range each {
			listeners = append(listeners, fmt.Sprintf("{name: l%d, port: 80, protocol: HTTP, hostname: l%d.s%d.test}", j, j, i))
		}
		all = append(all, listenerSetOf("desk", fmt.Sprintf("s%02d", i), strings.Join(listeners, ", ")))
	}
	o := Compile(withSets(t, "{namespaces: {from: All}}", all...))
	if got := len(ingressNames(o)); got != maxListeners {
		t.Errorf("nodes open %d", got)
	}
	last := setStatus(t, o, "desk", fmt.Sprintf("s%02d", sets-1)).Listeners[each-1].Conditions
	if got := said(t, last, "Accepted"); got != "False TooManyListeners" {
		t.Errorf("the last: %s", got)
	}
}
