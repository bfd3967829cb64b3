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

// securedMesh has Service shop/orders with instances of its own, and shop/all that leads to these and to those of cart.
const securedMesh = class + `
---
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: web, port: 443, targetPort: 8443}, {name: https-admin, port: 444, targetPort: 8443}]}
---
kind: Service
metadata: {name: all, namespace: shop}
spec: {ports: [{name: web, port: 443, targetPort: 8443, appProtocol: HTTPS}], selector: {tls: "yes"}}
---
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec: {gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: all, port: 443}]}]}
---
`

func securedInput(t *testing.T, policies ...string) Input {
	in := InputOf(t, securedMesh+strings.Join(policies, "---\n"))
	in.ConfigMaps = append(in.ConfigMaps, rootsConfigMap(t, "shop", "roots"), rootsConfigMap(t, "other", "far"))
	in.ConfigMaps = append(in.ConfigMaps, InputOf(t, "kind: ConfigMap\nmetadata: {name: empty, namespace: shop}").ConfigMaps...)
	tls := &snapshot.InstancePort{Number: 8443, Protocol: snapshot.Protocol_PROTOCOL_TCP, Address: "127.0.0.1:8443"}
	yes := map[string]string{"tls": "yes"}
	in.Instances = []*snapshot.Instance{instance("shop/orders", "n1", "o", yes, tls), instance("shop/cart", "n1", "c", yes, tls)}
	return in
}

func tlsPolicy(name, targets, validation string) string {
	return fmt.Sprintf("kind: BackendTLSPolicy\nmetadata: {name: %s, namespace: shop, generation: 3}\nspec: {targetRefs: [%s], validation: {hostname: in.test, %s}}\n", name, targets, validation)
}

const (
	believed = `caCertificateRefs: [{group: "", kind: ConfigMap, name: roots}]`
	atOrders = `{group: "", kind: Service, name: orders}`
	atAll    = `{group: "", kind: Service, name: all}`
)

// securedAt lists, for the nodes of a service, by which policy they speak TLS, and which of their ports are spoken to so
// whoever is called.
func securedAt(t *testing.T, o Output, service string) string {
	t.Helper()
	body, ok := o.Bodies[snapshot.InSubject("shop", service)].(*snapshot.Inbound)
	if !ok {
		t.Fatalf("%s has no inbound", service)
	}
	var all []string
	for _, p := range body.Secured {
		all = append(all, fmt.Sprintf("%s by %s %v", p.Called, p.Tls.Origin, p.Targets))
	}
	if needs := slices.Contains(Requires(body), snapshot.FeatureOrigination); needs != (len(all) > 0) {
		t.Errorf("the nodes of %s must know: %v", service, needs)
	}
	return strings.Join(all, ", ")
}

func TestWhoIsSpokenToInTLS(t *testing.T) {
	for _, tt := range []struct {
		name         string
		policies     []string
		orders, cart string
	}{
		{"nobody", nil, "", ""},
		{"a service by its own name", []string{tlsPolicy("p", atOrders, believed)}, "shop/orders:443 by shop/p [8443], shop/orders:444 by shop/p [8443]", ""},
		{"those that a Service leads to, by its name alone", []string{tlsPolicy("p", atAll, believed)}, "shop/all:443 by shop/p []", "shop/all:443 by shop/p []"},
		{"one port", []string{tlsPolicy("p", `{group: "", kind: Service, name: orders, sectionName: https-admin}`, believed)}, "shop/orders:444 by shop/p [8443]", ""},
		{"one port before all", []string{
			tlsPolicy("a", atOrders, believed), tlsPolicy("b", `{group: "", kind: Service, name: orders, sectionName: https-admin}`, believed),
		}, "shop/orders:443 by shop/a [8443], shop/orders:444 by shop/b [8443]", ""},
		{"of two the first", []string{tlsPolicy("b", atAll, believed), tlsPolicy("a", atAll, believed)}, "shop/all:443 by shop/a []", "shop/all:443 by shop/a []"},
		{"without an authority, so that connections fail", []string{tlsPolicy("p", atAll, "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]")}, "shop/all:443 by shop/p []", "shop/all:443 by shop/p []"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Compile(securedInput(t, tt.policies...))
			if got := securedAt(t, o, "orders"); got != tt.orders {
				t.Errorf("orders: %s\nwant %s", got, tt.orders)
			}
			if got := securedAt(t, o, "cart"); got != tt.cart {
				t.Errorf("cart: %s\nwant %s", got, tt.cart)
			}
		})
	}
}

