package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func operator(t *testing.T, m *launch.Mesh) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Socket: m.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func events(t *testing.T, c *client.Client, o client.AuditOptions) (all []report.AuditEvent) {
	t.Helper()
	if err := c.Audit(t.Context(), o, func(e report.AuditEvent) error {
		all = append(all, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRecordsSurviveKill kills the controller while several operators write, at random points and right behind an
// answer. Every revision that was stored is recorded once, in its order, when it runs again, and so is every act that
// was acknowledged; and the audit is whole.
func TestRecordsSurviveKill(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	m := startMesh(t)
	c := operator(t, m)
	if _, err := m.Token(t.Context(), "web1", "default/orders"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acknowledged := map[uint64]string{} // by revision
	for round := range 6 {
		atOnce := round%2 == 0 // the process dies at an answer, else at any point
		kill := sync.OnceFunc(func() { _ = m.Controller().Signal(syscall.SIGKILL) })
		after := 5 + random.IntN(40)
		if !atOnce {
			time.AfterFunc(time.Duration(50+random.IntN(300))*time.Millisecond, kill)
		}
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for step := 0; ; step++ {
					stored, err := put(t.Context(), m, route(fmt.Sprintf("route-%d", w), fmt.Sprintf("%d.%d", round, step)))
					if err != nil {
						return // killed
					}
					mu.Lock()
					acknowledged[number(t, stored.Metadata.ResourceVersion)] = stored.Metadata.Name
					n := len(acknowledged)
					mu.Unlock()
					if atOnce && n%after == 0 {
						kill()
					}
				}
			})
		}
		writers.Wait()
		<-m.Controller().Done()
		if err := m.StartController(t.Context()); err != nil {
			t.Fatalf("round %d: a controller that was killed does not start again: %v", round, err)
		}
		// A write waits until everything before it is recorded.
		last, err := put(t.Context(), m, route("last", fmt.Sprint(round)))
		if err != nil {
			t.Fatal(err)
		}
		recorded := map[uint64]report.AuditEvent{}
		next := uint64(1)
		for _, e := range events(t, c, client.AuditOptions{Kind: "change"}) {
			if e.Revision == 0 {
				continue
			}
			if e.Revision != next {
				t.Fatalf("round %d, seed %d: revision %d is recorded behind %d", round, seed, e.Revision, next-1)
			}
			recorded[e.Revision] = e
			next++
		}
		if end := number(t, last.Metadata.ResourceVersion); next <= end {
			t.Errorf("round %d, seed %d: the log of documents ends with %d, and %d is the last that is recorded", round, seed, end, next-1)
		}
		for revision, name := range acknowledged {
			if e := recorded[revision]; e.Name != name || e.Who == "" || !strings.HasPrefix(e.From, "unix socket, uid ") {
				t.Errorf("round %d, seed %d: revision %d of %s was acknowledged, its record is %+v", round, seed, revision, name, e)
			}
		}
		if found, err := c.VerifyAudit(t.Context(), ""); err != nil || len(found.Problems) > 0 {
			t.Errorf("round %d, seed %d: %v, %+v", round, seed, err, found)
		}
		t.Logf("round %d: %d changes acknowledged, %d stored and recorded", round, len(acknowledged), next-1)
	}
	tokens := events(t, c, client.AuditOptions{Kind: "jointokens"})
	if len(tokens) != 1 || tokens[0].Result != report.Done {
		t.Errorf("tokens that were made: %+v", tokens)
	}
	if len(acknowledged) == 0 {
		t.Error("nothing was acknowledged in any round")
	}
}

// TestDamageOfTheAuditIsFound changes the stored stream of a controller that was killed.
func TestDamageOfTheAuditIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(b []byte) []byte
		want  string
	}{
		{"a byte in the middle", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "missing"},
		{"its end is cut off", func(b []byte) []byte { return b[:len(b)/3] }, "missing"},
		{"all of it is gone", func([]byte) []byte { return nil }, "missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := startMesh(t)
			c := operator(t, m)
			for step := range 20 {
				if _, err := put(t.Context(), m, route("orders", fmt.Sprint(step))); err != nil {
					t.Fatal(err)
				}
			}
			awaitCheckpoint(t, c)
			if err := m.Controller().Kill(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(m.Dir, "controller/streams/jetstream/*/streams/SENNIT_AUDIT/msgs/*.blk"))
			if err != nil || len(files) != 1 {
				t.Fatalf("files of the stream: %v, %v", files, err)
			}
			data, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files[0], tt.spoil(slices.Clone(data)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := m.StartController(t.Context()); err != nil {
				t.Log(err) // it refuses to start, and says why
				if text := err.Error(); !strings.Contains(text, "backup") {
					t.Errorf("the message says nothing of a backup")
				}
				return
			}
			for range 2 { // and again when the newest checkpoint is another
				found, err := c.VerifyAudit(t.Context(), "")
				if err != nil || len(found.Problems) == 0 || !strings.Contains(strings.Join(found.Problems, "\n"), tt.want) {
					t.Fatalf("%v, %+v", err, found)
				}
				t.Logf("%q", found.Problems)
				if _, err := put(t.Context(), m, route("orders", "later")); err != nil {
					t.Fatal(err)
				}
				awaitCheckpoint(t, c)
			}
		})
	}
}

// awaitCheckpoint returns when a checkpoint covers all but itself, and a copy of it is kept.
func awaitCheckpoint(t *testing.T, c *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		found, err := c.VerifyAudit(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if found.Checkpoint != "" && found.Kept == found.Checkpoint && found.Uncovered <= 1 {
			return
		}
		<-tick.C
	}
}
