package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// A tapper is a controller, or whoever answers in its place.
type tapper struct {
	signer snapshot.Signer

	mu     sync.Mutex
	orders []*telemetry.TapOrder
	forge  func(honest []byte) []byte // what the node gets instead
	away   bool
	asked  int
	seen   []*telemetry.TapBatch
}

func (c *tapper) answer(_ context.Context, data []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.away {
		return nil, errors.New("nobody answers")
	}
	var request telemetry.TapRequest
	if err := proto.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	c.seen = append(c.seen, request.GetBatches()...)
	reply, err := telemetry.SealTaps(c.signer, &telemetry.TapAnswer{Cluster: "c", Node: "web1", Nonce: request.GetNonce(), Taps: c.orders})
	if err == nil && c.forge != nil {
		reply = c.forge(reply)
	}
	return reply, err
}

func (c *tapper) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *tapper) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

func key(letter string) snapshot.Signer {
	return snapshot.NewSigner(ed25519.NewKeyFromSeed([]byte(strings.Repeat(letter, ed25519.SeedSize))))
}

// startTapping runs a node's side of taps for a test in a bubble.
func startTapping(t *testing.T) (*tapping, *tapper, *telemetry.Taps) {
	t.Helper()
	c := &tapper{signer: key("k"), orders: []*telemetry.TapOrder{{Id: []byte("one"), Filter: &telemetry.TapFilter{Method: "GET"}}}}
	taps := &telemetry.Taps{}
	tapping := &tapping{
		node: "web1", cluster: "c", taps: taps, ask: c.answer, log: slog.New(slog.DiscardHandler), nudged: make(chan struct{}, 1),
		open: map[string]*telemetry.Tap{},
		keys: func() (snapshot.Keys, error) {
			return (&snapshot.Roster{Keys: []*snapshot.SigningKey{key("k").Public()}}).SigningKeys(), nil
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := tapping.run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if n := taps.Len(); n != 0 {
			t.Errorf("%d taps after the end", n)
		}
	})
	return tapping, c, taps
}

func see(taps *telemetry.Taps, method string) {
	taps.See(&telemetry.Access{Method: method, Path: "/", Edge: telemetry.Edge{Callee: exchange.ServiceName{Namespace: "default", Name: "orders"}}})
}

func TestTapsAreOrdered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tapping, c, taps := startTapping(t)
		time.Sleep(time.Minute)
		if n := c.count(); n != 0 {
			t.Errorf("it asked %d times, and nobody told it to", n)
		}
		tapping.nudge()
		synctest.Wait()
		if taps.Len() != 1 {
			t.Fatalf("%d taps, want the one that is ordered", taps.Len())
		}
		see(taps, "GET")
		see(taps, "PUT")
		time.Sleep(tapFlush)
		synctest.Wait()
		c.set(func() {
			if len(c.seen) != 1 || string(c.seen[0].GetTap()) != "one" || len(c.seen[0].GetExchanges()) != 1 || c.seen[0].GetExchanges()[0].GetMethod() != "GET" {
				t.Errorf("told: %v", c.seen)
			}
			c.orders = nil
		})
		time.Sleep(tapRenew)
		synctest.Wait()
		if taps.Len() != 0 {
			t.Error("the tap goes on though it is not ordered any more")
		}
	})
}

// A tap ends by itself when no controller says any more that somebody wants it.
func TestATapIsNeverForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tapping, c, taps := startTapping(t)
		tapping.nudge()
		synctest.Wait()
		time.Sleep(time.Minute)
		if taps.Len() != 1 {
			t.Fatal("a tap that is renewed has ended")
		}
		c.set(func() { c.away = true })
		time.Sleep(tapLease / 2)
		see(taps, "GET")
		if taps.Len() != 1 {
			t.Fatal("a short outage has ended the tap")
		}
		time.Sleep(tapLease/2 + tapFlush)
		synctest.Wait()
		if taps.Len() != 0 {
			t.Errorf("it is tapped %s after the last word of a controller", tapLease+tapFlush)
		}
	})
}

// Whoever holds the bus can nudge, and answer what he likes: no tap opens, and none that is open goes on.
func TestNobodyButAControllerTaps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		forge func(old []byte) func([]byte) []byte
	}{
		{"an answer of before", func(old []byte) func([]byte) []byte { return func([]byte) []byte { return old } }},
		{"signed by another key", func([]byte) func([]byte) []byte {
			return func(honest []byte) []byte {
				var reply telemetry.TapReply
				var answer telemetry.TapAnswer
				if err := errors.Join(proto.Unmarshal(honest, &reply), proto.Unmarshal(reply.GetAnswer(), &answer)); err != nil {
					t.Error(err)
				}
				forged, err := telemetry.SealTaps(key("x"), &answer)
				if err != nil {
					t.Error(err)
				}
				return forged
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tapping, c, taps := startTapping(t)
				var old []byte
				c.set(func() { c.forge = func(honest []byte) []byte { old = honest; return honest } })
				tapping.nudge()
				synctest.Wait()
				if taps.Len() != 1 {
					t.Fatal("an honest answer opens no tap")
				}
				c.set(func() { c.forge = tt.forge(old) })
				time.Sleep(tapLease + tapFlush)
				synctest.Wait()
				if taps.Len() != 0 {
					t.Error("a forged answer renews a tap")
				}
				before := c.count()
				for range 1000 {
					tapping.nudge()
					time.Sleep(10 * time.Millisecond)
				}
				synctest.Wait()
				if taps.Len() != 0 {
					t.Error("a forged answer opens a tap")
				}
				if asked := c.count() - before; asked > 12 {
					t.Errorf("nudges make it ask %d times in ten seconds", asked)
				}
			})
		})
	}
}

// What a controller orders is bounded, too: it may be that nobody thought of this node's own taps.
func TestOrdersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tapping, c, taps := startTapping(t)
		c.set(func() {
			for i := range 100 {
				c.orders = append(c.orders, &telemetry.TapOrder{Id: []byte{byte(i)}})
			}
		})
		tapping.nudge()
		synctest.Wait()
		if taps.Len() != maxOrders {
			t.Errorf("%d taps are open", taps.Len())
		}
	})
}
