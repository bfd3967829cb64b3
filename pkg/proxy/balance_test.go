package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// follow has the caller's node follow a rule whose backends are given, in place of the one that it has.
func (p *pair) follow(revision uint64, rule *snapshot.Rule) {
	p.tb.Helper()
	outbound := &snapshot.Outbound{Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: http11, Rules: []*snapshot.Rule{rule}}}}
	if _, err := p.table.Apply(snapshot.OutSubject("shop", "orders", ""), snapshot.Version{Revision: revision}, outbound); err != nil {
		p.tb.Fatal(err)
	}
}

func toOrders(balance snapshot.Balance) *snapshot.Backend {
	return &snapshot.Backend{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1, Balance: balance}
}

// TestPeakLearnsFromAnswers wants the proxy to tell routing how instances answer: one that fails at once is asked no
// more than it must be.
func TestPeakLearnsFromAnswers(t *testing.T) {
	var failing, well atomic.Int64
	// A request that the machine made slow is held against its instance, rightly: only what is asked without one tells.
	for slow, tries := true, 0; slow && tries < 10; tries++ {
		failing.Store(0)
		well.Store(0)
		slow = askSixty(t, &failing, &well)
	}
	if failing.Load() > 15 || failing.Load() == 0 || failing.Load()+well.Load() != 60 {
		t.Errorf("the instance that fails was asked %d times, the other %d times", failing.Load(), well.Load())
	}
}

// askSixty asks a new pair of instances, and reports whether any answer took half a second.
func askSixty(t *testing.T, failing, well *atomic.Int64) (slow bool) {
	t.Helper()
	bad := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { failing.Add(1); w.WriteHeader(500) })
	good := startProcess(t, func(http.ResponseWriter, *http.Request) { well.Add(1) })
	p := startPair(t, http11, nil, bad, good)
	p.follow(2, &snapshot.Rule{Backends: []*snapshot.Backend{toOrders(snapshot.Balance_BALANCE_PEAK_EWMA)}})
	client := p.client()
	for range 60 {
		began := time.Now()
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		slow = slow || time.Since(began) > 500*time.Millisecond
	}
	return slow
}
