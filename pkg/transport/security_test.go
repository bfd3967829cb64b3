package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

func TestRefusedIdentities(t *testing.T) { overBoth(t, testRefusedIdentities) }

func testRefusedIdentities(t carried) {
	a, foreign := transporttest.NewAuthority(t), transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{}, echo)

	swapped := a.Wallet(billing)
	swapped.Put(orders, a.Issue(billing, time.Hour)) // a node that shows billing where orders is asked for
	impostor := startNode(t, swapped, Limits{}, echo)
	untrusted := foreign.Wallet(cart)
	expired := a.Wallet(cart)
	expired.Rotate(cart, -time.Second)

	for _, tt := range []struct {
		name   string
		caller *transporttest.Wallet
		key    Key
		callee *node
		want   error // nil: refused by the peer, which does not say why
	}{
		{"callee is another service", a.Wallet(cart), toOrder, impostor, ErrIdentity},
		{"callee does not run the service", a.Wallet(cart), Key{Local: cart, Node: "b", Remote: billing}, callee, nil},
		{"caller of another authority", untrusted, toOrder, callee, nil},
		{"caller's certificate has ended", expired, toOrder, callee, nil},
		{"caller has no such identity", a.Wallet(billing), toOrder, callee, ErrNotSent},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			caller := startNode(t, tt.caller, Limits{}, nil)
			err := get(testContext(t), caller, tt.key, tt.callee.addr)
			if err == nil {
				t.Fatal("an exchange passed")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error %v does not wrap %v", err, tt.want)
			}
		})
	}
}

func TestNoClientCertificate(t *testing.T) {
	a := transporttest.NewAuthority(t)
	served := make(chan struct{}, 1)
	callee := startNode(t, a.Wallet(orders), Limits{}, func(context.Context, *Stream) { served <- struct{}{} })
	ctx := testContext(t)
	q, err := quic.DialAddr(ctx, callee.addr.String(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: serverName(orders),
	}, nil)
	if err == nil {
		// A TLS 1.3 client learns of its refusal after its own handshake is complete.
		_, err = q.AcceptStream(ctx)
		_ = q.CloseWithError(0, "")
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	if len(served) != 0 {
		t.Error("an exchange was served")
	}
}

// One peer cannot take the place of all others, and what it closes makes place for it again.
func TestOnePeerHasSoManyConnections(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{PeerInbound: 2}, echo)
	ctx := testContext(t)
	dial := func(service exchange.ServiceName) *quic.Conn {
		cert, err := a.Wallet(service).Certificate(service)
		if err != nil {
			t.Fatal(err)
		}
		q, err := quic.DialAddr(ctx, callee.addr.String(), &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: serverName(orders), Certificates: []tls.Certificate{*cert},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = q.CloseWithError(0, "") })
		return q
	}
	count := func(want int) {
		t.Helper()
		for len(callee.conns()) != want {
			select {
			case <-ctx.Done():
				t.Fatalf("%d connections, want %d", len(callee.conns()), want)
			case <-time.After(time.Millisecond):
			}
		}
	}
	first := dial(cart)
	dial(cart)
	count(2)
	_, err := dial(cart).AcceptStream(ctx)
	var closed *quic.ApplicationError
	if !errors.As(err, &closed) || closed.ErrorCode != closeRefused {
		t.Errorf("the third: %v", err)
	}
	dial(billing)
	count(3)
	_ = first.CloseWithError(0, "")
	count(2)
	dial(cart)
	count(3)
}

// One peer cannot take all streams, and all together no more than there are. What is refused was not looked at.
func TestPeersHaveSoManyStreams(t *testing.T) { overBoth(t, testPeersHaveSoManyStreams) }

func testPeersHaveSoManyStreams(t carried) {
	const each = 2
	for _, tt := range []struct {
		name   string
		limits Limits
		others bool // may go on
	}{
		{"of one peer", Limits{PeerStreams: each}, true},
		{"of all", Limits{InboundStreams: each}, false},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			a := transporttest.NewAuthority(t)
			began, hold := make(chan struct{}, each), make(chan struct{})
			callee := startNode(t, a.Wallet(orders), tt.limits, func(_ context.Context, s *Stream) {
				var req exchange.Request
				if s.ReadRequest(&req) != nil {
					return
				}
				if req.Method == "POST" {
					began <- struct{}{}
					<-hold
				}
				_ = s.WriteResponse(&exchange.Response{Status: 204})
				_ = s.End()
			})
			caller := startNode(t, a.Wallet(cart, billing), Limits{}, nil)
			ctx := testContext(t)
			var held []*Stream
			for range each {
				s, err := caller.Open(ctx, toOrder, callee.addr, Bulk)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "POST"}), s.End()); err != nil {
					t.Fatal(err)
				}
				<-began
				held = append(held, s)
			}
			if err := get(ctx, caller, toOrder, callee.addr); !errors.Is(err, ErrNotSent) {
				t.Errorf("one more: %v", err)
			}
			if err := get(ctx, caller, Key{Local: billing, Node: "b", Remote: orders}, callee.addr); (err == nil) != tt.others {
				t.Errorf("another peer: %v", err)
			}
			close(hold)
			for _, s := range held {
				var resp exchange.Response
				if err := s.ReadResponse(&resp); err != nil {
					t.Error(err)
				}
				s.Release()
			}
			for {
				err := get(ctx, caller, toOrder, callee.addr)
				if err == nil {
					break
				}
				if !errors.Is(err, ErrNotSent) { // also once ctx has ended
					t.Fatalf("when those have ended: %v", err)
				}
				if ctx.Err() != nil {
					t.Fatal("the streams that ended are counted for ever")
				}
			}
			callee.stop()
			if left := callee.streams.Load(); left != 0 {
				t.Errorf("%d streams are counted when all have ended", left)
			}
		})
	}
}

