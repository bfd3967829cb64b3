package routing

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An ingress is what a gateway lets in, by the port on which it comes. It never changes but for the counters of
// round robin.
type ingress struct {
	ports map[uint32]*hosts[*ingressListener] // by snapshot.PortID: the listeners of a port by their hostnames
	body  *snapshot.Ingress
	users []*authn.Policy // that rules name
}

// An ingressListener has rules by their hostnames.
type ingressListener struct {
	hosts[*port]
	name        string
	secure      bool
	tcp         bool // its rules are for whole connections
	passthrough bool // TLS does not end here
}

// hosts hold something for each of several hostnames: exact ones, "*.example.com", and "" for every host.
type hosts[T any] struct {
	exact map[string]T
	below map[string]T // by ".example.com"
	any   *T
}

// add notes what a hostname has; false where it has something already.
func (h *hosts[T]) add(hostname string, v T) bool {
	if hostname == "" {
		if h.any != nil {
			return false
		}
		h.any = &v
		return true
	}
	to, key := &h.exact, hostname
	if suffix, wild := strings.CutPrefix(hostname, "*"); wild {
		to, key = &h.below, suffix
	}
	if *to == nil {
		*to = make(map[string]T)
	}
	if _, twice := (*to)[key]; twice {
		return false
	}
	(*to)[key] = v
	return true
}

// each calls visit with what the hostnames have that a host fits, the closest first, until it returns false. host is in
// lower case.
func (h *hosts[T]) each(host string, visit func(T) bool) {
	if v, ok := h.exact[host]; ok && !visit(v) {
		return
	}
	if len(h.below) > 0 {
		for rest := host; ; {
			dot := strings.IndexByte(rest, '.')
			if dot < 0 {
				break
			}
			if v, ok := h.below[rest[dot:]]; ok && (dot > 0 || len(rest) < len(host)) && !visit(v) {
				return
			}
			rest = rest[dot+1:]
		}
	}
	if h.any != nil {
		visit(*h.any)
	}
}

