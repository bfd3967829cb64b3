// Package egress connects to hosts outside the mesh: it resolves the name, refuses addresses that nobody outside should
// have, and speaks TLS where the configuration says so.
//
// What decides where a node connects to is signed configuration alone (snapshot.Outside): the caller has no word in it, and
// services.d of the egress host only opens addresses that no document can (guard.go). A name is resolved once for each
// connection, and what is dialled is the address that was checked, so that a second answer of the DNS changes nothing.
//
// Start reading at Host.Dial; guard.go has the addresses that are refused.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Dial's errors wrap one of these, or of package origination's, where somebody decides on it.
var (
	ErrUnresolved = errors.New("the name has no address")
	ErrRefused    = errors.New("an address is not allowed")
	ErrBusy       = errors.New("this node has as many connections to the host as it may have")
)

const (
	dialTimeout = 10 * time.Second // for resolving, connecting and the handshake together
	maxDialled  = 4                // addresses of a name that are tried, one after the other
	tryTimeout  = 3 * time.Second  // of each
	// maxConnections is how many connections a node has to one host, those that are being made among them.
	maxConnections = 1024
)

// A Host is one host outside, as an ExternalService names it. What it says does not change, and it is safe for concurrent use.
type Host struct {
	// Authority is what its requests have as their Host: the name, with the port where it is not the scheme's own.
	Authority string
	Port      uint16
	HTTP      bool // requests; else bytes
	HTTP2     bool // requests by HTTP/2: agreed on with TLS, or known beforehand without

	name    string
	allowed []netip.Prefix        // of the document
	local   []netip.Prefix        // of services.d
	tls     *origination.Settings // nil: plain
	open    atomic.Int32

	told    atomic.Int64 // Unix time in seconds of the last word about it
	resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	own     func() ([]netip.Addr, error)
}

// New makes a Host of what a snapshot says, and of the addresses that services.d of this host opens beside.
func New(of *snapshot.Outside, local []netip.Prefix) (*Host, error) {
	bad := func(format string, args ...any) (*Host, error) {
		return nil, fmt.Errorf("host outside %q: %s", of.GetHost(), fmt.Sprintf(format, args...))
	}
	if of.GetHost() == "" || of.GetPort() == 0 || of.GetPort() > 65535 {
		return bad("it has no name, or port %d", of.GetPort())
	}
	h := &Host{
		Authority: of.GetHost(), Port: uint16(of.GetPort()), HTTP: of.GetProtocol() != snapshot.Protocol_PROTOCOL_TCP,
		HTTP2: of.GetProtocol() == snapshot.Protocol_PROTOCOL_HTTP2,
		name:  of.GetHost(), local: local, own: ownAddresses,
		resolve: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
	}
	scheme := uint16(80)
	if of.GetTls() {
		scheme = 443
		believed := of.GetOrigination()
		if believed == nil {
			bundle := []byte(of.GetCaBundle())
			believed = &snapshot.Origination{ServerName: of.GetServerName(), Roots: bundle, HostRoots: len(bundle) == 0}
		}
		var err error
		if h.tls, err = origination.New(believed); err != nil {
			return bad("%v", err)
		}
	}
	if address, err := netip.ParseAddr(h.name); err == nil && address.Is6() {
		h.Authority = "[" + h.name + "]"
	}
	if h.Port != scheme {
		h.Authority += ":" + strconv.Itoa(int(h.Port))
	}
	for _, text := range of.GetAllowedAddresses() {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return bad("allowed address: %v", err)
		}
		h.allowed = append(h.allowed, prefix)
	}
	return h, nil
}

// Dial connects to the host, and has seen its certificate where it speaks TLS. Nothing of a caller's was sent when it
// returns an error.
func (h *Host) Dial(ctx context.Context) (*origination.Conn, error) {
	if h.open.Add(1) > maxConnections {
		h.open.Add(-1)
		return nil, fmt.Errorf("connect to host outside %s: %w: %d", h.name, ErrBusy, maxConnections)
	}
	c, err := h.dial(ctx)
	if err != nil {
		h.open.Add(-1)
		return nil, err
	}
	c.WhenClosed(func() { h.open.Add(-1) })
	return c, nil
}

func (h *Host) dial(ctx context.Context) (*origination.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addresses, err := h.addresses(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to host outside %s: %w", h.name, err)
	}
	conn, err := h.connect(ctx, addresses)
	if err != nil {
		return nil, fmt.Errorf("connect to host outside %s: %w", h.name, err)
	}
	if h.tls == nil {
		return origination.Plain(conn), nil
	}
	protocol := origination.Bytes
	switch {
	case h.HTTP2:
		protocol = origination.HTTP2
	case h.HTTP:
		protocol = origination.HTTP1
	}
	secured, err := h.tls.Begin(ctx, conn, protocol)
	switch {
	case errors.Is(err, origination.ErrProtocol):
		return nil, fmt.Errorf("connect to host outside %s: %w (write spec.protocol: HTTP)", h.name, err)
	case err != nil:
		return nil, fmt.Errorf("connect to host outside %s: %w", h.name, err)
	}
	return secured, nil
}

// Tell reports whether it is time to tell the operator of a failure again: nobody was told for a minute.
func (h *Host) Tell(now time.Time) bool {
	last := h.told.Load()
	return now.Unix()-last >= 60 && h.told.CompareAndSwap(last, now.Unix())
}

// addresses resolves the name and leaves what may be connected to.
func (h *Host) addresses(ctx context.Context) ([]netip.Addr, error) {
	found := []netip.Addr{}
	if address, err := netip.ParseAddr(h.name); err == nil {
		found = append(found, address)
	} else if found, err = h.resolve(ctx, h.name); err != nil { // as this host does, with /etc/hosts
		return nil, fmt.Errorf("%w: %w", ErrUnresolved, err)
	}
	if len(found) == 0 {
		return nil, ErrUnresolved
	}
	own, err := h.own()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err) // what cannot be looked at is not connected to
	}
	var usable []netip.Addr
	refusal := ""
	for _, a := range found {
		a = a.Unmap()
		if why := h.refuse(a, own); why != "" {
			refusal = why
			continue
		}
		usable = append(usable, a)
	}
	if len(usable) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrRefused, refusal)
	}
	return usable, nil
}

// connect tries addresses until one answers.
func (h *Host) connect(ctx context.Context, addresses []netip.Addr) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: tryTimeout}
	var failed []error
	for _, a := range addresses[:min(len(addresses), maxDialled)] {
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(a, h.Port).String())
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}
