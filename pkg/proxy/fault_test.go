package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// spoil gives the pair's rule faults, named f0, f1 and so on.
func (p *pair) spoil(rule *snapshot.Rule, faults ...*snapshot.Fault) {
	p.tb.Helper()
	if rule == nil {
		rule = &snapshot.Rule{}
	}
	rule.Backends = []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}
	for i, f := range faults {
		if f.Id = fmt.Sprint("shop/p/f", i); f.Share == 0 {
			f.Share = 1_000_000
		}
		rule.Faults = append(rule.Faults, uint32(i))
	}
	body := &snapshot.Outbound{Faults: faults, Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: http11, Rules: []*snapshot.Rule{rule}}}}
	if applied, err := p.table.Apply(snapshot.OutSubject("shop", "orders", ""), snapshot.Version{Revision: 2}, body); err != nil || len(applied) != 1 {
		p.tb.Fatal(applied, err)
	}
}

// counted is a process of both versions that counts what it is asked, and echoes bodies.
func counted(t *testing.T, asked *atomic.Int64) http2Process {
	return http2Process(serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		io.Copy(w, r.Body)
	}))
}

// each runs a test with clients of HTTP/1.1 and of HTTP/2, and a pair that has the faults.
func eachVersion(t *testing.T, rule func() *snapshot.Rule, faults func() []*snapshot.Fault, test func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64)) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(version, func(t *testing.T) {
			var asked atomic.Int64
			p := startHTTP2(t, nil, counted(t, &asked))
			var r *snapshot.Rule
			if rule != nil {
				r = rule()
			}
			p.spoil(r, faults()...)
			client := p.client()
			if version == "HTTP/2" {
				client = p.client2()
			}
			test(t, p, client, &asked)
		})
	}
}