// TestCallersSayWhatTheyCall: so that the instance's node knows, and a port that said that HTTP is inside TLS is HTTP.
func TestCallersSayWhatTheyCall(t *testing.T) {
	before := out(t, Compile(securedInput(t)), "shop", "all", "").Ports[0]
	if before.Protocol != snapshot.Protocol_PROTOCOL_TCP || before.Rules[0].Backends[0].Called != "" {
		t.Errorf("without a policy: %v", before)
	}
	o := Compile(securedInput(t, tlsPolicy("p", atAll, believed)))
	body := out(t, o, "shop", "all", "")
	if p := body.Ports[0]; p.Protocol != snapshot.Protocol_PROTOCOL_HTTP || p.Rules[0].Backends[0].Called != "shop/all:443" {
		t.Errorf("with one: %v", p)
	}
	edge := o.Bodies[snapshot.InSubject("shop", "edge")].(*snapshot.Inbound)
	if b := edge.Ingress.Rules[0].Backends[0]; b.Called != "shop/all:443" || b.Answer != 0 {
		t.Errorf("of a Gateway: %v", b)
	}
	if !slices.Contains(Requires(body), snapshot.FeatureOrigination) || !slices.Contains(Requires(edge), snapshot.FeatureOrigination) {
		t.Error("callers' nodes need not know it")
	}
	if c := condition(t, o, "shop", "r", 0, gatewayv1.RouteConditionResolvedRefs); c.Status != "True" {
		t.Errorf("%+v", c)
	}
	o = Compile(securedInput(t, tlsPolicy("p", atAll, "caCertificateRefs: [{group: '', kind: ConfigMap, name: gone}]")))
	if b := out(t, o, "shop", "all", "").Ports[0].Rules[0].Backends[0]; b.Answer != 502 || !strings.Contains(b.AnswerReason, "BackendTLSPolicy shop/p") {
		t.Errorf("nobody is believed: %v", b)
	}
}

// TestTLSThatPassesThroughStaysAsItIs: no node begins another inside it.
func TestTLSThatPassesThroughStaysAsItIs(t *testing.T) {
	in := securedInput(t, tlsPolicy("p", atAll, believed), `
kind: Gateway
metadata: {name: both, namespace: shop}
spec:
  gatewayClassName: sennit
  listeners:
  - {name: through, port: 443, protocol: TLS, tls: {mode: Passthrough}}
  - {name: ends, port: 444, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: s}]}}
---
kind: TLSRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{name: both}], hostnames: [a.test], rules: [{backendRefs: [{name: all, port: 443}]}]}
`)
	secret, _ := certificateSecret(t, "shop", "s")
	in.Secrets = append(in.Secrets, secret)
	ingress := Compile(in).Bodies[snapshot.InSubject("shop", "both")].(*snapshot.Inbound).Ingress
	got := map[string]string{}
	for _, l := range ingress.Listeners {
		got[l.Name] = ingress.Rules[l.Hosts[0].Rules[0]].Backends[0].Called
	}
	if got["through"] != "" || got["ends"] != "shop/all:443" || len(ingress.Listeners) != 2 {
		t.Errorf("%v", got)
	}
}

