package compile

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A backendTLS is one BackendTLSPolicy (GEP-1897), with what became of it.
type backendTLS struct {
	document *gatewayv1.BackendTLSPolicy
	says     *snapshot.Origination
	invalid  string // why nobody can be believed by it, and the reason: connections fail; may be empty
	reason   gatewayv1.PolicyConditionReason
	refs     v1.Condition // ResolvedRefs
	targets  []*backendTLSTarget
}

// A backendTLSTarget is what a policy is for: a service, or one of its ports.
type backendTLSTarget struct {
	ref     gatewayv1.LocalPolicyTargetReferenceWithSectionName
	service *service // nil: there is none
	section string   // of one port; empty: of all that have no policy of their own
	problem string   // why the policy is not in effect there, and the reason; may be empty
	reason  gatewayv1.PolicyConditionReason
}

// attachBackendTLS gives each service the policies that say how its instances are spoken to in TLS: of several for one port
// the oldest, and one for a port before one for all.
func attachBackendTLS(in Input, services *catalog) []*backendTLS {
	type place struct {
		service *service
		section string
	}
	roots := make(map[types.NamespacedName]*corev1.ConfigMap, len(in.ConfigMaps))
	for _, document := range in.ConfigMaps {
		roots[types.NamespacedName{Namespace: document.Namespace, Name: document.Name}] = document
	}
	taken := map[place]*backendTLS{}
	all := make([]*backendTLS, 0, len(in.BackendTLS))
	for _, document := range oldestFirst(in.BackendTLS) {
		p := newBackendTLS(document, roots)
		all = append(all, p)
		for _, ref := range document.Spec.TargetRefs {
			t := services.backendTLSTarget(document.Namespace, ref)
			p.targets = append(p.targets, t)
			if t.problem != "" {
				continue
			}
			at := place{t.service, t.section}
			if before := taken[at]; before != nil {
				t.reason = gatewayv1.PolicyReasonConflicted
				t.problem = fmt.Sprintf("BackendTLSPolicy %s/%s is for %s too, and came first", before.document.Namespace, before.document.Name, t)
				continue
			}
			taken[at] = p
		}
	}
	for at, p := range taken {
		for i := range at.service.ports {
			port := &at.service.ports[i]
			if isUDP(port.protocol) {
				continue // there is no TLS in datagrams
			}
			if at.section == port.name || at.section == "" && taken[place{at.service, port.name}] == nil {
				at.service.secure(port, p)
			}
		}
	}
	return all
}

// backendTLSTarget finds what a policy names, or says why it is not there.
func (c *catalog) backendTLSTarget(namespace string, ref gatewayv1.LocalPolicyTargetReferenceWithSectionName) *backendTLSTarget {
	t := &backendTLSTarget{ref: ref}
	if ref.SectionName != nil {
		t.section = string(*ref.SectionName)
	}
	external := string(ref.Group) == api.ExternalServices.Group && string(ref.Kind) == api.ExternalServices.Name
	if !external && (ref.Group != "" || ref.Kind != "Service") {
		t.reason = gatewayv1.PolicyReasonInvalid
		t.problem = fmt.Sprintf("kind %s in group %q is not supported; a target is a Service of the core group, or an ExternalService of group sennit.dev", ref.Kind, ref.Group)
		return t
	}
	t.reason = gatewayv1.PolicyReasonTargetNotFound
	s, problem := c.find(string(ref.Kind), exchange.ServiceName{Namespace: namespace, Name: string(ref.Name)})
	switch {
	case problem != "":
		t.problem = problem
	case external && t.section != "":
		t.problem = fmt.Sprintf("ExternalService %s has one port, without a name: leave sectionName out", s.name)
	case external && s.outside.Spec.TLS != nil && s.outside.Spec.TLS.Mode == api.TLSNone:
		t.reason = gatewayv1.PolicyReasonInvalid
		t.problem = fmt.Sprintf("ExternalService %s has spec.tls.mode None: leave that out", s.name)
	case t.section != "" && !slices.ContainsFunc(s.ports, func(p servicePort) bool { return p.name == t.section && !isUDP(p.protocol) }):
		t.problem = fmt.Sprintf("Service %s has no port of the name %s that is of TCP", s.name, t.section)
	default:
		t.service = s
	}
	return t
}

