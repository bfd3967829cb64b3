package registry

import (
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxGatewayPorts bounds the ports of one gateway: the listeners that one Gateway may have.
const maxGatewayPorts = 64

// maxPortProblem bounds what is told about one port of a gateway, in bytes.
const maxPortProblem = 200

func (r *reader) gateway(n *yaml.Node, path string) netip.Addr {
	var address netip.Addr
	r.object(n, path, map[string]func(*yaml.Node, string){
		"address": func(n *yaml.Node, path string) {
			s := r.string(n, path)
			var err error
			if address, err = netip.ParseAddr(s); s != "" && (err != nil || address.IsMulticast()) {
				r.fail(n, path, "must be an IP address of this host without a port, or 0.0.0.0 or :: for each of them (its Gateway says which ports), is %q", n.Value)
			}
		},
	})
	if n.Kind == yaml.MappingNode && !has(n, "address") {
		r.fail(n, join(path, "address"), "is missing; give the IP address on which those outside reach this host, or 0.0.0.0")
	}
	return address.Unmap()
}

// gatewayRegistration is what is said of a gateway whose ports are as told.
func (in *Instance) gatewayRegistration(ports []GatewayPort, sealing []byte) *snapshot.Gateway {
	g := &snapshot.Gateway{Address: in.Gateway.String(), SealingKey: sealing}
	for _, p := range ports[:min(len(ports), maxGatewayPorts)] {
		g.Ports = append(g.Ports, &snapshot.GatewayPort{Number: p.Number, Problem: p.Problem[:min(len(p.Problem), maxPortProblem)]})
	}
	return g
}

// A GatewayPort is a port that a gateway's configuration asks for.
type GatewayPort struct {
	Number  uint32 // as snapshot.PortID has it
	Problem string // why it is not open; empty: it is
}

func checkGateway(g *snapshot.Gateway) error {
	if _, err := netip.ParseAddr(g.GetAddress()); err != nil {
		return fmt.Errorf("its gateway's address is %q", g.GetAddress())
	}
	if n := len(g.GetSealingKey()); n != 0 && n != 32 {
		return fmt.Errorf("its gateway's sealing key has %d bytes", n)
	}
	if len(g.GetPorts()) > maxGatewayPorts {
		return fmt.Errorf("its gateway has %d ports", len(g.GetPorts()))
	}
	last := uint32(0)
	for _, p := range g.GetPorts() {
		if p.GetNumber() <= last || p.GetNumber() > snapshot.UDPPort+65535 || len(p.GetProblem()) > maxPortProblem {
			return fmt.Errorf("its gateway's ports are not in order, or too much is said of port %d", p.GetNumber())
		}
		last = p.GetNumber()
	}
	return nil
}
