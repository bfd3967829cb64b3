package transport

import (
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A Key names a lane: who calls, which node is called, and which service there.
type Key struct {
	Local  exchange.ServiceName
	Node   string
	Remote exchange.ServiceName
	// Carrier is what the lane may run over, as the called service has it. Another one is another lane, so that a
	// change takes hold with the next exchange.
	Carrier Carrier
}

// String returns "shop/cart→web1:shop/orders", as logs name a lane.
func (k Key) String() string { return k.Local.String() + "→" + k.Node + ":" + k.Remote.String() }

// Class says which of a lane's connections a stream belongs to, so that bulk never stands before the others.
type Class uint8

const (
	// Interactive is for exchanges of usual size.
	Interactive Class = iota
	// Bulk is for TCP, streaming, and requests whose bodies cannot be sent again. It has larger windows, and
	// each exchange a stream of its own: a stream that was used before may be ended by the callee just when the
	// next request goes out on it, which is nothing to a request that can go out once more.
	Bulk
	// Flows is for UDP: its connections carry datagrams beside their streams, of which each is a flow's and used once.
	Flows
	classes
)

// String returns the class's name as it stands in logs and metrics.
func (c Class) String() string {
	switch c {
	case Bulk:
		return "bulk"
	case Flows:
		return "flows"
	}
	return "interactive"
}

const serverNameSuffix = ".svc.mesh.internal"

// serverName is the SNI that selects the callee's SVID: "orders.shop.svc.mesh.internal".
func serverName(s exchange.ServiceName) string { return s.Name + "." + s.Namespace + serverNameSuffix }

func parseServerName(sni string) (s exchange.ServiceName, ok bool) {
	rest, ok := strings.CutSuffix(sni, serverNameSuffix)
	if !ok {
		return s, false
	}
	s.Name, s.Namespace, ok = strings.Cut(rest, ".")
	return s, ok && exchange.IsLabel(s.Name) && exchange.IsLabel(s.Namespace)
}
