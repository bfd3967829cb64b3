package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

func TestFailuresAreCountedByAddress(t *testing.T) {
	t.Parallel()
	f, now := newFailures(), time.Now()
	fail := func(remote string, times int) (tooMany int) {
		for range times {
			if f.note(remote, now) {
				tooMany++
			}
		}
		return tooMany
	}
	if n := fail("192.0.2.1:1000", failuresOfOne); n != 0 {
		t.Errorf("%d of the first were too many", n)
	}
	if n := fail("192.0.2.1:2000", 5); n != 5 { // another port is no other address
		t.Errorf("%d of 5 above the limit were too many", n)
	}
	if n := fail("[::ffff:192.0.2.1]:1", 1); n != 1 {
		t.Error("an address in IPv6's clothes is another")
	}
	if n := fail("192.0.2.2:1000", 1); n != 0 {
		t.Error("what another did counts")
	}
	now = now.Add(2 * failurePause)
	if n := fail("192.0.2.1:3000", 3); n != 1 {
		t.Errorf("%d of 3 after two pauses were too many", n)
	}
	if fail("[2001:db8::1]:1", failuresOfOne); fail("[2001:db8::2:3:4:5]:1", 1) != 1 {
		t.Error("another address of one network is another source")
	}
	if fail("garbage", failuresOfOne); fail("rubbish", 1) != 1 {
		t.Error("what cannot be read has no limit")
	}
}

func TestFailuresOfManyAreBounded(t *testing.T) {
	t.Parallel()
	f, now := newFailures(), time.Now()
	tooMany := 0
	for i := range 3 * maxSources {
		if f.note(fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&255, i&255), now) {
			tooMany++
		}
	}
	if want := 3*maxSources - failuresOfAll; tooMany != want {
		t.Errorf("%d were too many, want %d", tooMany, want)
	}
	if n := len(f.now) + len(f.old); n > 2*maxSources {
		t.Errorf("%d addresses are remembered", n)
	}
}

// A stranger who tries tokens is told to wait, and keeps nobody out who has a good one: not at his own address either.
func TestAStrangerKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	var recorded, unseen atomic.Int64
	w := start(t, func(c *Config) {
		c.Refused = func(Caller, string, string, error) { recorded.Add(1) }
		c.RefusedUnseen = func() { unseen.Add(1) }
	})
	codes := map[int]int{}
	for i := range 2 * failuresOfOne {
		code, _, header := w.do("GET", services, "", "", "Authorization", fmt.Sprintf("Bearer guess-%d", i))
		codes[code]++
		if code == http.StatusTooManyRequests && header.Get("Retry-After") == "" {
			t.Error("who is told to wait is not told how long")
		}
	}
	// A pause may have passed, on a slow machine.
	if codes[http.StatusUnauthorized] < failuresOfOne || codes[http.StatusTooManyRequests] == 0 || len(codes) != 2 {
		t.Errorf("answered %v", codes)
	}
	if int(recorded.Load()) != codes[401] || int(unseen.Load()) != codes[429] {
		t.Errorf("%d recorded, %d counted of %v", recorded.Load(), unseen.Load(), codes)
	}
	w.must(200, "GET", services, "", "")
	if r := w.server.Refusals(); int(r.Unrecognised) != codes[401] || int(r.TooMany) != codes[429] || r.Forbidden != 0 {
		t.Errorf("counted %+v of %v", r, codes)
	}
	// What load balancers ask needs no token, and is no failure.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("/healthz: %s", res.Status)
	}
}
