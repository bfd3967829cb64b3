package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/sennit-mesh/sennit/pkg/egress"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
)

// A Place is where an instance of this host takes exchanges: a process, or a host outside where this node itself is the
// instance. Connections are kept by it: what configuration replaces is another place.
type Place struct {
	Process netip.AddrPort
	HTTP2   bool                  // is spoken to it
	Connect bool                  // the process takes CONNECT
	UDP     bool                  // the process takes datagrams, and no connections
	Outside *egress.Host          // nil: the process
	TLS     *origination.Settings // by which the process is spoken to; nil: in the clear. Outside has its own
}

// configured reports whether configuration makes places like this one, and replaces them.
func (p Place) configured() bool { return p.Outside != nil || p.TLS != nil }

// dial connects for exchanges of a kind. Nothing of a caller's was sent when it returns an error.
func (p Place) dial(ctx context.Context, kind exchange.Kind) (net.Conn, error) {
	if p.Outside != nil {
		conn, err := p.Outside.Dial(ctx)
		if err != nil {
			return nil, err // a nil *origination.Conn would be no nil net.Conn
		}
		return conn, nil
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", p.Process.String())
	if p.TLS == nil || err != nil {
		return conn, err
	}
	protocol := origination.HTTP1
	switch {
	case kind == exchange.TCP:
		protocol = origination.Bytes
	case p.HTTP2:
		protocol = origination.HTTP2
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secured, err := p.TLS.Begin(ctx, conn.(*net.TCPConn), protocol)
	if err != nil {
		return nil, err
	}
	return secured, nil
}

// takes reports whether exchanges of a kind are what the place is for. A process is asked by whoever registered it.
func (p Place) takes(kind exchange.Kind) bool {
	if p.UDP || kind == exchange.UDP {
		return p.UDP && kind == exchange.UDP
	}
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
// minute for each host, or that a process does not speak TLS as its policy says. Nothing was sent with any of these reasons.
func (in *Inbound) undialled(service exchange.ServiceName, place Place, err error) exchange.Reason {
	switch {
	case place.Outside != nil && place.Outside.Tell(time.Now()):
		in.log.Warn("a host outside the mesh is not reached", "service", service.String(), "host", place.String(), "err", err)
	case place.TLS != nil && place.TLS.Tell(time.Now()):
		in.log.Warn("a process is not spoken to in TLS", "service", service.String(), "policy", place.TLS.Origin, "address", place.String(), "err", err)
	}
	switch {
	case errors.Is(err, egress.ErrUnresolved):
		return exchange.NameUnresolved
	case errors.Is(err, egress.ErrRefused):
		return exchange.AddressRefused
	case errors.Is(err, origination.ErrPeer):
		return exchange.TLSFailed
	case errors.Is(err, egress.ErrBusy), errors.Is(err, errTooManyConns): // neither says that nobody is there
		return exchange.Overloaded
	}
	return exchange.ServiceRefused
}
