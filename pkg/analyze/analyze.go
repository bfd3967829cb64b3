// Package analyze finds what is wrong with documents before it hurts: references to nothing, conflicts, rules that no
// request reaches, weights that add up to zero, names that nobody serves, policies that attach to nothing.
//
// What the compiler says in statuses is taken from there; the rest is found in the rules that it made. The package is
// pure: it reads one state of the mesh and what was compiled of it. It does not match requests; of two rules it decides
// whether one asks for no less than the other.
//
// Start reading at Analyze; then rules.go.
package analyze

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Levels of findings. At Error something is not in effect, or is answered with an error.
const (
	Error   = "error"
	Warning = "warning"
)

// Codes of findings that no status has; the others are the reasons of conditions.
const (
	CodeWeights     = "WeightsAddUpToZero"
	CodeNoBackends  = "NoBackends"
	CodeUnreachable = "RuleUnreachable"
	CodeConflict    = "RuleConflict"
	CodeNoInstances = "NoInstances"
	CodePlaintext   = "PlaintextIsTaken"
)

// A Finding is one thing that is wrong.
type Finding struct {
	Level    string `json:"level"`
	Code     string `json:"code"`
	Document string `json:"document"`        // default/httproute/orders
	Field    string `json:"field,omitempty"` // spec.rules[0]; empty: the whole document, or the message says it
	Message  string `json:"message"`
	Remedy   string `json:"remedy"`
}

// Analyze finds what is wrong with a state of the mesh, of which out was compiled: errors first, then by document and
// field, each once.
func Analyze(in compile.Input, out compile.Output) []Finding {
	f := &findings{}
	for kind, statuses := range map[string]map[types.NamespacedName]gatewayv1.RouteStatus{"httproute": out.Statuses, "grpcroute": out.GRPC, "tlsroute": out.TLS, "tcproute": out.TCP, "udproute": out.UDP} {
		for name, status := range statuses {
			for _, parent := range status.Parents {
				f.conditions(kind, name, "", parent.Conditions)
			}
		}
	}
	for name, conditions := range out.Quotas {
		f.conditions("quotapolicy", name, "", conditions)
	}
	for name, conditions := range out.Faults {
		f.conditions("faultpolicy", name, "", conditions)
	}
	f.faults(in.Faults)
	for name, conditions := range out.External {
		f.conditions("externalservice", name, "", conditions)
	}
	for name, conditions := range out.Authentication {
		f.conditions("authenticationpolicy", name, "", conditions)
	}
	for name, conditions := range out.Foreign {
		f.conditions("federatedtrustdomain", name, "", conditions)
	}
	for name, conditions := range out.Authorization {
		f.conditions("authorizationpolicy", name, "", conditions)
	}
	for name, status := range out.BackendTLS {
		for _, a := range status.Ancestors {
			f.conditions("backendtlspolicy", name, "", a.Conditions)
		}
	}
	f.plaintext(in.Services)
	for name, conditions := range out.Resilience {
		f.conditions("resiliencepolicy", name, "", conditions)
	}
	for name, conditions := range out.Balancing {
		f.conditions("loadbalancingpolicy", name, "", conditions)
	}
	for name, conditions := range out.Classes {
		f.conditions("gatewayclass", types.NamespacedName{Name: name}, "", conditions)
	}
	for name, status := range out.Gateways {
		f.conditions("gateway", name, "", status.Conditions)
		for i, l := range status.Listeners {
			f.conditions("gateway", name, fmt.Sprintf("spec.listeners[%d]", i), l.Conditions)
		}
	}
	for name, status := range out.ListenerSets {
		f.conditions("listenerset", name, "", status.Conditions)
		for i, l := range status.Listeners {
			f.conditions("listenerset", name, fmt.Sprintf("spec.listeners[%d]", i), l.Conditions)
		}
	}
	for subject, body := range out.Bodies {
		f.body(subject, body)
	}
	f.unserved(in, out.Bodies)
	slices.SortFunc(f.all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.Document, b.Document), cmp.Compare(a.Field, b.Field),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	f.all = slices.CompactFunc(f.all, func(a, b Finding) bool { // the same rule at several ports
		return a.Code == b.Code && a.Document == b.Document && a.Field == b.Field && a.Field != "" || a == b
	})
	return f.all
}