// usersOf makes the policies that rules of a gateway name. Those that did not change go on with what they know.
func (t *Table) usersOf(gateway exchange.ServiceName, body *snapshot.Ingress) ([]*authn.Policy, error) {
	before := map[string]*authn.Policy{}
	if in := (*t.ingresses.Load())[gateway]; in != nil {
		for _, p := range in.users {
			before[p.Origin()] = p
		}
	}
	var all []*authn.Policy
	for _, one := range body.Authentications {
		p, err := authn.Compile(one, before[one.Origin], t.UnknownKey)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// compileIngress makes what a gateway lets in ready for reading.
func (t *Table) compileIngress(gateway exchange.ServiceName, body *snapshot.Ingress) (*rules, error) {
	r := &rules{refers: make(map[*pool]uint32), ingress: &ingress{ports: make(map[uint32]*hosts[*ingressListener]), body: body}}
	faults, err := compileFaults(body.Faults)
	if err != nil {
		return nil, err
	}
	all, err := t.compileRules(body.Rules, body.Limits, faults, r.refers)
	if err != nil {
		return nil, err
	}
	if r.ingress.users, err = t.usersOf(gateway, body); err != nil {
		return nil, err
	}
	for i, s := range body.Rules {
		switch at := int(s.Authentication); {
		case at > len(r.ingress.users): // it must not let everything pass
			return nil, fmt.Errorf("rule %s: authentication %d of %d is named", s.Origin, at, len(r.ingress.users))
		case at > 0:
			all[i].users = r.ingress.users[at-1]
		}
	}
	for _, l := range body.Listeners {
		if number, udp := snapshot.Port(l.Port); number == 0 || l.Port > snapshot.UDPPort+65535 || udp && (!l.Tcp || l.Tls != nil) {
			return nil, fmt.Errorf("listener %s has port %d", l.Name, l.Port)
		}
		of := &ingressListener{name: l.Name, secure: l.Tls != nil, tcp: l.Tcp, passthrough: l.Tls.GetPassthrough()}
		if of.passthrough && !of.tcp {
			return nil, fmt.Errorf("listener %s lets TLS through and looks at what it carries", l.Name)
		}
		for _, h := range l.Hosts {
			p := &port{protocol: snapshot.Protocol_PROTOCOL_HTTP}
			if of.tcp {
				p.protocol = snapshot.Protocol_PROTOCOL_TCP
			}
			for _, at := range h.Rules {
				if int(at) >= len(all) {
					return nil, fmt.Errorf("listener %s: rule %d of %d is named", l.Name, at, len(all))
				}
				p.rules = append(p.rules, all[at])
			}
			p.index = newIndex(p.rules)
			if !of.add(h.Hostname, p) {
				return nil, fmt.Errorf("listener %s has hostname %q twice", l.Name, h.Hostname)
			}
		}
		listeners := r.ingress.ports[l.Port]
		if listeners == nil {
			listeners = &hosts[*ingressListener]{}
			r.ingress.ports[l.Port] = listeners
		}
		for _, other := range body.Listeners {
			if other.Port == l.Port && (other.Tls == nil) != (l.Tls == nil) {
				return nil, fmt.Errorf("port %d has listeners with TLS and without", l.Port)
			}
			if other.Port == l.Port && other.Tcp != l.Tcp && l.Tls == nil {
				return nil, fmt.Errorf("port %d has listeners for TCP and for HTTP, without TLS", l.Port)
			}
		}
		for _, at := range l.Tls.GetCertificates() {
			if int(at) >= len(body.Certificates) {
				return nil, fmt.Errorf("listener %s: certificate %d of %d is named", l.Name, at, len(body.Certificates))
			}
		}
		if !listeners.add(l.Hostname, of) {
			return nil, fmt.Errorf("port %d has two listeners for hostname %q", l.Port, l.Hostname)
		}
	}
	return r, nil
}

// applyInbound takes what a gateway lets in; what else an Inbound says is not for routing.
func (t *Table) applyInbound(name exchange.ServiceName, subject string, version snapshot.Version, body *snapshot.Inbound) ([]Applied, error) {
	return t.accept(outboundKey{callee: name, ingress: true}, subject, version, func() (*rules, error) {
		t.publishServed(name, body.GetPorts())
		if body.GetIngress() == nil {
			return nil, nil
		}
		return t.compileIngress(name, body.Ingress)
	})
}

// publishIngress swaps what readers see of one gateway.
func (t *Table) publishIngress(gateway exchange.ServiceName) {
	next := make(map[exchange.ServiceName]*ingress)
	for name, in := range *t.ingresses.Load() {
		if name != gateway {
			next[name] = in
		}
	}
	if o := t.outbounds[outboundKey{callee: gateway, ingress: true}]; o != nil && o.current != nil {
		next[gateway] = o.current.ingress
	}
	t.ingresses.Store(&next)
}

// IngressPorts lists the ports on which a gateway lets requests in, as snapshot.PortID has them, ascending.
func (t *Table) IngressPorts(gateway exchange.ServiceName) []uint32 {
	in := (*t.ingresses.Load())[gateway]
	if in == nil {
		return nil
	}
	ports := make([]uint32, 0, len(in.ports))
	for number := range in.ports {
		ports = append(ports, number)
	}
	slices.Sort(ports)
	return ports
}

// Ingress is what a gateway lets in now, which must not be changed; nil: nothing.
func (t *Table) Ingress(gateway exchange.ServiceName) *snapshot.Ingress {
	if in := (*t.ingresses.Load())[gateway]; in != nil {
		return in.body
	}
	return nil
}

// An IngressListener is what a gateway's node needs to know of a listener before anything is routed.
type IngressListener struct {
	Name        string
	TCP         bool // its connections are not looked at, and are to be routed as a whole
	Passthrough bool // they are encrypted, and are not to be decrypted here
}

// IngressSecure reports whether the connections to a gateway's port are encrypted.
func (t *Table) IngressSecure(gateway exchange.ServiceName, number uint16) bool {
	in := (*t.ingresses.Load())[gateway]
	return in != nil && slices.ContainsFunc(in.body.Listeners, func(l *snapshot.IngressListener) bool { return l.Port == uint32(number) && l.Tls != nil })
}

// IngressListener is the listener of a gateway's port that a TLS client gets which asks for a server's name, or for none;
// without TLS, that of whoever connects, as far as it is one for TCP. false: none is for that name.
func (t *Table) IngressListener(gateway exchange.ServiceName, number uint16, server string) (IngressListener, bool) {
	in := (*t.ingresses.Load())[gateway]
	if in == nil {
		return IngressListener{}, false
	}
	l := in.closest(uint32(number), strings.ToLower(server))
	if l == nil {
		return IngressListener{}, false
	}
	return IngressListener{Name: l.name, TCP: l.tcp, Passthrough: l.passthrough}, true
}

// closest is the listener of a port whose hostname is closest to a host.
func (in *ingress) closest(port uint32, host string) (of *ingressListener) {
	if listeners := in.ports[port]; listeners != nil {
		listeners.each(host, func(l *ingressListener) bool {
			of = l
			return false // the closest alone has the request
		})
	}
	return of
}

// takes reports whether a call's connection is that of a listener. It is of the one that its client asked for: what that
// proved, or demanded, is not for the others. req is nil where the connection is routed, and no request.
func (in *ingress) takes(of *ingressListener, call *Call, req *exchange.Request) bool {
	return of.tcp == (req == nil) && of.secure == call.Secure && (!call.Secure || in.closest(call.portID(), call.ServerName) == of)
}

// hostOf is what listeners and hostnames are chosen by: the host of a request, or the server's name that a connection asks
// for.
func hostOf(call *Call, req *exchange.Request) string {
	if req == nil {
		return call.ServerName
	}
	return strings.ToLower(req.Host())
}

// PickIngress routes a request from outside that came to a gateway, which is both the Caller and the Callee of call,
// on the call's port; or, where req is nil, a connection whose bytes are not looked at. It is as Pick otherwise, and
// allocates where the host has upper case.
func (t *Table) PickIngress(call *Call, req *exchange.Request, out *Decision) {
	out.reset()
	in := (*t.ingresses.Load())[call.Callee]
	if in == nil || in.ports[call.portID()] == nil {
		out.answer(404, exchange.NoRoute, "the gateway has no listener on this port any more")
		return
	}
	host := hostOf(call, req)
	of := in.closest(call.portID(), host)
	if of == nil {
		out.answer(404, exchange.NoRoute, "no listener of the gateway is for this host")
		return
	}
	if !in.takes(of, call, req) {
		out.answer(421, exchange.NoRoute, "another listener of the gateway is for this host; open a connection to it")
		return
	}
	out.answer(404, exchange.NoRoute, "no rule of the gateway matches")
	of.each(host, func(p *port) bool {
		i, oneWay := p.match(req, out)
		switch {
		case !oneWay:
			out.answer(400, exchange.Malformed, "the path can be read in several ways that different rules match")
			return false
		case i == none:
			return true
		}
		out.Status, out.Reason, out.Detail = 0, exchange.Completed, ""
		out.follow(&p.rules[i], call, req)
		return false
	})
}
