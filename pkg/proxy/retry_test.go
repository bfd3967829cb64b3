package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// retryOf sends again after a millisecond.
func retryOf(attempts uint32, codes ...uint32) *snapshot.Rule {
	return &snapshot.Rule{Retry: &snapshot.Retry{Codes: codes, Attempts: attempts, BackoffMs: 1}}
}

func TestRetries(t *testing.T) {
	large := strings.Repeat("x", copyBuffer+1)
	for _, tt := range []struct {
		name, method, body string
		rule               *snapshot.Rule
		fails              int64 // how many of the first attempts
		status             int
		attempts           int64
	}{
		{"until one works", "GET", "", retryOf(3, 503), 2, 200, 3},
		{"as often as is said", "GET", "", retryOf(3, 503), 9, 503, 4},
		{"of the codes that are said", "GET", "", retryOf(3, 500, 502), 9, 503, 1},
		{"without a rule not", "GET", "", nil, 9, 503, 1},
		{"with its body", "PUT", "hello", retryOf(3, 503), 2, 200, 3},
		{"a body that was not held not", "PUT", large, retryOf(3, 503), 9, 503, 1},
		{"what is not idempotent not", "POST", "hello", retryOf(3, 503), 9, 503, 1},
		{"within the time of the whole", "GET", "", &snapshot.Rule{TimeoutMs: 5_000, Retry: &snapshot.Retry{Codes: []uint32{503}, Attempts: 3, BackoffMs: 5_000}}, 9, 503, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var attempts atomic.Int64
			process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != tt.body {
					t.Errorf("the process reads %d bytes, %v", len(body), err)
				}
				if attempts.Add(1) <= tt.fails {
					w.WriteHeader(503)
				}
				io.WriteString(w, "said by the process")
			})
			p := startPair(t, http11, tt.rule, process)
			request, err := http.NewRequest(tt.method, "http://orders/", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := p.client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if response.StatusCode != tt.status || string(body) != "said by the process" || err != nil {
				t.Errorf("%s, %q, %v", response.Status, body, err)
			}
			if got := attempts.Load(); got != tt.attempts {
				t.Errorf("the process was asked %d times, want %d", got, tt.attempts)
			}
			if o := p.ended(); o.Attempts != int(tt.attempts) || o.Outcome != (exchange.Outcome{Status: tt.status}) {
				t.Errorf("observed as %+v after %d attempts", o.Outcome, o.Attempts)
			}
		})
	}
}

func TestRetriesOverHTTP2(t *testing.T) {
	var attempts atomic.Int64
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); string(body) != "hello" || err != nil {
			t.Errorf("the process reads %q, %v", body, err)
		}
		if attempts.Add(1)%2 == 1 {
			w.WriteHeader(503)
			io.WriteString(w, strings.Repeat("x", 1<<20)) // still on its way when it is given up
		}
	})
	client := startHTTP2(t, retryOf(1, 503), http2Process(process)).client2()
	for i := range int64(10) {
		request, err := http.NewRequest("PUT", "http://orders/", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 200 || attempts.Load() != 2*(i+1) {
			t.Fatalf("request %d: %s, %d attempts in all", i, response.Status, attempts.Load())
		}
	}
}

func TestRetryAfterTimeoutOfOneAttempt(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if attempts.Add(1) == 1 {
			<-r.Context().Done()
		}
	})
	rule := retryOf(1)
	rule.BackendTimeoutMs = 4000
	p := startPair(t, http11, rule, process)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 || attempts.Load() != 2 {
		t.Errorf("%s after %d attempts", response.Status, attempts.Load())
	}
}

// TestDrainEndsAWaitForARetry wants a node that stops not to wait for back-offs.
func TestDrainEndsAWaitForARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drains := make(chan struct{})
		c := &caller{drains: drains}
		began := time.Now()
		if !c.pause(time.Second) || time.Since(began) != time.Second {
			t.Errorf("waited %s for a second", time.Since(began))
		}
		time.AfterFunc(time.Second, func() { close(drains) })
		if c.pause(time.Minute) || time.Since(began) != 2*time.Second {
			t.Errorf("a drain after one second ended the wait after %s", time.Since(began)-time.Second)
		}
	})
}

