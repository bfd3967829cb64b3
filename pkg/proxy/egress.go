package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/sennit-mesh/sennit/pkg/egress"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A Place is where an instance of this host takes exchanges: a process, or a host outside where this node itself is the
// instance. Connections are kept by it: what configuration replaces is another place.
type Place struct {
	Process netip.AddrPort
	HTTP2   bool         // is spoken to it
	Connect bool         // the process takes CONNECT
	Outside *egress.Host // nil: the process
}

func (p Place) dial(ctx context.Context) (net.Conn, error) {
	if p.Outside != nil {
		conn, err := p.Outside.Dial(ctx)
		if err != nil {
			return nil, err // a nil *egress.Conn would be no nil net.Conn
		}
		return conn, nil
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	return dialer.DialContext(ctx, "tcp", p.Process.String())
}

// takes reports whether exchanges of a kind are what the place is for. A process is asked by whoever registered it.
func (p Place) takes(kind exchange.Kind) bool {
	return p.Outside == nil || p.Outside.HTTP == (kind == exchange.HTTP)
}

// String is for the log.
func (p Place) String() string {
	if p.Outside != nil {
		return p.Outside.Authority
	}
	return p.Process.String()
}

// undialled names why a connection to a place did not come about, and tells the operator where it leads outside, once a
// minute for each host. Nothing was sent with any of these reasons.
func (in *Inbound) undialled(service exchange.ServiceName, place Place, err error) exchange.Reason {
	if place.Outside != nil && place.Outside.Tell(time.Now()) {
		in.log.Warn("a host outside the mesh is not reached", "service", service.String(), "host", place.String(), "err", err)
	}
	switch {
	case errors.Is(err, egress.ErrUnresolved):
		return exchange.NameUnresolved
	case errors.Is(err, egress.ErrRefused):
		return exchange.AddressRefused
	case errors.Is(err, egress.ErrTLS):
		return exchange.TLSFailed
	case errors.Is(err, egress.ErrBusy), errors.Is(err, errTooManyConns): // neither says that nobody is there
		return exchange.Overloaded
	}
	return exchange.ServiceRefused
}
