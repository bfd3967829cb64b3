package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// callers starts a mesh in which web on host one and desk on host three call shop/orders on two, under a policy.
func callers(t *testing.T, policy string) (m *Mesh, web, desk string) {
	m = Start(t, Config{Services: []string{"shop/web", "shop/desk", "shop/orders"}})
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	web, desk = m.Listen("one", "shop/web", "shop/orders:80"), m.Listen("three", "shop/desk", "shop/orders:80")
	m.AwaitAnswer("one", web, "v1")
	m.AwaitAnswer("three", desk, "v1")
	m.MustApply(policy)
	return m, web, desk
}

func quotaPolicy(limits string) string {
	return "{apiVersion: sennit.dev/v1alpha1, kind: QuotaPolicy, metadata: {namespace: shop, name: orders}, " +
		"spec: {targetRefs: [{kind: Service, name: orders}], limits: [" + limits + "]}}"
}

// hours is how many windows of an hour a test touched: what an hour allows is allowed once in each.
func hours(began time.Time) int { return int(time.Now().Unix()/3600-began.Unix()/3600) + 1 }

// limited sends a request that a limit is for, again where no lease came in the half second that it waits for one: on a starved
// machine that may be, and nothing passes then.
func (m *Mesh) limited(node, address string) (response *http.Response) {
	m.t.Helper()
	m.Eventually("a lease", func(context.Context) (err error) {
		response, _, err = m.Send(m.t.Context(), node, http.MethodGet, address, "/", strings.NewReader(""))
		m.must("send", err)
		if response.Header.Get("Sennit-Reason") == "quota-unavailable" {
			err = errors.New("none in time")
		}
		return err
	})
	return response
}

// TestQuotaOfEachCaller wants a limit to hold for the caller that exceeds it, and to leave the other alone.
func TestQuotaOfEachCaller(t *testing.T) {
	t.Parallel()
	const limit = 20
	began := time.Now()
	m, web, desk := callers(t, quotaPolicy(fmt.Sprintf("{name: each, requests: %d, per: Hour, by: [{type: CallingService}]}", limit)))
	send := func(node, address string, count int) (passed int) {
		for range count {
			response := m.limited(node, address)
			switch {
			case response.StatusCode == http.StatusOK:
				passed++
			case response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Sennit-Reason") != "quota-exceeded" || response.Header.Get("Sennit-Limit") != "shop/orders/each":
				t.Fatalf("answered %d with %v", response.StatusCode, response.Header)
			default:
				if after, err := strconv.Atoi(response.Header.Get("Retry-After")); err != nil || after < 1 || after > 3600 {
					t.Fatalf("Retry-After: %q", response.Header.Get("Retry-After"))
				}
			}
		}
		return passed
	}
	if passed := send("one", web, 3*limit); passed < limit || passed > limit*hours(began) {
		t.Errorf("%d requests of web passed, the limit is %d", passed, limit)
	}
	if passed := send("three", desk, limit); passed != limit {
		t.Errorf("%d of %d requests of desk passed: another caller spent its limit", passed, limit)
	}
	m.Eventually("the access log says so", func(context.Context) error {
		lines, err := m.AccessLog("one")
		for _, line := range lines {
			if line["error.type"] == "quota-exceeded" && line["http.response.status_code"] == float64(http.StatusTooManyRequests) {
				return nil
			}
		}
		return errors.Join(fmt.Errorf("%d lines, none of a request that was refused", len(lines)), err)
	})
}

