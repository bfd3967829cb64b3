package registry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var errDown = errors.New("down")

func TestHealthChangesAfterAsManyResultsAsAsked(t *testing.T) {
	c := &Check{Healthy: 2, Unhealthy: 3}
	for _, tt := range []struct{ name, results, want string }{
		{"the first result counts at once", "+", "+"},
		{"a first failure too", "-", "-"},
		{"two failures are borne", "+--+--", "++++++"},
		{"three are not", "+---", "+++-"},
		{"one success is not enough", "-+-+", "----"},
		{"two are", "-++", "--+"},
	} {
		var h health
		got := ""
		for _, r := range tt.results {
			var err error
			if r == '-' {
				err = errDown
			}
			h.observe(c, err)
			got += map[bool]string{true: "+", false: "-"}[h.well]
			if h.well != (h.detail == "") {
				t.Errorf("%s: detail %q while well is %v", tt.name, h.detail, h.well)
			}
		}
		if got != tt.want {
			t.Errorf("%s: after %s it is %s, want %s", tt.name, tt.results, got, tt.want)
		}
	}
}

// What a process answers, which a long error cites, may not keep its node from telling that it is unwell.
func TestUnwellWithALongStoryIsRegistered(t *testing.T) {
	var h health
	h.observe(&Check{Healthy: 1, Unhealthy: 1}, errors.New("x"+strings.Repeat("ü", 200)))
	if len(h.detail) < 190 || len(h.detail) > 200 {
		t.Errorf("detail of %d bytes", len(h.detail))
	}
	if _, err := proto.Marshal(registration("web1", "one", func(in *snapshot.Instance) { in.HealthDetail = h.detail })); err != nil {
		t.Error(err)
	}
}

func TestChecksKeepTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		c := &Check{Interval: 2 * time.Second, Timeout: time.Second}
		slow := func(ctx context.Context, _ *Check) error { <-ctx.Done(); return ctx.Err() }
		results, last, waits := 0, time.Now(), map[time.Duration]bool{}
		watchHealth(ctx, c, slow, func(err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("result %v, want the timeout", err)
			}
			if wait := time.Since(last) - c.Timeout; results > 0 && (wait < 1800*time.Millisecond || wait > 2200*time.Millisecond) {
				t.Errorf("waited %s", wait)
			} else {
				waits[wait] = true
			}
			results, last = results+1, time.Now()
		})
		if results < 30 || results > 36 || len(waits) < 10 {
			t.Errorf("%d results in 100 s with %d different waits, want about 33 with jitter", results, len(waits))
		}
	})
}

func TestProbes(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			<-r.Context().Done()
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	up := netip.MustParseAddrPort(server.Listener.Addr().String())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := netip.MustParseAddrPort(closed.Addr().String())
	closed.Close()
	for _, tt := range []struct {
		name  string
		check Check
		want  string // in the error; empty: healthy
	}{
		{"TCP", Check{Kind: CheckTCP, Address: up}, ""},
		{"TCP, nobody there", Check{Kind: CheckTCP, Address: down}, "connection refused"},
		{"HTTP", Check{Kind: CheckHTTP, Address: up, Path: "/healthz?full=1"}, ""},
		{"a redirect is an answer and not followed", Check{Kind: CheckHTTP, Address: up, Path: "/moved"}, ""},
		{"a 500", Check{Kind: CheckHTTP, Address: up, Path: "/broken"}, "/broken: 500 Internal Server Error"},
		{"HTTP, nobody there", Check{Kind: CheckHTTP, Address: down, Path: "/"}, "connection refused"},
		{"no answer", Check{Kind: CheckHTTP, Address: up, Path: "/hang", Timeout: 50 * time.Millisecond}, "no answer within 50ms"},
	} {
		timeout := max(tt.check.Timeout, 0)
		if timeout == 0 {
			timeout = 10 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		err := probe(ctx, &tt.check)
		cancel()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestHealthReachesReaders(t *testing.T) {
	t.Parallel()
	changed := make(chan struct{}, 100)
	l := newLocal(t, LocalConfig{Changed: func() { changed <- struct{}{} }})
	results := make(chan error)
	l.probe = func(ctx context.Context, _ *Check) error {
		select {
		case err := <-results:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	in, err := l.Set("cli", []byte("service: orders\nports: [{port: 80, address: '127.0.0.1:8080'}]\nhealth: {tcp: {port: 80}, interval: 100ms, timeout: 100ms, unhealthy: 1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if known, _, _ := l.Health(in.Key()); known {
		t.Error("the health is known before the first result")
	}
	in.Health.Timeout = time.Minute // the test hands results over one by one
	runLocal(t, l)
	<-changed
	for _, err := range []error{errDown, nil, nil, errDown} {
		results <- err
	}
	for range 3 { // unwell, well again, unwell again
		<-changed
	}
	if known, well, detail := l.Health(in.Key()); !known || well || detail != "down" {
		t.Errorf("known %v, well %v, %q", known, well, detail)
	}
}

func newLocal(t *testing.T, cfg LocalConfig) *Local {
	t.Helper()
	cfg.Node, cfg.Log = "web1", slog.New(slog.DiscardHandler)
	l, err := NewLocal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// runLocal runs l until the test ends.
func runLocal(t *testing.T, l *Local) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
}
