package transport

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

// TestRefusedPeersAreCounted has peers refused for every reason, each alone.
func TestRefusedPeersAreCounted(t *testing.T) { overBoth(t, testRefusedPeersAreCounted) }

func testRefusedPeersAreCounted(t carried) {
	full := 1 // connections with one exchange
	if t.carrier == TCP {
		full = 2 // a link has its own
	}
	for name, tt := range map[string]struct {
		prepare func(server *transporttest.Wallet, callee *node)
		limits  Limits
		to      Key
		want    Refusal
	}{
		"a revoked service": {
			prepare: func(server *transporttest.Wallet, _ *node) { server.Revoke(cart) },
			to:      toOrder, want: RefusedIdentity,
		},
		"one that is revoked during its handshake": {
			prepare: func(server *transporttest.Wallet, callee *node) {
				server.Then(func() { server.Revoke(cart); callee.Recheck() })
			},
			to: toOrder, want: RefusedIdentity,
		},
		"a service that is not here": {to: Key{Local: cart, Node: "b", Remote: billing}, want: RefusedService},
		"one too many":               {to: toOrder, limits: Limits{Inbound: full}, want: RefusedLimit},
		"one too many of a peer":     {to: toOrder, limits: Limits{PeerInbound: 1}, want: RefusedLimit},
	} {
		t.Run(name, func(sub *testing.T) {
			t := carried{sub, t.carrier}
			a := transporttest.NewAuthority(t)
			server := a.Wallet(orders)
			callee := startNode(t, server, tt.limits, echo)
			ctx := testContext(t)
			if tt.want == RefusedLimit { // there is one
				first := startNode(t, a.Wallet(cart), Limits{}, nil)
				if err := get(ctx, first, toOrder, callee.addr); err != nil {
					t.Fatal(err)
				}
			}
			for _, why := range Refusals {
				if n := callee.Refused(why); n != 0 {
					t.Fatalf("refused for %s before: %d", why, n)
				}
			}
			if tt.prepare != nil {
				tt.prepare(server, callee)
			}
			caller := startNode(t, a.Wallet(cart), Limits{}, nil)
			if err := get(ctx, caller, tt.to, callee.addr); err == nil {
				t.Error("it is not refused")
			}
			for callee.Refused(tt.want) == 0 {
				if ctx.Err() != nil {
					t.Fatal("it is not counted")
				}
				time.Sleep(time.Millisecond)
			}
			for _, why := range Refusals {
				if n := callee.Refused(why); why != tt.want && n != 0 {
					t.Errorf("%d are counted for %s", n, why)
				}
			}
		})
	}
}

// TestKnocksDoNotFillTheLog: all are counted, and few written.
func TestKnocksDoNotFillTheLog(t *testing.T) {
	socket, _ := listen(t)
	var log bytes.Buffer
	tr, err := New(Config{
		Conn: socket, Credentials: transporttest.NewAuthority(t).Wallet(orders), Serve: echo,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	const knocks = 10_000
	for range knocks {
		tr.refuse(RefusedIdentity, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 7}, errors.New("revoked"))
	}
	if n := tr.Refused(RefusedIdentity); n != knocks {
		t.Errorf("%d are counted", n)
	}
	if lines := strings.Count(log.String(), "addr=192.0.2.1:7 err=revoked"); lines < 1 || lines > 100 {
		t.Errorf("%d lines are written", lines)
	}
}