// TestQuotaWhileTheControllerDies kills the controller and starts it again while callers of two hosts ask for far more
// than the limit: not one request more may pass, and little of the limit may be lost.
func TestQuotaWhileTheControllerDies(t *testing.T) {
	t.Parallel()
	const limit, deaths = 1000, 2
	began := time.Now()
	m, web, desk := callers(t, quotaPolicy(fmt.Sprintf("{name: all, requests: %d, per: Hour}", limit)))
	var mu sync.Mutex
	passed, refused := 0, 0
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, from := range []struct{ node, address string }{{"one", web}, {"three", desk}} {
		for range 2 {
			group.Go(func() {
				for tick := time.NewTicker(5 * time.Millisecond); ; {
					select {
					case <-stop:
						tick.Stop()
						return
					case <-tick.C:
					}
					response, _, err := m.Send(t.Context(), from.node, http.MethodGet, from.address, "/", strings.NewReader(""))
					mu.Lock()
					switch {
					case err != nil:
						t.Error(err)
					case response.StatusCode == http.StatusOK:
						passed++
					case response.Header.Get("Sennit-Reason") == "quota-exceeded", response.Header.Get("Sennit-Reason") == "quota-unavailable":
						refused++
					default:
						t.Errorf("answered %d with %v", response.StatusCode, response.Header)
					}
					mu.Unlock()
				}
			})
		}
	}
	so := func(least int) func(context.Context) error {
		return func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if passed < least {
				return fmt.Errorf("%d passed, %d were refused", passed, refused)
			}
			return nil
		}
	}
	for death := range deaths {
		m.Eventually("requests pass", so(limit*(death+1)/4))
		m.crashController()
	}
	m.Eventually("most of the limit is used", so(limit*8/10))
	m.Eventually("nothing is left", func(ctx context.Context) error {
		response, _, err := m.Send(ctx, "one", http.MethodGet, web, "/", strings.NewReader(""))
		if err == nil && response.Header.Get("Sennit-Reason") != "quota-exceeded" {
			err = fmt.Errorf("answered %d", response.StatusCode)
		}
		return err
	})
	close(stop)
	group.Wait()
	t.Logf("%d passed of %d, %d were refused", passed, limit, refused)
	if passed > limit*hours(began) {
		t.Errorf("%d requests passed, the limit is %d", passed, limit)
	}
}

// TestQuotaUnderOverload has four hosts call a fifth with far more than each second allows, while the controller is
// killed and started again. SENNIT_MESH_SECONDS is how long it goes on at the least; for longer where the machine stood still, until
// enough of the limit was used.
func TestQuotaUnderOverload(t *testing.T) {
	const limit = 200
	const least, longer = 0.3, 48 * time.Second // of the limit, and the time for that
	length := seconds(t, 12)
	m := Start(t, Config{Namespaces: true, Nodes: []string{"one", "two", "three", "four", "five"}, Services: []string{"shop/web", "shop/orders"}})
	m.Serve("five", Service{Name: "shop/orders", Version: "v1"})
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}`)
	addresses := map[string]string{}
	for _, node := range []string{"one", "two", "three", "four"} {
		addresses[node] = m.Listen(node, "shop/web", "shop/orders:80")
		m.AwaitAnswer(node, addresses[node], "v1")
	}
	m.MustApply(quotaPolicy(fmt.Sprintf("{name: all, requests: %d, per: Second}", limit)))
	var mu sync.Mutex
	total, refused, inside := 0, 0, map[int64]int{} // requests that began and ended in one window were admitted in it
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for node, address := range addresses {
		for range 3 {
			group.Go(func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-tick.C:
					}
					sent := time.Now()
					response, _, err := m.Send(t.Context(), node, http.MethodGet, address, "/", strings.NewReader(""))
					answered := time.Now()
					mu.Lock()
					switch {
					case err != nil:
						t.Error(err)
					case response.StatusCode != http.StatusOK:
						refused++
					default:
						total++
						if sent.Unix() == answered.Unix() {
							inside[sent.Unix()]++
						}
					}
					mu.Unlock()
				}
			})
		}
	}
	time.AfterFunc(length/3, func() { _ = m.Controller().Kill() })
	killed := make(chan struct{})
	time.AfterFunc(length/3+time.Second, func() { close(killed) })
	<-killed
	m.RestartController()
	var took time.Duration
	share := 0.0 // of all the time, the second without a controller among it
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		mu.Lock()
		took = time.Since(began)
		share = float64(total) / (limit * took.Seconds())
		enough := share >= least && refused >= total/10
		mu.Unlock()
		if took >= length && (enough || took >= length+longer) {
			tick.Stop()
			break
		}
	}
	stop()
	group.Wait()
	for window, n := range inside {
		if n > limit {
			t.Errorf("%d requests passed in second %d, the limit is %d", n, window, limit)
		}
	}
	t.Logf("%d passed and %d were refused in %s: %.0f %% of the limit was used, with a controller that was away for a second", total, refused, took.Round(time.Second), 100*share)
	if refused < total/10 {
		t.Errorf("%d of %d were refused: no overload", refused, total+refused)
	}
	if share < least {
		t.Errorf("only %.0f %% of the limit was used", 100*share)
	}
}
