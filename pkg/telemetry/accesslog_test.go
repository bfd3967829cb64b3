package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func access(status int, reason exchange.Reason) *Access {
	return &Access{Start: start, Sample: *sample(status, reason), Edge: anEdge, Instance: "payments-1", Peer: "192.0.2.1:7000",
		Method: "GET", Path: "/pay?card=4111", Host: "payments"}
}

// written logs what it is given and returns the lines.
func written(t *testing.T, cfg AccessLogConfig, log func(*AccessLog)) []string {
	t.Helper()
	var out bytes.Buffer
	cfg.Node, cfg.To = "web1", &out
	l := NewAccessLog(cfg)
	log(l)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := l.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestALineOfTheAccessLog(t *testing.T) {
	lines := written(t, AccessLogConfig{Share: 1}, func(l *AccessLog) { l.Log(access(503, exchange.NoInstance)) })
	const want = `{"time":"2001-09-09T01:46:40.000000Z","sennit.direction":"outbound","sennit.node":"web1","sennit.caller":"default/orders",` +
		`"sennit.callee":"default/payments","sennit.backend":"default/payments","sennit.version":"v1","sennit.instance":"payments-1",` +
		`"sennit.peer.node":"web1","network.peer.address":"192.0.2.1:7000","network.protocol.name":"http","http.request.method":"GET",` +
		`"server.address":"payments","url.path":"/pay","http.response.status_code":503,"error.type":"no-instance",` +
		`"http.request.body.size":10,"http.response.body.size":100,"sennit.duration":0.001000}`
	if lines[0] != want {
		t.Errorf("\n%s\nwant\n%s", lines[0], want)
	}
}

func TestFailuresAreAlwaysLoggedAndTheRestSampled(t *testing.T) {
	log := func(l *AccessLog) {
		for range 2000 {
			l.Log(access(200, exchange.Completed))
		}
		for range 20 {
			l.Log(access(500, exchange.Completed))
			l.Log(access(0, exchange.CallerGone))
		}
	}
	for _, tt := range []struct {
		share     float64
		low, high int
	}{{0, 40, 40}, {1, 2040, 2040}, {0.1, 40 + 120, 40 + 280}} { // 0.1 is six standard deviations wide
		if n := len(written(t, AccessLogConfig{Share: tt.share, Queue: 5000}, log)); n < tt.low || n > tt.high {
			t.Errorf("share %v: %d lines, want %d to %d", tt.share, n, tt.low, tt.high)
		}
	}
}

func TestALineThatFindsTheQueueFullIsCounted(t *testing.T) {
	var log *AccessLog
	lines := written(t, AccessLogConfig{Share: 1, Queue: 10}, func(l *AccessLog) {
		log = l
		for range 15 {
			l.Log(access(500, exchange.Completed))
		}
	})
	if full, _ := log.Dropped(); full != 5 || len(lines) != 11 || !strings.HasSuffix(lines[10], `"sennit.dropped":5}`) {
		t.Errorf("%d dropped, %d lines, the last %s", full, len(lines), lines[len(lines)-1])
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errDisk }

var errDisk = errors.New("no space left on device")

func TestAFullDiskIsCounted(t *testing.T) {
	l := NewAccessLog(AccessLogConfig{To: full{}, Share: 1})
	l.Log(access(500, exchange.Completed))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	l.Run(ctx)
	if _, unwritten := l.Dropped(); unwritten != 1 {
		t.Errorf("%d lines are known to be lost", unwritten)
	}
}

func TestManyLogAtOnce(t *testing.T) {
	r, w := io.Pipe()
	l := NewAccessLog(AccessLogConfig{To: w, Share: 1, Queue: 16})
	ctx, stop := context.WithCancel(t.Context())
	var running, logging sync.WaitGroup
	running.Go(func() { l.Run(ctx); w.Close() })
	for range 8 {
		logging.Go(func() {
			for range 200 {
				l.Log(access(500, exchange.Completed))
			}
		})
	}
	lines, notes := 0, 0
	running.Go(func() {
		for decoder := json.NewDecoder(r); ; {
			line := map[string]any{}
			if err := decoder.Decode(&line); err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				return
			}
			if line["sennit.dropped"] != nil {
				notes++
			} else {
				lines++
			}
		}
	})
	logging.Wait()
	stop()
	running.Wait()
	if dropped, _ := l.Dropped(); lines+int(dropped) != 1600 || dropped > 0 && notes == 0 {
		t.Errorf("%d lines and %d dropped (told %d times) of 1600", lines, dropped, notes)
	}
}

func FuzzLinesAreJSON(f *testing.F) {
	f.Add("a\"b\\c\x00\xff\u2028é", "/x?y")
	f.Fuzz(func(t *testing.T, host, path string) {
		l := NewAccessLog(AccessLogConfig{Node: "web1"})
		line := l.encode(nil, &Access{Start: start, Host: host, Path: path})
		got := map[string]any{}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want, _, _ := strings.Cut(path, "?")
		if len(want) <= maxValue && want != "" && got["url.path"] != strings.ToValidUTF8(fffd(want), "") {
			t.Fatalf("path %q became %q", want, got["url.path"])
		}
		if bytes.Count(line, []byte("\n")) != 1 {
			t.Fatalf("%q is not one line", line)
		}
	})
}

// fffd replaces each byte that is no UTF-8, as encoding/json does.
func fffd(s string) string { return string([]rune(s)) }

func TestLoggingAllocatesLittle(t *testing.T) {
	l := NewAccessLog(AccessLogConfig{Node: "web1", To: io.Discard, Share: 0.0000001})
	a := access(200, exchange.Completed)
	if n := testing.AllocsPerRun(1000, func() { l.Log(a) }); n != 0 {
		t.Errorf("%v allocations for a line that is not sampled", n)
	}
	buffer := make([]byte, 0, 2048)
	if n := testing.AllocsPerRun(1000, func() { l.encode(buffer, a) }); n != 0 {
		t.Errorf("%v allocations to encode one", n)
	}
}

func BenchmarkEncode(b *testing.B) {
	l, a := NewAccessLog(AccessLogConfig{Node: "web1", To: io.Discard}), access(200, exchange.Completed)
	buffer := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		l.encode(buffer, a)
	}
}
