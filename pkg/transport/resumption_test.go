package transport

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

// TestRenewedReplacesLanesNow: nobody waits for the next sweep, nor for the end of a pause after a dial that failed.
func TestRenewedReplacesLanesNow(t *testing.T) { overBoth(t, testRenewedReplacesLanesNow) }

func testRenewedReplacesLanesNow(t carried) {
	a := transporttest.NewAuthority(t)
	client := a.Wallet(cart)
	callee := startNode(t, a.Wallet(orders), Limits{}, echo)
	caller := startNode(t, client, Limits{}, nil)
	ctx := testContext(t)
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Fatal(err)
	}
	old := caller.conns()[0]
	client.Rotate(cart, time.Hour)
	caller.Renewed()
	old.mu.Lock()
	draining := old.draining
	old.mu.Unlock()
	if !draining {
		t.Error("the lane with the old certificate takes further exchanges")
	}
	if err := get(ctx, caller, toOrder, callee.addr); err != nil {
		t.Errorf("the next exchange: %v", err)
	}
	l := (*caller.lanes.Load())[toOrder]
	l.mu.Lock()
	side := &l.sides[Interactive]
	side.failed, side.until = ErrNotSent, time.Now().Add(time.Hour)
	l.mu.Unlock()
	caller.Renewed()
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(side.until) {
		t.Error("a dial that failed is not tried again")
	}
}

// TestNothingIsSentBeforeTheHandshake has a client that resumes a session, and would send its first bytes with it (0-RTT):
// whoever records them could send them again. This node does not let it, and never does it itself.
func TestNothingIsSentBeforeTheHandshake(t *testing.T) {
	t.Parallel()
	a := transporttest.NewAuthority(t)
	server, client := a.Wallet(orders), a.Wallet(cart)
	callee := startNode(t, server, Limits{}, echo)
	cert, err := client.Certificate(cart)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: serverName(orders), Certificates: []tls.Certificate{*cert},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	ctx := testContext(t)
	for resumed := 0; resumed < 2; { // the ticket of a connection comes behind its handshake
		q, err := quic.DialAddrEarly(ctx, callee.addr.String(), config, nil)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-q.HandshakeComplete():
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		state := q.ConnectionState()
		if state.Used0RTT {
			t.Fatal("bytes were taken before the handshake")
		}
		if state.TLS.DidResume {
			resumed++
		}
		wait, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		_, _ = q.AcceptStream(wait)
		cancel()
		_ = q.CloseWithError(0, "")
	}

	caller := startNode(t, client, Limits{}, nil)
	for range 3 {
		if err := get(ctx, caller, toOrder, callee.addr); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*node{caller, callee} {
			for _, c := range n.conns() {
				if q, ok := c.link.(quicLink); ok && q.Conn.ConnectionState().Used0RTT {
					t.Error("a lane begins before its handshake")
				}
			}
		}
		caller.closeLanes(t)
	}
}
