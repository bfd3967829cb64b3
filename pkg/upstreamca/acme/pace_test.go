package acme

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPause(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 3, 2, 1, 500, time.UTC)
	date := func(later time.Duration) string { return now.Add(later).Format(http.TimeFormat) }
	for asked, want := range map[string]time.Duration{
		"0":                    minPause,
		"-5":                   minPause,
		"3":                    3 * time.Second,
		"86400":                orderTime,
		"9223372037":           orderTime, // seconds that are no time.Duration
		"99999999999999999999": orderTime,
		"soon":                 minPause,
		date(0):                minPause,
		date(-time.Hour):       minPause,
		date(3 * time.Second):  3 * time.Second,
		date(time.Hour):        orderTime,
	} {
		if got := pause(asked, now); got != want {
			t.Errorf("%s: %s, want %s", asked, got, want)
		}
	}
}

// TestPolls: an order that is processed is asked about with pauses, also where the authority's clock is behind.
func TestPolls(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var at []time.Time
	p := &peer{}
	processing := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, `{"status": "processing"}`)
	}
	p.instead = map[string]http.HandlerFunc{
		"/finalize": func(w http.ResponseWriter, r *http.Request) {
			p.usual(httptest.NewRecorder(), r)
			processing(w)
		},
		"/order": func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if at = append(at, time.Now()); len(at) == 2 { // the first is before it is finalized
				processing(w)
				return
			}
			p.usual(w, r)
		},
	}
	cfg, csr, key := p.start(t)
	a, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Certify(context.Background(), csr, key, time.Hour); err != nil {
		t.Fatal(err)
	}
	if len(at) != 3 || at[2].Sub(at[1]) < 900*time.Millisecond {
		t.Errorf("it is asked at %v", at)
	}
}

// TestRateLimited: what is refused for long is not sent again meanwhile, and what is refused for a moment is.
func TestRateLimited(t *testing.T) {
	t.Parallel()
	for wait, times := range map[string]int{"3600": 1, "1": 2} {
		p := &peer{}
		p.instead = map[string]http.HandlerFunc{"/orders": func(w http.ResponseWriter, r *http.Request) {
			if p.count("/orders") > 1 {
				p.usual(w, r)
				return
			}
			w.Header().Set("Retry-After", wait)
			refuse(http.StatusTooManyRequests, "rateLimited", "")(w, r)
		}}
		cfg, csr, key := p.start(t)
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if refused := err != nil && strings.Contains(err.Error(), "rateLimited"); refused != (times == 1) || !refused && err != nil || p.count("/orders") != times {
			t.Errorf("after %s s: %v, asked %d times", wait, err, p.count("/orders"))
		}
	}
}

// TestBadNonce: a request whose nonce is not known is sent again with another (RFC 8555 §6.5), a few times.
func TestBadNonce(t *testing.T) {
	t.Parallel()
	for bad, succeeds := range map[int]bool{1: true, 1000: false} {
		p := &peer{}
		p.instead = map[string]http.HandlerFunc{"/account": func(w http.ResponseWriter, r *http.Request) {
			if p.count("/account") > bad {
				p.usual(w, r)
				return
			}
			refuse(http.StatusBadRequest, "badNonce", "")(w, r)
		}}
		cfg, csr, key := p.start(t)
		a, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Certify(context.Background(), csr, key, time.Hour)
		if succeeds != (err == nil) || !succeeds && (!strings.Contains(err.Error(), "badNonce") || p.count("/account") != 1+maxRetries) {
			t.Errorf("%d bad nonces: %v, asked %d times", bad, err, p.count("/account"))
		}
	}
}
