package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// kills is how often the processes are killed: SENNIT_KILLS, or 100.
func kills(t *testing.T) int {
	t.Helper()
	value := os.Getenv("SENNIT_KILLS")
	if value == "" {
		return 100
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 2 {
		t.Fatalf("SENNIT_KILLS=%s: want a number, 2 or more", value)
	}
	return n
}

// TestKillAtAnyPoint kills a controller and a node in turn, at random points, while documents are written and
// certificates rotate; a node that renews is killed when the controller has done its part, which random points hit rarely.
// Each starts again from what is on its disk; documents that were acknowledged are there after each kill, the audit has
// every revision once and is whole, and the node's generation never goes back.
func TestKillAtAnyPoint(t *testing.T) {
	if testing.Short() {
		t.Skip("starts daemons dozens of times")
	}
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	m := startMesh(t, "--certificate-ttl", "10s")
	lanes := fmt.Sprintf("127.0.0.1:%d", ports(t, 1)[0])
	if _, err := m.Join(t.Context(), "web1", lanes, "default/orders"); err != nil {
		t.Fatal(err)
	}
	acknowledged, generation, renewing := map[string]routeDocument{}, int64(0), 0
	revisions := map[uint64]string{} // the document that each changed
	for round := range kills(t) {
		victim := m.Controller()
		if round%2 == 1 {
			victim = m.Node("web1")
		}
		after := time.Duration(random.IntN(600)) * time.Millisecond
		if round%10 == 9 {
			after = 20 * time.Second // it renews before
		}
		killing := time.AfterFunc(after, func() { _ = victim.Signal(syscall.SIGKILL) })
		var mu sync.Mutex
		var writers sync.WaitGroup
		asked := map[string]string{} // the step that was under way, by name
		for w := range 3 {
			writers.Go(func() {
				name := fmt.Sprint("route-", w) // one writer each: what is there is what it stored last
				for step := 0; ; step++ {
					select {
					case <-victim.Done():
						return
					default:
					}
					wanted := route(name, fmt.Sprintf("%d.%d", round, step))
					stored, err := put(t.Context(), m, wanted)
					mu.Lock()
					if err != nil {
						asked[name] = wanted.Metadata.Labels["step"]
						mu.Unlock()
						return
					}
					acknowledged[name] = stored
					revisions[number(t, stored.Metadata.ResourceVersion)] = name
					mu.Unlock()
				}
			})
		}
		if round%2 == 1 {
			writers.Go(func() {
				for now := generation; ; {
					select {
					case <-victim.Done():
						return
					default:
					}
					if n, err := web1(t.Context(), m); err == nil && now > 0 && n.Status.Generation > now {
						_ = victim.Signal(syscall.SIGKILL)
						renewing++
						return
					}
				}
			})
		}
		writers.Wait()
		<-victim.Done()
		killing.Stop()
		var err error
		if round%2 == 1 {
			_, err = m.StartNode(t.Context(), "web1", lanes)
		} else {
			err = m.StartController(t.Context())
		}
		if err != nil {
			t.Fatalf("round %d, seed %d: %s was killed and does not start again: %v", round, seed, victim.Name, err)
		}
		for name, want := range acknowledged {
			var got routeDocument
			if err := launch.Call(t.Context(), m.Socket(), http.MethodGet, routesPath+"/"+name, nil, &got); err != nil {
				t.Fatalf("round %d, seed %d: %s was acknowledged and is gone: %v", round, seed, name, err)
			}
			if step := got.Metadata.Labels["step"]; step != want.Metadata.Labels["step"] && step != asked[name] {
				t.Errorf("round %d, seed %d: %s is %v, acknowledged was %v", round, seed, name, got.Metadata, want.Metadata)
			}
		}
		node, err := web1(t.Context(), m)
		if err != nil {
			t.Fatalf("round %d, seed %d: the node that joined is gone: %v", round, seed, err)
		}
		if node.Status.Generation < generation || node.Status.Liveness == "frozen" {
			t.Errorf("round %d, seed %d: the node is %+v, and had generation %d", round, seed, node.Status, generation)
		}
		generation = node.Status.Generation
	}
	c := operator(t, m)
	last, err := put(t.Context(), m, route("last", "1")) // a write waits until everything before it is recorded
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(1)
	for _, e := range events(t, c, client.AuditOptions{Kind: "change"}) {
		if e.Revision == 0 {
			continue
		}
		if e.Revision != next {
			t.Fatalf("seed %d: revision %d is recorded behind %d", seed, e.Revision, next-1)
		}
		if name := revisions[e.Revision]; name != "" && name != e.Name {
			t.Errorf("seed %d: revision %d of %s was acknowledged, recorded is %s", seed, e.Revision, name, e.Name)
		}
		next++
	}
	if len(revisions) == 0 || next <= number(t, last.Metadata.ResourceVersion) {
		t.Errorf("seed %d: %d changes were acknowledged, the last is %s, recorded are those before %d", seed, len(revisions), last.Metadata.ResourceVersion, next)
	}
	if found, err := c.VerifyAudit(t.Context(), ""); err != nil || len(found.Problems) > 0 {
		t.Errorf("seed %d: %v, %+v", seed, err, found)
	}
	awaitStatus(t, m, "the node is connected and has no trouble", func(s report.Node) bool { return s.Bus.Connected && len(s.Problems) == 0 })
	if renewing == 0 && kills(t) >= 10 {
		t.Errorf("seed %d: the node was never killed while it renewed", seed)
	}
	t.Logf("%d changes acknowledged up to %s, generation %d, killed while it renewed: %d", len(revisions), last.Metadata.ResourceVersion, generation, renewing)
}

// A nodeDocument is as much of a Node document as the test looks at.
type nodeDocument struct {
	Status struct {
		Generation int64  `json:"generation"`
		Liveness   string `json:"liveness"`
	} `json:"status"`
}

func web1(ctx context.Context, m *launch.Mesh) (n nodeDocument, err error) {
	return n, launch.Call(ctx, m.Socket(), http.MethodGet, "/apis/sennit.dev/v1alpha1/nodes/web1", nil, &n)
}
