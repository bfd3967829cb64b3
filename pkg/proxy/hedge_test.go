package proxy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func hedging(delay time.Duration) *snapshot.Rule {
	return withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: uint64(delay.Milliseconds())})
}

// until answers when it may, or when nobody waits any more.
func until(may <-chan struct{}, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-may:
			answer(w, r)
		case <-r.Context().Done():
		}
	}
}

// TestHedge has the first instance that is asked behave in some way, and the second answer at once.
func TestHedge(t *testing.T) {
	never := make(chan struct{})
	ok := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "first") }
	for _, tt := range []struct {
		name, method, body string
		rule               *snapshot.Rule
		first              func(second <-chan struct{}) http.HandlerFunc // second is closed when the other was asked
		second             int
		status             int
		by                 string
		attempts           int
		slowly             bool // the second answers
	}{
		{"the first hangs", "GET", "", hedging(20 * time.Millisecond),
			func(<-chan struct{}) http.HandlerFunc { return until(never, ok) }, 200, 200, "second", 2, false},
		{"with a body", "PUT", "hello", hedging(20 * time.Millisecond),
			func(<-chan struct{}) http.HandlerFunc { return until(never, ok) }, 200, 200, "second", 2, false},
		{"the first breaks off meanwhile", "GET", "", hedging(20 * time.Millisecond),
			func(second <-chan struct{}) http.HandlerFunc {
				return until(second, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			}, 200, 200, "second", 2, true},
		{"the second fails", "GET", "", hedging(20 * time.Millisecond),
			func(second <-chan struct{}) http.HandlerFunc { return until(second, slowly(ok)) }, 500, 200, "first", 2, false},
		{"the first is in time", "GET", "", hedging(time.Minute),
			func(<-chan struct{}) http.HandlerFunc { return ok }, 200, 200, "first", 1, false},
		{"what is not idempotent", "POST", "hello", hedging(20 * time.Millisecond),
			func(<-chan struct{}) http.HandlerFunc { return slowly(ok) }, 200, 200, "first", 1, false},
		{"what is too large to be held", "PUT", strings.Repeat("x", copyBuffer+1), hedging(20 * time.Millisecond),
			func(<-chan struct{}) http.HandlerFunc { return slowly(ok) }, 200, 200, "first", 1, false},
		{"without a budget", "GET", "", withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: 20, RetryBudget: &snapshot.RetryBudget{}}),
			func(<-chan struct{}) http.HandlerFunc { return slowly(ok) }, 200, 200, "first", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int64
			second := make(chan struct{})
			first := tt.first(second)
			process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); string(body) != tt.body || err != nil {
					t.Errorf("the process reads %d bytes, %v", len(body), err)
				}
				if asked.Add(1) == 1 {
					first(w, r)
					return
				}
				close(second)
				answer := func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(tt.second)
					io.WriteString(w, "second")
				}
				if tt.slowly {
					answer = slowly(answer)
				}
				answer(w, r)
			})
			p := startPair(t, http11, tt.rule, process, process)
			request, err := http.NewRequest(tt.method, "http://orders/", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := p.client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != tt.status || string(body) != tt.by || err != nil {
				t.Errorf("%s by %q, %v", response.Status, body, err)
			}
			if o := p.ended(); o.Attempts != tt.attempts || o.Outcome != (exchange.Outcome{Status: tt.status}) || o.Err != nil {
				t.Errorf("observed as %+v after %d attempts, %v", o.Outcome, o.Attempts, o.Err)
			}
		})
	}
}

// slowly answers long after a hedge would have begun.
func slowly(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		answer(w, r)
	}
}

// TestHedgesBelongToTheirRequests lets both attempts of many requests end at almost the same time, over both versions
// of HTTP, and wants each request to get its own answer, and nothing to be left in flight.
func TestHedgesBelongToTheirRequests(t *testing.T) {
	var asked atomic.Int64
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		if n := rand.IntN(5); n > 0 {
			time.Sleep(time.Duration(n) * time.Millisecond)
		}
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})
	rule := withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: 2, RetryBudget: &snapshot.RetryBudget{Percent: 100, MinPerSecond: 1000}})
	p := startPair(t, http11, rule, process.String(), process.String(), process.String())
	const workers, requests = 8, 100
	var group sync.WaitGroup
	for worker := range workers {
		client := p.client()
		if worker%2 == 1 {
			client = p.client2()
		}
		group.Go(func() {
			for n := range requests {
				content := fmt.Sprintf("%d of %d", n, worker)
				request, err := http.NewRequest("PUT", fmt.Sprintf("http://orders/%d/%d", worker, n), strings.NewReader(content))
				if err != nil {
					t.Error(err)
					return
				}
				response, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				if want := fmt.Sprintf("/%d/%d %s", worker, n, content); string(body) != want || err != nil {
					t.Errorf("%s: %q, %v, want %q", response.Status, body, err, want)
					return
				}
			}
		})
	}
	group.Wait()
	if asked.Load() == workers*requests {
		t.Error("nothing was hedged")
	}
}

// TestHedgesAreWithinTheBudget has every request take longer than the delay, and wants the service to see at most what
// the budget allows besides.
func TestHedgesAreWithinTheBudget(t *testing.T) {
	var asked atomic.Int64
	process := startProcess(t, func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		time.Sleep(4 * time.Millisecond)
	})
	p := startPair(t, http11, withPolicy(nil, &snapshot.Resilience{HedgeDelayMs: 1, RetryBudget: &snapshot.RetryBudget{Percent: 10}}), process, process)
	client := p.client()
	const requests = 300
	for range requests {
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if got := asked.Load(); got <= requests || got > requests*12/10 { // a tenth, and what the edges of ten seconds add
		t.Errorf("the service saw %d requests of %d", got, requests)
	}
}
