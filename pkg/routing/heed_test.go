package routing

import (
	"fmt"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// heeding has orders, on more nodes than are called otherwise, with an algorithm and ejections after one error.
func heeding(t *testing.T, change func(*snapshot.Backend), session *snapshot.Session) *Table {
	b := to("orders", 1)
	b.Resilience = &snapshot.Resilience{Outliers: &snapshot.Outliers{ConsecutiveErrors: 1, EjectionMs: 30_000, MaxEjectedPercent: 50, PanicPercent: 10}}
	change(b)
	table := New()
	table.Zone, table.Region = "a", "eu"
	apply(t, table, epSubject("orders", 0), 1, placed("eu/a:40", "eu/b:40"))
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Session: session, Backends: []*snapshot.Backend{b}}))
	return table
}

// TestEveryAlgorithmHeedsEjections wants an instance that is ejected to get nothing, however requests come to it; among
// them those that only a hash, a session or a locality leads to.
func TestEveryAlgorithmHeedsEjections(t *testing.T) {
	changes := map[string]func(*snapshot.Backend){
		"locality": func(b *snapshot.Backend) { b.Locality = byZone },
		"ring": func(b *snapshot.Backend) {
			b.Balance, b.HashKeys = snapshot.Balance_BALANCE_RING_HASH, []*snapshot.HashKey{keyOf(snapshot.HashKey_HEADER, "x-user")}
		},
		"maglev": func(b *snapshot.Backend) {
			b.Balance, b.HashKeys = snapshot.Balance_BALANCE_MAGLEV, []*snapshot.HashKey{keyOf(snapshot.HashKey_HEADER, "x-user")}
		},
		"session": func(*snapshot.Backend) {},
	}
	for _, balance := range drawing {
		changes[balance.String()] = func(b *snapshot.Backend) { b.Balance = balance }
	}
	for name, change := range changes {
		var session *snapshot.Session
		if name == "session" {
			session = sessionOf(func(s *snapshot.Session) { s.Header = true })
		}
		table, call := heeding(t, change, session), callOf(random(t))
		want := 80 // of so many at most half may be ejected, and some must be left
		if _, few := snapshot.Balance_value[name]; few {
			want = maxNodes
		}
		if got := len(table.pools[orders].set.Load().called); got != want {
			t.Errorf("%s: %d instances count as called, want %d", name, got, want)
		}
		ejected := map[instanceKey]bool{}
		for i := range 12 {
			user := exchange.Field{Name: "x-user", Value: fmt.Sprint("user-", i)}
			fields := []exchange.Field{user}
			var d Decision
			table.Pick(call, get("/", fields...), &d)
			if session != nil {
				var response exchange.Response
				d.RewriteResponse(&response)
				fields = append(fields, response.Fields[0])
			}
			d.Judge(true, time.Millisecond, call.Now)
			ejected[d.Instance.key] = true
			if !d.Instance.standing.isEjected(start.UnixNano()) {
				t.Fatalf("%s: %s is not ejected after an error", name, d.Instance.ID)
			}
			d.Done()
			for range 40 {
				table.Pick(call, get("/", fields...), &d)
				if d.Instance == nil || ejected[d.Instance.key] {
					t.Fatalf("%s: %v gets a request although it is ejected", name, d.Instance)
				}
				d.Done()
			}
		}
	}
}

// TestHedgesAreHashed wants the second attempt beside one to go where the key leads next, as a second attempt after it does.
func TestHedgesAreHashed(t *testing.T) {
	table := userTable(t, snapshot.Balance_BALANCE_MAGLEV, "host", instances("a", "b", "c", "d", "e"))
	req := get("/", exchange.Field{Name: "x-user", Value: "ann"})
	var d, hedge Decision
	call := callOf(random(t))
	table.Pick(call, req, &d)
	for range 20 {
		if !d.PickHedge(call, &hedge) || hedge.Instance.key == d.Instance.key {
			t.Fatal("there is no second attempt elsewhere")
		}
		again := d
		again.counted = nil // d's own
		if !table.PickAgain(call, &again) || again.Instance.key != hedge.Instance.key {
			t.Fatalf("a hedge is at %s, a second attempt at %s", hedge.Instance.ID, again.Instance.ID)
		}
		again.Done()
		hedge.Done()
	}
}
