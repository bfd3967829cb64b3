package compile

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// faults are those of an input, by what they are attached to.
type faults struct {
	services map[exchange.ServiceName][]*snapshot.Fault
	rules    map[string][]*snapshot.Fault // by the beginning of origins: "<kind>/<ns>/<name>", or that and "#<rule>"
}

// attachFaults resolves the policies, in the order of their names, and puts into out what became of them. A policy is
// in effect at the targets that are there; one that says what cannot be executed is in effect nowhere.
func attachFaults(in Input, services *catalog, out *Output) *faults {
	f := &faults{services: map[exchange.ServiceName][]*snapshot.Fault{}, rules: map[string][]*snapshot.Fault{}}
	routes := map[routeID]*routeDocument{}
	for _, r := range routesOf(in) {
		routes[r.id()] = r
	}
	for _, p := range byName(in.Faults) {
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		compiled, problem := compileFaults(p)
		if problem != "" {
			out.Faults[name] = observed(p.Generation, cut(v1.Condition{
				Type: string(gatewayv1.PolicyConditionAccepted), Status: v1.ConditionFalse, Reason: string(gatewayv1.PolicyReasonInvalid),
				Message: problem + "; the policy is not in effect",
			}))
			continue
		}
		var missing []string
		for _, t := range p.Spec.TargetRefs {
			if why := f.attach(p.Namespace, t, compiled, services, routes); why != "" {
				missing = append(missing, why)
			}
		}
		out.Faults[name] = observed(p.Generation, policyCondition(len(p.Spec.TargetRefs), gatewayv1.PolicyReasonTargetNotFound, missing))
	}
	return f
}

// compileFaults makes what nodes need of a policy, or says which field cannot be executed.
func compileFaults(p *api.FaultPolicy) (compiled []*snapshot.Fault, problem string) {
	for i := range p.Spec.Faults {
		source := &p.Spec.Faults[i]
		one := &snapshot.Fault{
			Id: p.Namespace + "/" + p.Name + "/" + source.Name, Share: source.Share(),
			DelayMs: uint64(source.DelayOf().Milliseconds()), Reset_: source.Reset,
		}
		for j := range source.Matches {
			if problem := unsupportedMatch(&source.Matches[j]); problem != "" {
				return nil, fmt.Sprintf("spec.faults[%d].matches[%d]%s", i, j, problem)
			}
			m := compileMatch(&source.Matches[j]).rule.Match
			if m == nil { // of everything, whatever the others ask for
				m = &snapshot.Match{}
			}
			one.Matches = append(one.Matches, m)
		}
		for _, caller := range source.From {
			name := exchange.ServiceName{Namespace: caller.Namespace, Name: caller.Name}
			if name.Namespace == "" {
				name.Namespace = p.Namespace
			}
			one.Callers = append(one.Callers, name.String())
		}
		if a := source.Abort; a != nil {
			one.Abort, one.AbortGrpc = uint32(a.HTTPStatus), a.GRPCCode()
		}
		if b := source.Bandwidth; b != nil {
			one.ResponseRate, one.RequestRate = uint64(b.ResponseBytesPerSecond), uint64(b.RequestBytesPerSecond)
		}
		compiled = append(compiled, one)
	}
	return compiled, ""
}

// attach adds faults to a target, or says why they mean nothing there.
func (f *faults) attach(namespace string, t api.FaultTarget, compiled []*snapshot.Fault, services *catalog, routes map[routeID]*routeDocument) string {
	if t.Kind == api.HTTPRoute.Name || t.Kind == api.GRPCRoute.Name {
		return f.attachRoute(routeID{t.Kind, namespace, t.Name}, t.SectionName, compiled, routes)
	}
	name := exchange.ServiceName{Namespace: namespace, Name: t.Name}
	s, problem := services.find(t.Kind, name)
	if problem != "" {
		return problem
	}
	f.services[name] = append(f.services[name], compiled...)
	return s.needsHTTP(t.Kind, "connections are not spoiled")
}

func (f *faults) attachRoute(name routeID, section string, compiled []*snapshot.Fault, routes map[routeID]*routeDocument) string {
	route := routes[name]
	if route == nil {
		return fmt.Sprintf("there is no %s", name)
	}
	origin := fmt.Sprintf("%s/%s/%s", route.kind.Singular, name.namespace, name.name)
	if section == "" {
		f.rules[origin] = append(f.rules[origin], compiled...)
		return ""
	}
	found := false
	for i := range route.Spec.Rules {
		if given := route.Spec.Rules[i].Name; given != nil && string(*given) == section {
			at := fmt.Sprintf("%s#%d", origin, i)
			f.rules[at] = append(f.rules[at], compiled...)
			found = true
		}
	}
	if !found {
		return fmt.Sprintf("%s has no rule of the name %s", name, section)
	}
	return ""
}

// spoil has the rules of a port name the faults of their service, of their route, and of the services that they send
// requests to.
func (f *faults) spoil(body *snapshot.Outbound, port *snapshot.OutboundPort, service exchange.ServiceName) {
	if !isHTTP(port.Protocol) {
		return
	}
	for i, rule := range port.Rules {
		port.Rules[i] = f.spoilRule(rule, service, &body.Faults)
	}
}

// spoilRule has a rule of a called service, or of a gateway (whose service is zero), name its faults by their positions
// among all of a body's. The same rule is at other services, ports and gateways: one that names some is a clone.
func (f *faults) spoilRule(rule *snapshot.Rule, service exchange.ServiceName, all *[]*snapshot.Fault) *snapshot.Rule {
	if len(f.services) == 0 && len(f.rules) == 0 {
		return rule
	}
	route, position, _ := strings.Cut(rule.Origin, "#")
	index, _, _ := strings.Cut(position, "/")
	own := slices.Concat(f.services[service], f.rules[route], f.rules[route+"#"+index])
	spoiled := rule
	if len(own) > 0 {
		spoiled = proto.Clone(rule).(*snapshot.Rule)
		spoiled.Faults = positions(own, nil, all)
	}
	for i, b := range rule.Backends {
		of := f.services[exchange.ServiceName{Namespace: b.Namespace, Name: b.Service}]
		if len(of) == 0 {
			continue
		}
		if spoiled == rule {
			spoiled = proto.Clone(rule).(*snapshot.Rule)
		}
		spoiled.Backends[i].Faults = positions(of, own, all)
	}
	return spoiled
}

// positions finds faults among all of a body's, and adds those that are new there. Each is named once; those of the
// whole rule are not named by its backends again.
func positions(of, except []*snapshot.Fault, all *[]*snapshot.Fault) (at []uint32) {
	for _, one := range of {
		if slices.Contains(except, one) {
			continue
		}
		i := slices.Index(*all, one)
		if i < 0 {
			i = len(*all)
			*all = append(*all, one)
		}
		if !slices.Contains(at, uint32(i)) {
			at = append(at, uint32(i))
		}
	}
	return at
}