func (t *backendTLSTarget) String() string {
	if t.section != "" {
		return fmt.Sprintf("port %s of %s %s", t.section, t.ref.Kind, t.ref.Name)
	}
	return fmt.Sprintf("%s %s", t.ref.Kind, t.ref.Name)
}

// newBackendTLS reads whom a policy believes. Where that is nobody it is in effect all the same, and connections fail.
func newBackendTLS(document *gatewayv1.BackendTLSPolicy, roots map[types.NamespacedName]*corev1.ConfigMap) *backendTLS {
	p := &backendTLS{document: document, says: &snapshot.Origination{
		Origin: document.Namespace + "/" + document.Name, ServerName: string(document.Spec.Validation.Hostname),
	}}
	p.refs = v1.Condition{
		Type: string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), Status: v1.ConditionTrue,
		Reason: string(gatewayv1.BackendTLSPolicyReasonResolvedRefs), Message: "all references are resolved",
	}
	for _, name := range document.Spec.Validation.SubjectAltNames {
		if name.Type == gatewayv1.URISubjectAltNameType {
			p.says.Uris = append(p.says.Uris, string(name.URI))
		} else {
			p.says.Names = append(p.says.Names, string(name.Hostname))
		}
	}
	known := document.Spec.Validation.WellKnownCACertificates
	switch {
	case len(document.Spec.Options) > 0:
		p.reason, p.invalid = gatewayv1.PolicyReasonInvalid, "spec.options: there are none in this version; leave them out"
	case len(document.Spec.Validation.CACertificateRefs) > 0:
		p.believe(roots)
	case known != nil && *known == gatewayv1.WellKnownCACertificatesSystem:
		p.says.HostRoots = true
	case known != nil && *known != "":
		p.reason, p.invalid = gatewayv1.PolicyReasonInvalid, fmt.Sprintf("spec.validation.wellKnownCACertificates: must be System, is %s", *known)
	default:
		p.reason, p.invalid = gatewayv1.PolicyReasonInvalid, "spec.validation: caCertificateRefs or wellKnownCACertificates is missing"
	}
	return p
}

// believe takes the certificates of the ConfigMaps that a policy names, as far as they are there.
func (p *backendTLS) believe(all map[types.NamespacedName]*corev1.ConfigMap) {
	var problems []string
	problem := func(i int, reason gatewayv1.PolicyConditionReason, format string, args ...any) {
		if len(problems) == 0 {
			p.refs.Status, p.refs.Reason = v1.ConditionFalse, string(reason)
		}
		problems = append(problems, fmt.Sprintf("spec.validation.caCertificateRefs[%d]: %s", i, fmt.Sprintf(format, args...)))
	}
	for i, ref := range p.document.Spec.Validation.CACertificateRefs {
		name := types.NamespacedName{Namespace: p.document.Namespace, Name: string(ref.Name)}
		document := all[name]
		switch {
		case ref.Group != "" || ref.Kind != "ConfigMap":
			problem(i, gatewayv1.BackendTLSPolicyReasonInvalidKind, "kind %s in group %q is not a ConfigMap of the core group", ref.Kind, ref.Group)
		case document == nil:
			problem(i, gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, "there is no ConfigMap %s", name)
		default:
			roots := readRoots(document)
			if len(roots) == 0 {
				problem(i, gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, "ConfigMap %s does not hold certificates in %s, in PEM", name, rootsKey)
			}
			p.says.Roots = append(p.says.Roots, roots...)
		}
	}
	if len(problems) > 0 {
		p.refs.Message = strings.Join(problems, "; ")
		p.refs = cut(p.refs)
	}
	if len(p.says.Roots) == 0 {
		p.reason, p.invalid = gatewayv1.BackendTLSPolicyReasonNoValidCACertificate, "spec.validation: none of caCertificateRefs can be used, and connections fail"
	}
}

