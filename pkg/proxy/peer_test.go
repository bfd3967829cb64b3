package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

// These are peers and processes that have every right to speak and do it badly.

// TestPeerThatTakesNoBody answers whole and never reads: the application must get the answer, and the end of its
// connection.
func TestPeerThatTakesNoBody(t *testing.T) {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	p := startCaller(t, http11, nil, func(ctx context.Context, s *transport.Stream) {
		var request exchange.Request
		if s.ReadRequest(&request) != nil {
			return
		}
		_ = s.WriteResponse(&exchange.Response{Status: 200})
		_ = s.End()
		select {
		case <-end:
		case <-ctx.Done():
		}
	})
	conn := p.dial()
	go func() { // more than any window; it ends with the connection
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 30000000\r\n\r\n")
		conn.Write(make([]byte, 30_000_000))
	}()
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%v, %v", response, err)
	}
	if _, err := io.Copy(io.Discard, reader); err != nil && isDeadline(err) {
		t.Error("the connection goes on as if the exchange still ran")
	}
}

func isDeadline(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// TestProcessThatTakesNoBody answers whole, never reads, and keeps its connection; and its caller's node does not
// give up. The callee's node must not keep what that takes.
func TestProcessThatTakesNoBody(t *testing.T) {
	closed := make(chan error, 1)
	process := rawProcess(t, func(conn *net.TCPConn, head *bufio.Reader) {
		if !readHead(head) {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		// Reading would make place. An end is seen without it, as what cannot be written.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if _, err := conn.Write([]byte("x")); err != nil || time.Now().After(deadline) {
				closed <- err
				return
			}
		}
	})
	authority := transporttest.NewAuthority(t)
	inbound := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
	run(t, inbound.Run)
	address := startLanes(t, authority.Wallet(orders), inbound.Serve)
	lanes := newLanes(t, authority.Wallet(cart), nobody)
	stream, err := lanes.Open(t.Context(), transport.Key{Local: cart, Node: "a", Remote: orders}, address, transport.Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Release()
	if err := stream.WriteRequest(&exchange.Request{Method: "POST", Authority: "orders", Path: "/", BodyLength: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		stream.Write(make([]byte, 30_000_000)) // until the callee wants no more
	}()
	var response exchange.Response
	if err := stream.ReadResponse(&response); err != nil || response.Status != 200 {
		t.Fatalf("%d, %v", response.Status, err)
	}
	if err := <-closed; err == nil {
		t.Error("the connection to the process stays, with a request that nobody ends")
	}
	<-wrote
}

// TestResetWhileBothDirectionsAreFull gives a TCP exchange up while its process neither reads nor can write: the
// connection to it must end.
func TestResetWhileBothDirectionsAreFull(t *testing.T) {
	ended := make(chan error, 1)
	process := rawProcess(t, func(conn *net.TCPConn, _ *bufio.Reader) {
		conn.SetDeadline(time.Now().Add(15 * time.Second))
		for p := make([]byte, 64<<10); ; {
			if _, err := conn.Write(p); err != nil {
				ended <- err
				return
			}
		}
	})
	authority := transporttest.NewAuthority(t)
	inbound := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
	address := startLanes(t, authority.Wallet(orders), inbound.Serve)
	lanes := newLanes(t, authority.Wallet(cart), nobody)
	stream, err := lanes.Open(t.Context(), transport.Key{Local: cart, Node: "a", Remote: orders}, address, transport.Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Release()
	if err := stream.WriteRequest(&exchange.Request{Kind: exchange.TCP}); err != nil {
		t.Fatal(err)
	}
	stopped := fill(stream)
	stream.Reset(exchange.CallerGone)
	<-stopped
	if err := <-ended; isDeadline(err) {
		t.Error("the process is kept connected to nobody")
	}
}

// TestResetOfASilentProcess gives a TCP exchange up whose process does nothing at all, when everything before it is
// full: its node must not keep what that takes.
func TestResetOfASilentProcess(t *testing.T) {
	hold := make(chan struct{})
	process := rawProcess(t, func(*net.TCPConn, *bufio.Reader) { <-hold })
	t.Cleanup(func() { close(hold) })
	authority := transporttest.NewAuthority(t)
	inbound := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
	returned := make(chan struct{})
	address := startLanes(t, authority.Wallet(orders), func(ctx context.Context, s *transport.Stream) {
		defer close(returned)
		inbound.Serve(ctx, s)
	})
	lanes := newLanes(t, authority.Wallet(cart), nobody)
	stream, err := lanes.Open(t.Context(), transport.Key{Local: cart, Node: "a", Remote: orders}, address, transport.Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Release()
	if err := stream.WriteRequest(&exchange.Request{Kind: exchange.TCP}); err != nil {
		t.Fatal(err)
	}
	stopped := fill(stream)
	stream.Reset(exchange.CallerGone)
	<-stopped
	select {
	case <-returned:
	case <-time.After(15 * time.Second):
		t.Error("the node holds on to a connection of nobody's")
	}
}

// fill writes until everything between both ends is full. stopped is closed when writing has ended.
func fill(stream *transport.Stream) (stopped chan struct{}) {
	var sent atomic.Int64
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		for p := make([]byte, 64<<10); ; sent.Add(1) {
			if _, err := stream.Write(p); err != nil {
				return
			}
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last, still := int64(-1), 0; still < 15; <-tick.C {
		if n := sent.Load(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
	return stopped
}

// TestEndCutsOffWhoTakesNothing wants a node to end although an application reads nothing of its answer.
func TestEndCutsOffWhoTakesNothing(t *testing.T) {
	for _, protocol := range []snapshot.Protocol{http11, snapshot.Protocol_PROTOCOL_TCP} {
		t.Run(protocol.String(), func(t *testing.T) {
			process := rawProcess(t, func(conn *net.TCPConn, head *bufio.Reader) {
				if !readHead(head) {
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				for p := make([]byte, 64<<10); ; {
					if _, err := conn.Write(p); err != nil {
						return
					}
				}
			})
			p := startPair(t, protocol, nil, process)
			conn := p.dial()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
			if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			p.drain()
			p.cutOff()
			if n, err := io.Copy(io.Discard, conn); err == nil || isDeadline(err) {
				t.Errorf("after the node's end the application reads %d bytes and %v, want a reset", n, err)
			}
		})
	}
}

// TestPeerSendsWhatNoApplicationCan wants what the caller's node should have refused to be refused by the callee's,
// before the process sees any of it.
func TestPeerSendsWhatNoApplicationCan(t *testing.T) {
	var asked atomic.Int64
	process := startProcess(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	authority := transporttest.NewAuthority(t)
	inbound := NewInbound(oneProcess(netip.MustParseAddrPort(process)), pairLimits, slog.New(slog.DiscardHandler))
	run(t, inbound.Run)
	address := startLanes(t, authority.Wallet(orders), inbound.Serve)
	lanes := newLanes(t, authority.Wallet(cart), nobody)
	for _, tt := range []struct {
		name    string
		request exchange.Request
	}{
		{"a tunnel", exchange.Request{Method: "CONNECT", Authority: "orders:80"}},
		{"an upgrade to HTTP/2", exchange.Request{Method: "GET", Authority: "orders", Path: "/", Upgrade: "h2c"}},
		{"two hosts", exchange.Request{Method: "GET", Authority: "orders,other", Path: "/"}},
		{"no path", exchange.Request{Method: "GET", Authority: "orders"}},
		{"a path that is a URI", exchange.Request{Method: "GET", Authority: "orders", Path: "http://other/"}},
	} {
		stream, err := lanes.Open(t.Context(), transport.Key{Local: cart, Node: "a", Remote: orders}, address, transport.Interactive)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(stream.WriteRequest(&tt.request), stream.End()); err != nil {
			t.Fatal(err)
		}
		var response exchange.Response
		var reset *transport.ResetError
		if err := stream.ReadResponse(&response); !errors.As(err, &reset) || reset.Reason != exchange.Malformed {
			t.Errorf("%s: %d, %v", tt.name, response.Status, err)
		}
		stream.Release()
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the process was asked %d times", n)
	}
}

// TestFailures tells what an error of a lane means.
func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name        string
		err         error
		reason      exchange.Reason
		unsent      bool
		unreachable bool
	}{
		{"not sent", transport.ErrNotSent, exchange.ConnectFailed, true, true},
		{"broke off", transport.ErrBroken, exchange.PeerLost, false, true},
		{"a lane that has no stream left says nothing about the peer", fmt.Errorf("%w: %w", transport.ErrNotSent, transport.ErrBusy), exchange.Overloaded, true, false},
		{"the peer's process does not listen", &transport.ResetError{Reason: exchange.ServiceRefused, Remote: true}, exchange.ServiceRefused, true, true},
		{"the peer's process allows no more at a time", &transport.ResetError{Reason: exchange.Overloaded, Remote: true}, exchange.Overloaded, false, false},
		{"the process broke off", &transport.ResetError{Reason: exchange.ServiceBroke, Remote: true}, exchange.ServiceBroke, false, false},
		{"the process looked at nothing of it", &transport.ResetError{Reason: exchange.ServiceBroke, Remote: true, Process: codeRefusedStream}, exchange.ServiceBroke, true, false},
		{"our own timeout", &transport.ResetError{Reason: exchange.Timeout}, exchange.Timeout, false, false},
		{"the application's end", errLocal, exchange.CallerGone, false, false},
	} {
		f := failed(tt.err)
		if f.reason != tt.reason || f.unsent != tt.unsent || f.unreachable() != tt.unreachable {
			t.Errorf("%s: %+v, unreachable %v", tt.name, f, f.unreachable())
		}
	}
}

func nobody(_ context.Context, s *transport.Stream) { s.Reset(exchange.InstanceNotServed) }