type findings struct{ all []Finding }

func (f *findings) add(one Finding) { f.all = append(f.all, one) }

// fieldOf is the field that a message begins with, as "spec.rules[0].backendRefs[1]: there is no …".
var fieldOf = regexp.MustCompile(`^(spec(?:\.[a-zA-Z]+(?:\[\d+\])?)+)(?:: | )`)

// conditions takes what a status says is not as it should be.
func (f *findings) conditions(kind string, name types.NamespacedName, field string, all []metav1.Condition) {
	for _, c := range all {
		bad := c.Status != metav1.ConditionTrue
		if c.Type == "Conflicted" || c.Type == "PartiallyInvalid" {
			bad = c.Status == metav1.ConditionTrue
		}
		if !bad {
			continue
		}
		level := Error
		if c.Type == "Programmed" { // nodes have not done it yet; the document is good
			level = Warning
		}
		if c.Type == "Programmed" && (c.Reason == "Invalid") {
			continue // another condition says why
		}
		for _, message := range strings.Split(c.Message, "; spec.") {
			if !strings.HasPrefix(c.Message, message) {
				message = "spec." + message
			}
			one := Finding{Level: level, Code: c.Reason, Document: documentName(kind, name), Field: field, Message: message, Remedy: remedyOf(c.Reason)}
			if at := fieldOf.FindStringSubmatch(message); at != nil {
				one.Field = at[1]
				one.Message = strings.TrimPrefix(strings.TrimPrefix(message, at[1]), ": ")
			}
			f.add(one)
		}
	}
}

func documentName(kind string, name types.NamespacedName) string {
	return strings.TrimPrefix(name.Namespace+"/"+kind+"/"+name.Name, "/")
}

var remedies = map[string]string{
	"BackendNotFound":            "apply the Service, or correct the backendRef",
	"InvalidKind":                "name a Service or an ExternalService as the backend",
	"RefNotPermitted":            "put the route into the backend's namespace",
	"UnsupportedProtocol":        "set appProtocol: http where it is HTTP",
	"UnsupportedValue":           "leave out or correct what the message names; the whole route is not in effect until then",
	"NoMatchingParent":           "apply the parent, or correct the parentRef",
	"NoMatchingListenerHostname": "give the route a hostname that a listener has, or a listener the hostname",
	"NotAllowed":                 "let the Gateway's allowedListeners take the namespace",
	"NotAllowedByListeners":      "let the listener's allowedRoutes take the route's namespace",
	"Conflicted":                 "of the two that the message names keep one, or give each a place of its own",
	"TargetNotFound":             "apply the target, or correct the targetRef",
	"InvalidCACertificateRef":    "apply the ConfigMap, with certificates of authorities in ca.crt",
	"NoValidCACertificate":       "name a ConfigMap with certificates of authorities in ca.crt; connections fail until then",
	"HostnameConflict":           "give each listener of a port a hostname of its own",
	"ProtocolConflict":           "give each port one protocol",
	"NoResources":                "run the Gateway on a host: declare it with gateway: in services.d",
	"PortUnavailable":            "free the port on the host that the message names",
}

func remedyOf(reason string) string {
	if r, ok := remedies[reason]; ok {
		return r
	}
	return "correct what the message names"
}

// unserved finds services without an instance.
func (f *findings) unserved(in compile.Input, bodies map[string]proto.Message) {
	for _, s := range in.Services {
		count, exists := 0, false
		for shard := uint32(0); ; shard++ {
			e, ok := bodies[snapshot.EndpointsSubject(s.Namespace, s.Name, shard)].(*snapshot.Endpoints)
			if !ok {
				break
			}
			exists, count = true, count+len(e.Endpoints)
		}
		if !exists || count > 0 {
			continue
		}
		one := Finding{
			Level: Warning, Code: CodeNoInstances, Document: documentName("service", types.NamespacedName{Namespace: s.Namespace, Name: s.Name}),
			Message: "no instance is registered", Remedy: "register one: a file in services.d, or `sennit service register`",
		}
		if len(s.Spec.Selector) > 0 {
			one.Field, one.Message, one.Remedy = "spec.selector", "no registered instance has these labels", "correct the selector, or register an instance with the labels"
		}
		f.add(one)
	}
}