func TestFaultAborts(t *testing.T) {
	eachVersion(t, nil, func() []*snapshot.Fault { return []*snapshot.Fault{{Abort: 418}} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
		for range 2 { // the connection is used again
			response, err := client.Post("http://orders/", "", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != 418 || response.Header.Get("Sennit-Reason") != "fault-injected" || response.Header.Get("Sennit-Fault") != "shop/p/f0" {
				t.Errorf("%s %v", response.Status, response.Header)
			}
		}
		o := p.ended()
		if o.Outcome != (exchange.Outcome{Status: 418, Reason: exchange.FaultInjected}) || o.Instance != "" || o.Attempts != 0 || !slices.Equal(o.Faults, []Fault{{"shop/p/f0", FaultAborted}}) {
			t.Errorf("observed as %+v", o)
		}
		if n := asked.Load(); n != 0 {
			t.Errorf("the service was asked %d times", n)
		}
	})
}

func TestFaultAbortsOfGRPC(t *testing.T) {
	for _, tt := range []struct {
		fault  *snapshot.Fault
		status string
	}{
		{&snapshot.Fault{Abort: 503, AbortGrpc: 5}, "5"},
		{&snapshot.Fault{Abort: 503}, "14"}, // what 503 is in gRPC
	} {
		var asked atomic.Int64
		p := startHTTP2(t, nil, counted(t, &asked))
		p.spoil(nil, tt.fault)
		response, err := p.client2().Post("http://orders/shop.Orders/Get", "application/grpc", strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 || response.Header.Get("Grpc-Status") != tt.status || response.Header.Get("Sennit-Fault") != "shop/p/f0" {
			t.Errorf("%s %v", response.Status, response.Header)
		}
	}
}

func TestFaultResets(t *testing.T) {
	eachVersion(t, nil, func() []*snapshot.Fault { return []*snapshot.Fault{{Reset_: true}} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
		response, err := client.Post("http://orders/", "", strings.NewReader("hello"))
		if err == nil {
			response.Body.Close()
			t.Fatalf("answered with %s", response.Status)
		}
		o := p.ended()
		if o.Outcome != (exchange.Outcome{Reason: exchange.FaultInjected}) || !slices.Equal(o.Faults, []Fault{{"shop/p/f0", FaultReset}}) {
			t.Errorf("observed as %+v", o)
		}
		if n := asked.Load(); n != 0 {
			t.Errorf("the service was asked %d times", n)
		}
	})
}

func TestFaultDelays(t *testing.T) {
	const wait = 200 * time.Millisecond
	faults := func() []*snapshot.Fault {
		return []*snapshot.Fault{{DelayMs: uint64(wait.Milliseconds())}, {DelayMs: 1}}
	}
	eachVersion(t, nil, faults, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
		began := time.Now()
		response, err := client.Post("http://orders/", "", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != 200 || string(body) != "hello" || err != nil || response.Header.Get("Sennit-Reason") != "" {
			t.Errorf("%s, %q, %v", response.Status, body, err)
		}
		if took := time.Since(began); took < wait {
			t.Errorf("answered after %s", took)
		}
		o := p.ended()
		if o.Outcome != (exchange.Outcome{Status: 200}) || o.Instance != "a" || !slices.Equal(o.Faults, []Fault{{"shop/p/f0", FaultDelayed}, {"shop/p/f1", FaultDelayed}}) {
			t.Errorf("observed as %+v", o)
		}
	})
}

// TestFaultDelayCountsForTheTimeout has the answer of a rule's timeout, which says that a fault is why; and nothing is
// held against an instance.
func TestFaultDelayCountsForTheTimeout(t *testing.T) {
	for name, rule := range map[string]func() *snapshot.Rule{
		"of the whole": func() *snapshot.Rule { return &snapshot.Rule{TimeoutMs: 100} },
		"of one attempt": func() *snapshot.Rule {
			return &snapshot.Rule{BackendTimeoutMs: 100, Retry: &snapshot.Retry{Attempts: 3, BackoffMs: 1}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, rule, func() []*snapshot.Fault { return []*snapshot.Fault{{DelayMs: 60_000}} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
				response, err := client.Get("http://orders/")
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if response.StatusCode != 504 || response.Header.Get("Sennit-Reason") != "fault-injected" || response.Header.Get("Sennit-Fault") != "shop/p/f0" {
					t.Errorf("%s %v", response.Status, response.Header)
				}
				if n := asked.Load(); n != 0 {
					t.Errorf("the service was asked %d times", n)
				}
			})
		})
	}
}

// TestFaultDelayCountsForTheDeadline of a call of gRPC, and says so by its status.
func TestFaultDelayCountsForTheDeadline(t *testing.T) {
	var asked atomic.Int64
	p := startHTTP2(t, nil, counted(t, &asked))
	p.spoil(nil, &snapshot.Fault{DelayMs: 60_000})
	r, err := http.NewRequest("POST", "http://orders/shop.Orders/Get", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Grpc-Timeout", "100m")
	response, err := p.client2().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Header.Get("Grpc-Status") != "4" || response.Header.Get("Sennit-Reason") != "fault-injected" || asked.Load() != 0 {
		t.Errorf("%s %v", response.Status, response.Header)
	}
}

// TestFaultDelayEndsWithItsCaller wants a caller that goes away to be held no longer.
func TestFaultDelayEndsWithItsCaller(t *testing.T) {
	eachVersion(t, nil, func() []*snapshot.Fault { return []*snapshot.Fault{{DelayMs: 300_000}} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, "GET", "http://orders/", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for p.outbound.delayed.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if _, err := client.Do(r); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if o := p.ended(); o.Outcome.Reason != exchange.CallerGone || p.outbound.delayed.Load() != 0 || asked.Load() != 0 {
			t.Errorf("observed as %+v; the service was asked %d times", o, asked.Load())
		}
	})
}

// TestFaultDelaysAreBounded wants those beyond what a node holds to go on, and to be told apart.
func TestFaultDelaysAreBounded(t *testing.T) {
	var asked atomic.Int64
	p := startHTTP2(t, nil, counted(t, &asked))
	p.spoil(nil, &snapshot.Fault{DelayMs: 300_000})
	p.outbound.delayed.Add(maxDelayed)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if o := p.ended(); o.Outcome.Status != 200 || !slices.Equal(o.Faults, []Fault{{"shop/p/f0", FaultNotHeld}}) {
		t.Errorf("observed as %+v", o)
	}
	if n := p.outbound.delayed.Load(); n != maxDelayed {
		t.Errorf("%d are held back", n)
	}
}

// TestFaultDelayByTheClock runs on a clock of its own: how long it is, and that a node that drains waits for none.
func TestFaultDelayByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drains := make(chan struct{})
		c := &caller{Outbound: &Outbound{}, drains: drains}
		c.begin()
		began := time.Now()
		if how := c.delay(3 * time.Second); how != heldOver || time.Since(began) != 3*time.Second {
			t.Errorf("%d after %s", how, time.Since(began))
		}
		c.decision.Timeout = 5 * time.Second // of which 3 are over
		if how := c.delay(3 * time.Second); how != heldOut || time.Since(began) != 5*time.Second {
			t.Errorf("%d after %s", how, time.Since(began))
		}
		if how := c.delay(3 * time.Second); how != heldOut || time.Since(began) != 5*time.Second {
			t.Errorf("nothing was left: %d after %s", how, time.Since(began))
		}
		c.decision.Timeout = 0
		time.AfterFunc(time.Second, func() { close(drains) })
		if how := c.delay(time.Minute); how != heldOver || time.Since(began) != 6*time.Second {
			t.Errorf("a drain: %d after %s", how, time.Since(began))
		}
	})
}