// closeLanes ends all connections of a node, so that the next exchange is a new handshake.
func (n *node) closeLanes(t testing.TB) {
	t.Helper()
	for _, c := range n.conns() {
		c.close(closeDone, "test")
	}
	for deadline := time.After(10 * time.Second); len(n.conns()) > 0; {
		select {
		case <-n.changed:
		case <-deadline:
			t.Fatal("connections do not end")
		}
	}
}

// resumed is how many handshakes of lanes with one exchange each are resumptions, where some of the lanes have nothing
// to resume: over TCP the stream has a handshake of its own, which resumes that of its lane.
func resumed(t carried, lanes, first int) int {
	if t.carrier == TCP {
		return 2*lanes - first
	}
	return lanes - first
}

func TestResumptionIsVerified(t *testing.T) { overBoth(t, testResumptionIsVerified) }

func testResumptionIsVerified(t carried) {
	a := transporttest.NewAuthority(t)
	server, client := a.Wallet(orders), a.Wallet(cart)
	callee := startNode(t, server, Limits{}, echo)
	caller := startNode(t, client, Limits{}, nil)
	ctx := testContext(t)
	for i := range 2 {
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
		if got, want := server.Resumptions(), resumed(t, i+1, 1); got != want {
			t.Fatalf("after lane %d the callee verified %d resumptions, want %d", i+1, got, want)
		}
		caller.closeLanes(t)
	}
	server.Revoke(cart)
	if err := get(ctx, caller, toOrder, callee.addr); err == nil {
		t.Error("a revoked caller was served on resumption")
	}
	if server.Resumptions() != resumed(t, 2, 1)+1 {
		t.Error("the refused handshake was no resumption: the test shows nothing")
	}
}

// TestTicketEndsWithTheCertificate: what is resumed counts as shown by the certificate of the first handshake,
// which would end the connection too early.
func TestTicketEndsWithTheCertificate(t *testing.T) { overBoth(t, testTicketEndsWithTheCertificate) }