func TestStatusOfBackendTLSPolicies(t *testing.T) {
	const gone = `caCertificateRefs: [{group: "", kind: ConfigMap, name: gone}]`
	for _, tt := range []struct {
		name     string
		policy   string
		ancestor string
		accepted string
		resolved string
		says     string
	}{
		{"in effect", tlsPolicy("p", atOrders, believed), "Service/orders", "True Accepted", "True ResolvedRefs", ""},
		{"at a Gateway that leads there", tlsPolicy("p", atAll, believed), "Gateway/edge", "True Accepted", "True ResolvedRefs", ""},
		{"the host's own authorities", tlsPolicy("p", atOrders, "wellKnownCACertificates: System"), "Service/orders", "True Accepted", "True ResolvedRefs", ""},
		{"others that are well known", tlsPolicy("p", atOrders, "wellKnownCACertificates: a.example/b"), "Service/orders", "False Invalid", "True ResolvedRefs", "must be System, is a.example/b"},
		{"no authority", tlsPolicy("p", atOrders, ""), "Service/orders", "False Invalid", "True ResolvedRefs", "is missing"},
		{"options", strings.Replace(tlsPolicy("p", atOrders, believed), "spec: {", "spec: {options: {a.example/b: c}, ", 1), "Service/orders", "False Invalid", "True ResolvedRefs", "spec.options"},
		{"a ConfigMap that is not there", tlsPolicy("p", atOrders, gone), "Service/orders", "False NoValidCACertificate", "False InvalidCACertificateRef", "connections fail"},
		{"one without certificates", tlsPolicy("p", atOrders, `caCertificateRefs: [{group: "", kind: ConfigMap, name: empty}]`), "Service/orders", "False NoValidCACertificate", "False InvalidCACertificateRef", "connections fail"},
		{"one of another namespace", tlsPolicy("p", atOrders, `caCertificateRefs: [{group: "", kind: ConfigMap, name: far}]`), "Service/orders", "False NoValidCACertificate", "False InvalidCACertificateRef", "connections fail"},
		{"another kind", tlsPolicy("p", atOrders, `caCertificateRefs: [{group: "", kind: Secret, name: roots}]`), "Service/orders", "False NoValidCACertificate", "False InvalidKind", "connections fail"},
		{"one of two", tlsPolicy("p", atOrders, `caCertificateRefs: [{group: "", kind: ConfigMap, name: gone}, {group: "", kind: ConfigMap, name: roots}]`), "Service/orders", "True Accepted", "False InvalidCACertificateRef", ""},
		{"a Service that is not there", tlsPolicy("p", `{group: "", kind: Service, name: gone}`, believed), "Service/gone", "False TargetNotFound", "True ResolvedRefs", "there is no Service shop/gone"},
		{"a port that is not there", tlsPolicy("p", `{group: "", kind: Service, name: orders, sectionName: x}`, believed), "Service/orders", "False TargetNotFound", "True ResolvedRefs", "no port of the name x that is of TCP"},
		{"a target of another kind", tlsPolicy("p", `{group: apps, kind: Deployment, name: x}`, believed), "Deployment/x", "False Invalid", "True ResolvedRefs", "kind Deployment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Compile(securedInput(t, tt.policy))
			status := o.BackendTLS[types.NamespacedName{Namespace: "shop", Name: "p"}]
			at := slices.IndexFunc(status.Ancestors, func(a gatewayv1.PolicyAncestorStatus) bool {
				return fmt.Sprintf("%s/%s", *a.AncestorRef.Kind, a.AncestorRef.Name) == tt.ancestor
			})
			if at < 0 {
				t.Fatalf("%s is no ancestor: %+v", tt.ancestor, status)
			}
			conditions := status.Ancestors[at].Conditions
			if got := said(t, conditions, "Accepted"); got != tt.accepted || !strings.Contains(conditions[0].Message, tt.says) {
				t.Errorf("%s %q, want %s %q", got, conditions[0].Message, tt.accepted, tt.says)
			}
			if got := said(t, conditions, "ResolvedRefs"); got != tt.resolved {
				t.Errorf("%s, want %s", got, tt.resolved)
			}
		})
	}
}