// secure has a port's instances spoken to as a policy says. What only said that it is HTTP inside TLS is HTTP for everybody
// then.
func (s *service) secure(port *servicePort, p *backendTLS) {
	port.tls = p
	inside := strings.HasPrefix(port.name, "https")
	if s.document != nil {
		for _, documented := range s.document.Spec.Ports {
			if uint32(documented.Port) == port.number && documented.AppProtocol != nil && *documented.AppProtocol != "" {
				inside = strings.EqualFold(*documented.AppProtocol, "https")
			}
		}
	}
	if inside && !isHTTP(port.protocol) && s.outside == nil {
		port.protocol, port.declared = snapshot.Protocol_PROTOCOL_HTTP, true
	}
	if at := slices.IndexFunc(s.reachable, func(r servicePort) bool { return r.number == port.number }); at >= 0 {
		s.reachable[at] = *port
	}
}

// calledAt is what instances' nodes are told of who is called.
func calledAt(name exchange.ServiceName, port uint32) string { return fmt.Sprintf("%s:%d", name, port) }

// securedPorts are, for each service that runs, the ports of Services that lead to it and are spoken to in TLS.
func (c *catalog) securedPorts() map[string][]*snapshot.SecuredPort {
	found := map[string][]*snapshot.SecuredPort{}
	for _, s := range c.sorted() {
		for _, port := range s.ports {
			if port.tls == nil || s.outside != nil {
				continue
			}
			called := calledAt(s.name, port.number)
			for _, shard := range s.shards {
				for _, e := range shard.Endpoints {
					secured := found[e.Service]
					if len(secured) == 0 || secured[len(secured)-1].Called != called {
						secured = append(secured, &snapshot.SecuredPort{Called: called, Tls: port.tls.says})
						found[e.Service] = secured
					}
					if target := targetOf(e, port.number); e.Service == s.name.String() && target != 0 {
						last := secured[len(secured)-1]
						if !slices.Contains(last.Targets, target) {
							last.Targets = append(last.Targets, target)
							slices.Sort(last.Targets)
						}
					}
				}
			}
		}
	}
	return found
}

// targetOf is the port of an instance's own service that a port leads to; 0: it does not offer it.
func targetOf(e *snapshot.Endpoint, port uint32) uint32 {
	if len(e.Ports) == 0 {
		return port
	}
	for _, p := range e.Ports {
		if p.Number == port {
			return p.Target
		}
	}
	return 0
}

// asTheyCome are the rules of a listener that TLS passes through: it is between the client and the process, and no node
// begins another inside it.
func asTheyCome(rule *snapshot.Rule) *snapshot.Rule {
	plain := rule
	for i, b := range rule.Backends {
		if b.Called == "" {
			continue
		}
		if plain == rule {
			plain = proto.Clone(rule).(*snapshot.Rule) // it is at listeners of other modes too
		}
		plain.Backends[i].Called = ""
	}
	return plain
}

// originates reports whether a body says by whom TLS is begun, or has its readers say so to others.
func originates(in *snapshot.Inbound, rules []*snapshot.Rule) bool {
	if len(in.GetSecured()) > 0 || in.GetOutside().GetOrigination() != nil {
		return true
	}
	return slices.ContainsFunc(rules, func(r *snapshot.Rule) bool {
		return slices.ContainsFunc(r.Backends, func(b *snapshot.Backend) bool { return b.Called != "" }) ||
			slices.ContainsFunc(r.GetFilters().GetMirrors(), func(m *snapshot.Mirror) bool { return m.GetBackend().GetCalled() != "" })
	})
}
