package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// traffic is the shop's customers: it checks out at the storefront, many at a time and steadily, and counts
// what came back. It is safe for concurrent use.
type traffic struct {
	url    string
	client *http.Client

	mu       sync.Mutex
	total    int64
	failed   int64
	lastFail string
	limited  int64            // of the failed: those that a quota refused
	versions map[string]int64 // of payments, since the last take
}

func newTraffic(address string) *traffic {
	return &traffic{
		url:      "http://" + address + "/checkout",
		client:   &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
		versions: map[string]int64{},
	}
}

// run keeps customers customers busy until ctx ends; each waits pause between two checkouts. A request that
// is under way when ctx ends is finished and counted.
func (t *traffic) run(ctx context.Context, customers int, pause time.Duration) {
	var group sync.WaitGroup
	for i := range customers {
		group.Go(func() {
			everyTick(ctx, pause, func() {
				version, err := t.checkout(context.WithoutCancel(ctx), customer(i))
				t.count(version, err)
			})
		})
	}
	group.Wait()
}

// everyTick calls fn over and over until ctx ends, at most once in each pause.
func everyTick(ctx context.Context, pause time.Duration, fn func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fn()
		}
	}
}

// customer is the name under which one of them asks.
func customer(i int) string { return fmt.Sprintf("customer-%d", i+1) }

func (t *traffic) checkout(ctx context.Context, customer string) (version string, err error) {
	body, err := get(ctx, t.client, t.url, customer)
	if err != nil {
		return "", err
	}
	var got receipt
	if err := json.Unmarshal(body, &got); err != nil {
		return "", err
	}
	return got.versionOf("payments"), nil
}

func (t *traffic) count(version string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	if err != nil {
		t.failed++
		t.lastFail = err.Error()
		if errors.Is(err, errLimited) {
			t.limited++
		}
		return
	}
	t.versions[version]++
}

// takeVersions returns how many checkouts each version of payments took part in since the last call.
func (t *traffic) takeVersions() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	taken := t.versions
	t.versions = map[string]int64{}
	return taken
}

func (t *traffic) counts() (total, failed int64, lastFail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total, t.failed, t.lastFail
}

// limitedCount is how many checkouts a quota refused.
func (t *traffic) limitedCount() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limited
}