// TestRetriesDoNotMultiplyAnOverload has every instance fail and wants the service to see at most 1.2 times what it was
// asked, whether a rule asks for retries or not.
func TestRetriesDoNotMultiplyAnOverload(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule *snapshot.Rule
		fail func(http.ResponseWriter)
	}{
		{"by status", retryOf(5, 503), func(w http.ResponseWriter) { w.WriteHeader(503) }},
		{"by breaking off", retryOf(5), func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		{"by breaking off, without a rule", nil, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var seen atomic.Int64
			process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) {
				seen.Add(1)
				tt.fail(w)
			})
			p := startPair(t, http11, tt.rule, process, process, process)
			p.quiet.Store(true)
			client := p.client()
			const offered = 2000
			began := time.Now()
			for range offered {
				response, err := client.Get("http://orders/")
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode < 500 {
					t.Fatal(response.Status)
				}
			}
			most := int64(offered * 12 / 10)
			if took := time.Since(began); took > 9*time.Second { // in each ten seconds the floor may count instead
				most += 30 * int64(took/(10*time.Second)+2)
			}
			if got := seen.Load(); got > most {
				t.Errorf("the service saw %d requests of %d; at most %d are within the budget", got, offered, most)
			} else if got == offered {
				t.Error("nothing was sent again")
			}
		})
	}
}

// policyRetry is a policy's retry for rules without one.
func policyRetry(r *snapshot.Retry) *snapshot.Rule {
	r.BackoffMs = 1
	return withPolicy(nil, &snapshot.Resilience{Origin: "shop/p", Retry: r})
}

func TestPolicyRetries(t *testing.T) {
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	answers := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }
	rule := retryOf(1, 500)
	rule.Backends = policyRetry(&snapshot.Retry{Attempts: 3, Codes: []uint32{503}}).Backends
	for _, tt := range []struct {
		name     string
		rule     *snapshot.Rule
		fail     http.HandlerFunc
		attempts int64
		status   int
	}{
		{"codes", policyRetry(&snapshot.Retry{Attempts: 3, Codes: []uint32{503}}), answers, 3, 200},
		{"a rule has its own", rule, answers, 1, 503},
		{"breaking off", policyRetry(&snapshot.Retry{Attempts: 3, On: []snapshot.Retry_Condition{snapshot.Retry_RESET}}), breaks, 3, 200},
		{"breaking off is not named", policyRetry(&snapshot.Retry{Attempts: 3, On: []snapshot.Retry_Condition{snapshot.Retry_TIMEOUT}}), breaks, 1, 502},
		{"none is named", policyRetry(&snapshot.Retry{Attempts: 3, On: []snapshot.Retry_Condition{snapshot.Retry_NONE}}), breaks, 1, 502},
		{"time of one attempt", policyRetry(&snapshot.Retry{Attempts: 3, PerTryTimeoutMs: 4000, On: []snapshot.Retry_Condition{snapshot.Retry_TIMEOUT}}), hangs, 3, 200},
		{"time of one attempt, which is not named", policyRetry(&snapshot.Retry{Attempts: 3, PerTryTimeoutMs: 4000, On: []snapshot.Retry_Condition{snapshot.Retry_RESET}}), hangs, 1, 504},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var attempts atomic.Int64
			process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
				if attempts.Add(1) <= 2 {
					tt.fail(w, r)
				}
			})
			response, err := startPair(t, http11, tt.rule, process, process, process, process).client().Get("http://orders/")
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != tt.status || attempts.Load() != tt.attempts {
				t.Errorf("%s after %d attempts, want %d after %d", response.Status, attempts.Load(), tt.status, tt.attempts)
			}
		})
	}
}

// TestCallsAreRetried has a service end calls of gRPC with a status, with a message before it or without.
func TestCallsAreRetried(t *testing.T) {
	small, large := "hello", strings.Repeat("x", copyBuffer+1)
	for _, tt := range []struct {
		name, message, code string
		answers             bool // with a message before the status
		attempts            int64
		status              string
	}{
		{"without a message", small, "14", false, 3, "0"},
		{"with no request's message", "", "14", false, 3, "0"},
		{"with a message", small, "14", true, 1, "14"},
		{"of another status", small, "13", false, 1, "13"},
		{"what is too large to be kept", large, "14", false, 1, "14"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var attempts atomic.Int64
			process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
				if body, err := io.ReadAll(r.Body); string(body) != tt.message || err != nil {
					t.Errorf("the process reads %d bytes, %v", len(body), err)
				}
				code := tt.code
				if attempts.Add(1) == 3 {
					code = "0"
				}
				w.Header().Set("Content-Type", "application/grpc")
				if tt.answers {
					io.WriteString(w, "a message")
					w.(http.Flusher).Flush()
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", code)
					return
				}
				w.Header().Set("Grpc-Status", code)
			})
			p := startHTTP2(t, policyRetry(&snapshot.Retry{Attempts: 3, GrpcCodes: []uint32{14}}), http2Process(process))
			request, err := http.NewRequest("POST", "http://orders/a.B/C", io.MultiReader(strings.NewReader(tt.message))) // of no stated length
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/grpc")
			response, err := p.client2().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			status := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
			if status != tt.status || attempts.Load() != tt.attempts {
				t.Errorf("status %s after %d attempts, want %s after %d", status, attempts.Load(), tt.status, tt.attempts)
			}
		})
	}
}
