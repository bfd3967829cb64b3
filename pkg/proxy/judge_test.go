package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// withPolicy is a rule, or an empty one, of which startCaller takes the policy for the service.
func withPolicy(rule *snapshot.Rule, policy *snapshot.Resilience) *snapshot.Rule {
	if rule == nil {
		rule = &snapshot.Rule{}
	}
	rule.Backends = []*snapshot.Backend{{Resilience: policy}}
	return rule
}

// ejectingAfter ejects after errors in a row, for a time that does not grow.
func ejectingAfter(errors uint32, lasts time.Duration) *snapshot.Outliers {
	ms := uint64(lasts.Milliseconds())
	return &snapshot.Outliers{ConsecutiveErrors: errors, EjectionMs: ms, MaxEjectionMs: ms, MaxEjectedPercent: 50, PanicPercent: 50}
}

// TestInstanceThatFailsIsEjected has one of three instances fail: after three errors it gets nothing, and something again
// when its time is over.
func TestInstanceThatFailsIsEjected(t *testing.T) {
	var failed atomic.Int64
	good := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	bad := startProcess(t, func(w http.ResponseWriter, _ *http.Request) {
		failed.Add(1)
		w.WriteHeader(500)
	})
	const lasts = 3 * time.Second
	p := startPair(t, http11, withPolicy(nil, &snapshot.Resilience{Outliers: ejectingAfter(3, lasts)}), good, good, bad)
	client := p.client()
	ask := func() int {
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	var began time.Time
	for failed.Load() < 3 {
		began = time.Now() // no later than the ejection
		ask()
	}
	spared := 0
	for ask() == 200 || failed.Load() == 3 {
		spared++
	}
	if took := time.Since(began); took < lasts {
		t.Errorf("it was asked again after %s, want %s", took, lasts)
	}
	if failed.Load() != 4 {
		t.Errorf("it was asked %d times", failed.Load())
	}
	if spared == 0 {
		t.Error("no request went to another instance meanwhile")
	}
}

// TestWhatEjects lets one of three instances answer in many ways; all are the instance's doing or not.
func TestWhatEjects(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		eject  bool
	}{
		{"500", func(w http.ResponseWriter) { w.WriteHeader(500) }, true},
		{"404", func(w http.ResponseWriter) { w.WriteHeader(404) }, false},
		{"429", func(w http.ResponseWriter) { w.WriteHeader(429) }, false},
		{"breaking off before the head", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, true},
		{"breaking off in the body", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000000")
			io.WriteString(w, strings.Repeat("x", 100_000))
			panic(http.ErrAbortHandler)
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int64
			good := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
			bad := startProcess(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				tt.answer(w)
			})
			p := startPair(t, http11, withPolicy(nil, &snapshot.Resilience{Outliers: ejectingAfter(3, time.Hour)}), good, good, bad)
			client := p.client()
			for range 60 {
				request, err := http.NewRequest("POST", "http://orders/", nil) // what is sent again would be counted twice
				if err != nil {
					t.Fatal(err)
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			if got := asked.Load(); tt.eject && got != 3 || !tt.eject && got != 20 {
				t.Errorf("the instance was asked %d times", got)
			}
		})
	}
}

// TestCallThatFailsEjects has one of two instances end calls of gRPC with a status, in trailers alone or behind a body.
func TestCallThatFailsEjects(t *testing.T) {
	for _, tt := range []struct {
		name, code string
		body       bool
		eject      bool
	}{
		{"unavailable", "14", false, true},
		{"unavailable behind a body", "14", true, true},
		{"not found", "5", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked atomic.Int64
			serve := func(code string, count *atomic.Int64) servePeer {
				return func(_ context.Context, s *transport.Stream) {
					if count != nil {
						count.Add(1)
					}
					var request exchange.Request
					if s.ReadRequest(&request) != nil {
						return
					}
					fields := exchange.Fields{{Name: "content-type", Value: "application/grpc"}}
					if !tt.body {
						fields = append(fields, exchange.Field{Name: "grpc-status", Value: code})
					}
					if s.WriteResponse(&exchange.Response{Status: 200, Fields: fields, BodyLength: exchange.LengthUnknown}) != nil {
						return
					}
					if tt.body {
						_, _ = s.Write([]byte("....."))
						_ = s.WriteTrailers(exchange.Fields{{Name: "grpc-status", Value: code}})
					}
					_ = s.End()
				}
			}
			p := startCaller(t, http11, withPolicy(nil, &snapshot.Resilience{Outliers: ejectingAfter(3, time.Hour)}), serve("0", nil), serve(tt.code, &asked))
			client := p.client2()
			for range 20 {
				request, err := http.NewRequest("POST", "http://orders/a.B/C", nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Content-Type", "application/grpc")
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
			if got := asked.Load(); tt.eject && got != 3 || !tt.eject && got != 10 {
				t.Errorf("the instance was asked %d times", got)
			}
		})
	}
}

// TestSlowInstanceIsEjected has one of three instances answer later than the others.
func TestSlowInstanceIsEjected(t *testing.T) {
	fast := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	slow := startProcess(t, func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) }) // it is that slow
	policy := &snapshot.Outliers{
		EjectionMs: 300, MaxEjectionMs: 300, MaxEjectedPercent: 50, IntervalMs: 200,
		Latency: &snapshot.Outliers_Latency{MinInstances: 3, MinRequests: 1, FactorThousandths: 3000, MinDifferenceMs: 20},
	}
	p := startPair(t, http11, withPolicy(nil, &snapshot.Resilience{Outliers: policy}), fast, fast, slow)
	client := p.client()
	for deadline := time.Now().Add(time.Minute); ; {
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if ejected := p.table.Guarded(time.Now())[0].Ejected; len(ejected) == 1 && ejected[0].ID == "c" {
			return
		}
		if time.Now().After(deadline) { // one of the others may be the slow one for a moment
			t.Fatal("the slow instance is not ejected")
		}
	}
}
