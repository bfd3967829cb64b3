package routing

import (
	"maps"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Serves tells what the processes of a service speak behind one of its ports, as the Service says. TCP where nothing
// is known. It takes no lock.
func (t *Table) Serves(service exchange.ServiceName, port uint16) snapshot.Protocol {
	for _, p := range (*t.served.Load())[service] {
		if p.Number == uint32(port) {
			return p.Protocol
		}
	}
	return snapshot.Protocol_PROTOCOL_TCP
}

// publishServed swaps what readers see of a service that runs here.
func (t *Table) publishServed(service exchange.ServiceName, ports []*snapshot.InboundPort) {
	next := maps.Clone(*t.served.Load())
	if delete(next, service); len(ports) > 0 {
		next[service] = ports
	}
	t.served.Store(&next)
}