// TestFaultBandwidth has the bodies of both directions pass at a rate, and come whole.
func TestFaultBandwidth(t *testing.T) {
	for name, fault := range map[string]*snapshot.Fault{"response": {ResponseRate: 100_000}, "request": {RequestRate: 100_000}} {
		for size, body := range map[string][]byte{"held": bytes.Repeat([]byte("x"), copyBuffer), "pumped": bytes.Repeat([]byte("y"), 3*copyBuffer)} {
			t.Run(name+"/"+size, func(t *testing.T) {
				eachVersion(t, nil, func() []*snapshot.Fault { return []*snapshot.Fault{fault} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
					began := time.Now()
					response, err := client.Post("http://orders/", "", bytes.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(response.Body)
					response.Body.Close()
					if !bytes.Equal(got, body) || err != nil {
						t.Errorf("%d bytes of %d, %v", len(got), len(body), err)
					}
					least := time.Duration(len(body)-10_000) * time.Second / 100_000 // the first piece need not wait
					if took := time.Since(began); took < least {
						t.Errorf("%d bytes pass in %s, want %s", len(body), took, least)
					}
					if o := p.ended(); o.Outcome != (exchange.Outcome{Status: 200}) || !slices.Equal(o.Faults, []Fault{{"shop/p/f0", FaultSlowed}}) {
						t.Errorf("observed as %+v", o)
					}
				})
			})
		}
	}
}

// TestFaultBandwidthAnswersForTheTimeout: what runs out of time because it was slowed down is no fault of the service's.
func TestFaultBandwidthAnswersForTheTimeout(t *testing.T) {
	for name, fault := range map[string]*snapshot.Fault{"response": {ResponseRate: 100}, "request": {RequestRate: 100}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule := func() *snapshot.Rule { return &snapshot.Rule{TimeoutMs: 4000} }
			eachVersion(t, rule, func() []*snapshot.Fault { return []*snapshot.Fault{fault} }, func(t *testing.T, p *pair, client *http.Client, asked *atomic.Int64) {
				response, err := client.Post("http://orders/", "", strings.NewReader(strings.Repeat("x", 10_000)))
				if err == nil {
					_, err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if name == "request" && response.StatusCode != 504 || name == "response" && err == nil {
						t.Errorf("%s, %v", response.Status, err)
					}
				}
				if o := p.ended(); o.Outcome.Reason != exchange.FaultInjected {
					t.Errorf("observed as %+v", o.Outcome)
				}
			})
		})
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			rate   int64
			size   int
			pieces int
			took   time.Duration
		}{
			{1000, 1000, 10, 900 * time.Millisecond}, // the next may pass after a second
			{1000, 50, 1, 0},
			{3, 6, 6, 5 * time.Second / 3},
			{1 << 40, 1 << 20, 1, 0},
		} {
			p, began, pieces := newPace(tt.rate, nil), time.Now(), 0
			err := p.pass(make([]byte, tt.size), func([]byte) error { pieces++; return nil })
			if took := time.Since(began).Round(time.Microsecond); err != nil || pieces != tt.pieces || took != tt.took.Round(time.Microsecond) {
				t.Errorf("%d bytes at %d a second: %d pieces in %s, %v; want %d in %s", tt.size, tt.rate, pieces, took, err, tt.pieces, tt.took)
			}
		}
		drains, began := make(chan struct{}), time.Now()
		time.AfterFunc(time.Second, func() { close(drains) })
		if err := newPace(10, drains).pass(make([]byte, 1000), func([]byte) error { return nil }); err != nil || time.Since(began) != time.Second {
			t.Errorf("a node that drains holds back for %s, %v", time.Since(began), err)
		}
		if newPace(0, nil) != nil {
			t.Error("no rate is one")
		}
	})
}

// TestFaultsEjectNobody: what runs out of time because a fault slowed it down is no error of its instance's.
func TestFaultsEjectNobody(t *testing.T) {
	for name, fault := range map[string]*snapshot.Fault{"response": {ResponseRate: 100}, "request": {RequestRate: 100}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			process := startProcess(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
			p := startPair(t, http11, nil, process, process)
			rule := &snapshot.Rule{TimeoutMs: 4000}
			p.spoil(rule, fault)
			rule.Backends[0].Resilience = &snapshot.Resilience{Origin: "shop/r", Outliers: ejectingAfter(1, time.Minute)}
			body := &snapshot.Outbound{Faults: []*snapshot.Fault{fault}, Ports: []*snapshot.OutboundPort{{Number: 80, Protocol: http11, Rules: []*snapshot.Rule{rule}}}}
			if _, err := p.table.Apply(snapshot.OutSubject("shop", "orders", ""), snapshot.Version{Revision: 3}, body); err != nil {
				t.Fatal(err)
			}
			client := p.client()
			for range 3 {
				if response, err := client.Post("http://orders/", "", strings.NewReader(strings.Repeat("x", 10_000))); err == nil {
					io.Copy(io.Discard, response.Body)
					response.Body.Close()
				}
			}
			if o := p.ended(); o.Outcome.Reason != exchange.FaultInjected {
				t.Errorf("observed as %+v", o.Outcome)
			}
			guarded := p.table.Guarded(time.Now())
			if len(guarded) != 1 || len(guarded[0].Ejected) != 0 {
				t.Errorf("ejected: %+v", guarded)
			}
		})
	}
}