func testTicketEndsWithTheCertificate(t carried) {
	a := transporttest.NewAuthority(t)
	server, client := a.Wallet(orders), a.Wallet(cart)
	server.Rotate(orders, 30*time.Second)
	client.Rotate(cart, 2*time.Hour) // outlives both of the callee's: a connection ends with the first of two certificates
	callee := startNode(t, server, Limits{}, echo)
	caller := startNode(t, client, Limits{}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.closeLanes(t)
	server.Rotate(orders, time.Hour)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	cert, err := server.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range caller.conns() {
		if !c.expires.Equal(cert.Leaf.NotAfter) {
			t.Errorf("connection ends %s, the certificate of the callee %s", c.expires, cert.Leaf.NotAfter)
		}
	}
	if client.Resumptions() != resumed(t, 2, 2) {
		t.Error("a ticket of the old certificate was taken")
	}
}

func TestCalleeRevokedBeforeResumption(t *testing.T) { overBoth(t, testCalleeRevokedBeforeResumption) }

func testCalleeRevokedBeforeResumption(t carried) {
	a := transporttest.NewAuthority(t)
	client := a.Wallet(cart)
	callee := startNode(t, a.Wallet(orders), Limits{}, echo)
	caller := startNode(t, client, Limits{}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	caller.closeLanes(t)
	client.Revoke(orders)
	if err := get(ctx, caller, toOrder, callee.addr); !errors.Is(err, ErrIdentity) || !errors.Is(err, transporttest.ErrRevoked) {
		t.Errorf("exchange with a revoked callee: %v", err)
	}
}

// TestServicesOfOneProcess makes lanes of two services of one process one after the other, again and again:
// the callee must always see the one that called.
func TestServicesOfOneProcess(t *testing.T) { overBoth(t, testServicesOfOneProcess) }

func testServicesOfOneProcess(t carried) {
	a := transporttest.NewAuthority(t)
	var mu sync.Mutex
	seen := make(map[string]exchange.ServiceName)
	server := a.Wallet(orders)
	callee := startNode(t, server, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil {
			return
		}
		mu.Lock()
		seen[strings.Clone(req.Authority)] = s.Peer()
		mu.Unlock()
		_ = s.WriteResponse(&exchange.Response{Status: 204})
		_ = s.End()
	})
	caller := startNode(t, a.Wallet(cart, billing), Limits{}, nil)
	ctx := testContext(t)
	for range 3 {
		for _, local := range []exchange.ServiceName{cart, billing} {
			s, err := caller.Open(ctx, Key{Local: local, Node: "b", Remote: orders}, callee.addr, Interactive)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.WriteRequest(&exchange.Request{Method: "GET", Authority: local.Name})
			_ = s.End()
			var resp exchange.Response
			if err := s.ReadResponse(&resp); err != nil {
				t.Fatal(err)
			}
			s.Release()
			mu.Lock()
			if got := seen[local.Name]; got != local {
				t.Errorf("%s appeared as %s", local, got)
			}
			mu.Unlock()
		}
		caller.closeLanes(t)
	}
	if got, want := server.Resumptions(), resumed(t, 6, 2); got != want {
		t.Errorf("%d resumptions, want %d: the test shows nothing without them", got, want)
	}
}

func TestRecheckClosesRevoked(t *testing.T) { overBoth(t, testRecheckClosesRevoked) }

func testRecheckClosesRevoked(t carried) {
	a := transporttest.NewAuthority(t)
	server := a.Wallet(orders)
	callee := startNode(t, server, Limits{}, echo)
	caller := startNode(t, a.Wallet(cart), Limits{}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	callee.Recheck()
	if states := callee.Connections(); len(states) != 1 || !states[0].Inbound || states[0].Key != (Key{Local: cart, Remote: orders}) {
		t.Fatalf("connections of a trusted peer: %+v", states)
	}
	server.Revoke(cart)
	callee.Recheck()
	if err := get(ctx, caller, toOrder, callee.addr); err == nil {
		t.Error("a revoked caller goes on over its old lane")
	}
}

// TestRecheckClosesOwn: a node whose own service was revoked closes the lanes of that service, whichever end dialled.
func TestRecheckClosesOwn(t *testing.T) { overBoth(t, testRecheckClosesOwn) }

func testRecheckClosesOwn(t carried) {
	for _, end := range []string{"caller", "callee"} {
		t.Run(end, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			a := transporttest.NewAuthority(t)
			wallets := map[string]*transporttest.Wallet{"caller": a.Wallet(cart, billing), "callee": a.Wallet(orders)}
			callee := startNode(t, wallets["callee"], Limits{}, echo)
			caller := startNode(t, wallets["caller"], Limits{}, nil)
			ctx := testContext(t)
			others := Key{Local: billing, Node: "b", Remote: orders}
			if err := errors.Join(get(ctx, caller, toOrder, callee.addr), get(ctx, caller, others, callee.addr)); err != nil {
				t.Fatal(err)
			}
			ends := map[string]*node{"caller": caller, "callee": callee}
			revoked := map[string]exchange.ServiceName{"caller": cart, "callee": orders}
			wallets[end].Revoke(revoked[end])
			conns := ends[end].conns()
			ends[end].Recheck()
			for _, c := range conns {
				if c.local != revoked[end] {
					if c.link.Context().Err() != nil {
						t.Errorf("the lane of %s, which was not revoked, is closed", c.local)
					}
					continue
				}
				select {
				case <-c.link.Context().Done():
				case <-ctx.Done():
					t.Errorf("the lane of %s stays open", c.local)
				}
			}
		})
	}
}

// TestRevokedDuringTheHandshake: what becomes known between the verdict on a peer and the first exchange counts, at both
// ends.
func TestRevokedDuringTheHandshake(t *testing.T) { overBoth(t, testRevokedDuringTheHandshake) }

func testRevokedDuringTheHandshake(t carried) {
	for _, end := range []string{"caller", "callee"} {
		t.Run(end, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			a := transporttest.NewAuthority(t)
			client, server := a.Wallet(cart), a.Wallet(orders)
			callee := startNode(t, server, Limits{}, echo)
			caller := startNode(t, client, Limits{}, nil)
			if end == "caller" {
				client.Then(func() { client.Revoke(orders); caller.Recheck() })
			} else {
				server.Then(func() { server.Revoke(cart); callee.Recheck() })
			}
			if err := get(testContext(t), caller, toOrder, callee.addr); err == nil {
				t.Error("an exchange passed over a lane whose peer was revoked")
			}
		})
	}
}
