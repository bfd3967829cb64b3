package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// listen opens what services.d declares, and the ports of the gateways that it names, where that has changed. n.mu is
// held.
func (n *Node) listen() {
	if n.capture == nil {
		return // New is not done; Run declares
	}
	wanted := []capture.Listener{}
	for _, l := range n.local.Listeners() {
		wanted = append(wanted, capture.Listener{As: l.As, To: l.To, Port: l.Port, UDP: l.UDP, Address: l.Address, HasUID: l.HasUID, UID: l.UID, Unit: l.Unit})
	}
	wanted = append(wanted, n.plaintextListeners()...)
	if n.takeCertificates() {
		n.registrar.Wake() // what could be opened is told
	}
	taken := map[place]bool{}
	for _, l := range wanted {
		taken[place{l.Address, l.UDP}] = true
	}
	for _, in := range n.gateways() {
		if !n.identifiedAs(in.Service) {
			continue // who came now would be answered with 503
		}
		for _, port := range n.table.IngressPorts(in.Service) {
			at := placeOf(in.Gateway, port)
			if !taken[at] { // else gatewayPorts says so
				taken[at] = true
				wanted = append(wanted, capture.Listener{As: in.Service, To: in.Service, Port: at.address.Port(), UDP: at.udp, Address: at.address, Gateway: true})
			}
		}
	}
	if n.opened == nil || !slices.Equal(wanted, n.opened) {
		n.opened = wanted
		n.capture.Apply(wanted)
		n.registrar.Wake() // ports of gateways are told
	}
}

// A place is what one listener alone can have.
type place struct {
	address netip.AddrPort
	udp     bool
}

// placeOf is where a port, as snapshot.PortID has it, is on an address.
func placeOf(address netip.Addr, port uint32) place {
	number, udp := snapshot.Port(port)
	return place{netip.AddrPortFrom(address, number), udp}
}

// String is for the status.
func (p place) String() string {
	if p.udp {
		return p.address.String() + "/udp"
	}
	return p.address.String()
}

// takeCertificates opens those of the gateways that run here. n.mu is held.
func (n *Node) takeCertificates() (changed bool) {
	bodies := map[exchange.ServiceName]*snapshot.Ingress{}
	for _, in := range n.gateways() {
		if body := n.table.Ingress(in.Service); body != nil {
			bodies[in.Service] = body
		}
	}
	n.logins.take(bodies)
	return n.certificates.take(bodies)
}

// identifiedAs reports whether this node has a certificate of a service. Being allowed to run it, it gets one soon.
func (n *Node) identifiedAs(service exchange.ServiceName) bool {
	return slices.ContainsFunc(n.identity.Status().Certificates, func(c ca.CertificateStatus) bool { return serviceOf(c.SPIFFEID) == service.String() })
}

// gateways are those that services.d declares, each once, by name.
func (n *Node) gateways() []*registry.Instance {
	var all []*registry.Instance
	for _, in := range n.local.Instances() {
		if in.IsGateway() && (len(all) == 0 || all[len(all)-1].Service != in.Service) {
			all = append(all, in)
		}
	}
	return all
}

// gatewayPorts tells of the ports that a gateway's configuration asks for (registry.RegistrarConfig).
func (n *Node) gatewayPorts(gateway exchange.ServiceName) []registry.GatewayPort {
	var ports []registry.GatewayPort
	at := netip.Addr{}
	for _, in := range n.gateways() {
		if in.Service == gateway {
			at = in.Gateway
		}
	}
	open, identified := n.openListeners(), n.identifiedAs(gateway)
	for _, id := range n.table.IngressPorts(gateway) {
		port := registry.GatewayPort{Number: id}
		s, known := open[placeOf(at, id)]
		switch {
		case !identified:
			port.Problem = fmt.Sprintf("this node has no certificate of %s yet", gateway)
		case !known:
			port.Problem = "is not open yet"
		case !s.Listener.Gateway:
			port.Problem = fmt.Sprintf("a listener of services.d has %s", s.Listener.Address)
		case s.Listener.As != gateway:
			port.Problem = fmt.Sprintf("gateway %s has %s on this host", s.Listener.As, s.Listener.Address)
		case s.Err != nil:
			port.Problem = s.Err.Error()
		default:
			port.Problem = n.certificates.problem(gateway, n.table.Ingress(gateway), id)
		}
		ports = append(ports, port)
	}
	return ports
}

// openListeners are those that capture was asked for, by address.
func (n *Node) openListeners() map[place]capture.Status {
	open := map[place]capture.Status{}
	for _, s := range n.capture.Status() {
		open[place{s.Listener.Address, s.Listener.UDP}] = s
	}
	return open
}

// gatewayStatus is what `sennit status --local` shows of gateways.
func (n *Node) gatewayStatus() []report.Gateway {
	all := []report.Gateway{}
	open := n.openListeners()
	for _, in := range n.gateways() {
		ports := n.gatewayPorts(in.Service)
		if len(ports) == 0 {
			all = append(all, report.Gateway{Gateway: in.Service.String(), Address: in.Gateway.String(), Error: "no Gateway of that name that this node may run has listeners"})
		}
		for _, p := range ports {
			at := placeOf(in.Gateway, p.Number)
			one := report.Gateway{Gateway: in.Service.String(), Address: at.String(), Error: p.Problem}
			if s, known := open[at]; known && s.Listener.As == in.Service {
				one.Connections, one.Accepted, one.Refused = s.Active, s.Accepted, s.Refused
			}
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b report.Gateway) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Address, b.Address))
	})
	return all
}