// TestTheOldestBackendTLSPolicyHasAPlace: and one of several targets can be taken while another is not.
func TestTheOldestBackendTLSPolicyHasAPlace(t *testing.T) {
	in := securedInput(t, tlsPolicy("a", atAll, believed), tlsPolicy("b", atAll+", "+atOrders, believed))
	in.BackendTLS[0].CreationTimestamp = v1.NewTime(time.Unix(2000, 0))
	in.BackendTLS[1].CreationTimestamp = v1.NewTime(time.Unix(1000, 0))
	o := Compile(in)
	a := o.BackendTLS[types.NamespacedName{Namespace: "shop", Name: "a"}].Ancestors
	for _, ancestor := range a {
		if got := said(t, ancestor.Conditions, "Accepted"); got != "False Conflicted" {
			t.Errorf("%s: %s", ancestor.AncestorRef.Name, got)
		}
	}
	if got := securedAt(t, o, "cart"); len(a) != 2 || got != "shop/all:443 by shop/b []" {
		t.Errorf("%d ancestors; %s", len(a), got)
	}
	in.BackendTLS[0].CreationTimestamp = v1.NewTime(time.Unix(500, 0))
	got := map[string]string{}
	for _, ancestor := range Compile(in).BackendTLS[types.NamespacedName{Namespace: "shop", Name: "b"}].Ancestors {
		got[string(ancestor.AncestorRef.Name)] = said(t, ancestor.Conditions, "Accepted")
	}
	if got["all"] != "False Conflicted" || got["orders"] != "True Accepted" || got["edge"] != "False Conflicted" {
		t.Errorf("%v", got)
	}
}

// TestBackendTLSPolicyOfAHostOutside takes the place of what the ExternalService says.
func TestBackendTLSPolicyOfAHostOutside(t *testing.T) {
	const bank = "kind: ExternalService\nmetadata: {name: bank, namespace: shop}\nspec: {host: bank.example, port: 443, protocol: HTTP%s}\n"
	policy := tlsPolicy("p", "{group: sennit.dev, kind: ExternalService, name: bank}", believed+", subjectAltNames: [{type: URI, uri: 'spiffe://a/b'}]")
	o := Compile(securedInput(t, policy, fmt.Sprintf(bank, "")))
	outside := o.Bodies[snapshot.InSubject("shop", "bank")].(*snapshot.Inbound)
	if tls := outside.Outside.Origination; tls.GetServerName() != "in.test" || len(tls.GetRoots()) == 0 || tls.GetUris()[0] != "spiffe://a/b" {
		t.Errorf("%v", tls)
	}
	if !slices.Contains(Requires(outside), snapshot.FeatureOrigination) {
		t.Error("egress nodes need not know it")
	}
	if b := out(t, o, "shop", "bank", "").Ports[0].Rules[0].Backends[0]; b.Called != "" {
		t.Errorf("%v", b)
	}
	o = Compile(securedInput(t, policy, fmt.Sprintf(bank, ", tls: {mode: None}")))
	if got := said(t, o.BackendTLS[types.NamespacedName{Namespace: "shop", Name: "p"}].Ancestors[0].Conditions, "Accepted"); got != "False Invalid" {
		t.Errorf("one in the clear: %s", got)
	}
}

func TestMergePolicyStatusKeepsWhatIsOthers(t *testing.T) {
	first := Compile(securedInput(t, tlsPolicy("p", atAll, believed))).BackendTLS[types.NamespacedName{Namespace: "shop", Name: "p"}]
	then, now := v1.NewTime(time.Unix(1000, 0)), v1.NewTime(time.Unix(2000, 0))
	stored, changed := MergePolicyStatus(gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{{ControllerName: "a.example/b"}}}, first, then)
	if !changed || len(stored.Ancestors) != 3 || stored.Ancestors[2].ControllerName != "a.example/b" {
		t.Fatalf("%+v", stored)
	}
	again, changed := MergePolicyStatus(stored, first, now)
	if changed || !again.Ancestors[0].Conditions[0].LastTransitionTime.Equal(&then) {
		t.Errorf("nothing changed, and it says: %+v", again)
	}
}
