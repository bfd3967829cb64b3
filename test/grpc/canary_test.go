package grpc

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// moving is the step of a canary while the split is being changed: nobody knows yet who gets a request.
const moving = -1

// A canary is load of several protocols while a split moves. It counts for each step, protocol and version the requests
// that began and ended between two changes.
type canary struct {
	mu     sync.Mutex
	step   int
	counts map[tick]int
	failed []error
	sent   int
}

type tick struct {
	step              int
	protocol, version string
}

// request counts one request.
func (c *canary) request(protocol string, send func() (version string, err error)) {
	c.mu.Lock()
	began := c.step
	c.mu.Unlock()
	version, err := send()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("%s, step %d: %w", protocol, began, err))
	} else if began == c.step && began != moving {
		c.counts[tick{began, protocol, version}]++
	}
}

func (c *canary) move(step int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step = step
}

// of is how many requests of a protocol were counted in a step, and how many v2 answered.
func (c *canary) of(step int, protocol string) (all, v2 int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v2 = c.counts[tick{step, protocol, "v2"}]
	return c.counts[tick{step, protocol, "v1"}] + v2, v2
}

// failures are how many requests failed, of how many, and what the first of them heard.
func (c *canary) failures() (failed, sent int, first error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failed) > 0 {
		first = c.failed[0]
	}
	return len(c.failed), c.sent, first
}

// TestCanary moves orders from v1 to v2 by `sennit split` in ten steps, under load of HTTP/1.1, HTTP/2 and gRPC at once.
// No request fails, and of those that began once a step was confirmed each version gets its share: as many as a fair die
// with that share gives, but once in ten million times.
func TestCanary(t *testing.T) {
	m, listener, _ := startVersions(t)
	split := func(v2 int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, m.Program[0], "split", "shop/orders", fmt.Sprintf("v1=%d", 100-v2), fmt.Sprintf("v2=%d", v2),
			"--yes", "--wait", "--socket", m.Socket()).CombinedOutput()
		if err != nil {
			t.Fatalf("split %d: %v\n%s", v2, err, out)
		}
	}
	split(0)
	c := &canary{step: moving, counts: map[tick]int{}}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer load.Wait()
	defer stop()
	senders := map[string]func(context.Context) (string, error){
		"HTTP/1.1": httpSender(t, listener, (*http.Protocols).SetHTTP1),
		"HTTP/2":   httpSender(t, listener, (*http.Protocols).SetUnencryptedHTTP2),
		"gRPC":     callSender(t, listener),
	}
	for protocol, send := range senders {
		for range 4 {
			load.Go(func() {
				for ctx.Err() == nil {
					c.request(protocol, func() (string, error) {
						return send(t.Context()) // what has begun ends, when the load does
					})
				}
			})
		}
	}
	const steps, enough = 10, 1500
	for step := 0; step <= steps; step++ {
		if step > 0 {
			split(step * 100 / steps)
		}
		c.move(step)
		await(t, fmt.Sprintf("%d requests of each protocol at %d %%", enough, step*100/steps), func(context.Context) bool {
			if failed, sent, first := c.failures(); failed > 0 {
				t.Fatalf("step %d: %d of %d requests failed, the first: %v", step, failed, sent, first)
			}
			for protocol := range senders {
				if all, _ := c.of(step, protocol); all < enough {
					return false
				}
			}
			return true
		})
		c.move(moving)
		share := float64(step) / steps
		together, those := 0, 0
		for protocol := range senders {
			all, v2 := c.of(step, protocol)
			together, those = together+all, those+v2
			fair(t, protocol, all, v2, share)
		}
		fair(t, "all protocols", together, those, share)
		t.Logf("v2=%d: %.1f %% of %d requests", step*100/steps, 100*float64(those)/float64(together), together)
	}
	stop()
	load.Wait()
	failed, sent, first := c.failures()
	t.Logf("%d requests, failed requests: %d", sent, failed)
	if failed > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", failed, sent, first)
	}
}

// httpSender sends requests that v1 and v2 answer with their names, over one version of HTTP.
func httpSender(t *testing.T, address string, version func(*http.Protocols, bool)) func(context.Context) (string, error) {
	transport := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 8}
	version(transport.Protocols, true)
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	return func(ctx context.Context) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/buy", strings.NewReader("a basket"))
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s, %s", response.Status, response.Header.Get("Sennit-Reason"))
		}
		return string(body), err
	}
}

func callSender(t *testing.T, address string) func(context.Context) (string, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithAuthority("orders"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	client := testgrpc.NewTestServiceClient(conn)
	return func(ctx context.Context) (string, error) {
		answer, err := client.UnaryCall(ctx, &testgrpc.SimpleRequest{})
		return answer.GetServerId(), err
	}
}

// fair fails the test where a share is so far off that chance alone brings it about once in ten million times, above
// or below.
func fair(t *testing.T, what string, all, hits int, share float64) {
	t.Helper()
	const never = 1e-7
	if below, above := binomial(all, share, 0, hits), binomial(all, share, hits, all); below < never || above < never {
		t.Errorf("%s: v2 gets %d of %d, and its share is %.0f %%", what, hits, all, 100*share)
	}
}

// binomial is the chance of from to to hits among n draws of chance p.
func binomial(n int, p float64, from, to int) float64 {
	sum := 0.0
	for k := from; k <= to; k++ {
		switch {
		case p == 0 && k == 0 || p == 1 && k == n:
			sum++
		case p > 0 && p < 1:
			all, _ := math.Lgamma(float64(n + 1))
			hits, _ := math.Lgamma(float64(k + 1))
			others, _ := math.Lgamma(float64(n - k + 1))
			sum += math.Exp(all - hits - others + float64(k)*math.Log(p) + float64(n-k)*math.Log(1-p))
		}
	}
	return sum
}

// TestBinomial: the bounds of TestCanary let pass what is fair, and not a step too few or too many.
func TestBinomial(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		n, from, to int
		p, want     float64
	}{
		{4, 0, 4, 0.3, 1}, {2, 1, 1, 0.5, 0.5}, {10, 0, 0, 0, 1}, {10, 1, 10, 0, 0}, {10, 10, 10, 1, 1}, {10, 0, 9, 1, 0},
		{1500, 0, 1500, 0.1, 1}, {1500, 0, 1200, 0.9, 0}, {1500, 300, 1500, 0.1, 0},
	} {
		if got := binomial(tt.n, tt.p, tt.from, tt.to); math.Abs(got-tt.want) > 1e-7 {
			t.Errorf("%d to %d hits of %d, by %v: %v", tt.from, tt.to, tt.n, tt.p, got)
		}
	}
}
