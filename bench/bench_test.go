package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func TestReadResponse(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		status   int
		bad      bool
	}{
		{"with a length", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", 200, false},
		{"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, false},
		{"an error", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, false},
		{"cut off", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na", 200, true},
		{"no HTTP", "hello world, this is no response\r\n", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tt.in))
			status, err := readResponse(r)
			if (err != nil) != tt.bad || status != tt.status {
				t.Errorf("%d, %v", status, err)
			}
			if !tt.bad && r.Buffered() != 0 {
				t.Errorf("%d bytes of the response were left", r.Buffered())
			}
		})
	}
}

func TestClosedLoopAgainstTheOrigin(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- serveOrigin(ctx, l) }()
	got := closedLoop(t.Context(), l.Addr().String(), 3, 200*time.Millisecond)
	if got.requests == 0 || got.errors != 0 || got.latency.TotalCount() != got.requests {
		t.Errorf("%d requests, %d errors, %d latencies", got.requests, got.errors, got.latency.TotalCount())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := closedLoop(t.Context(), l.Addr().String(), 1, 20*time.Millisecond); got.requests != 0 || got.errors == 0 {
		t.Errorf("nobody listens: %d requests, %d errors", got.requests, got.errors)
	}
}

func TestRatios(t *testing.T) {
	rounds := func(cpu ...float64) (f []figures) {
		for _, c := range cpu {
			f = append(f, figures{cpu: c, rps: 1, p50: 1, p99: 1, errors: 1})
		}
		return f
	}
	r := result{Runs: []row{
		summarize("http1", 64, "sennit", rounds(30, 50, 40)),
		summarize("http1", 64, "envoy", rounds(80, 90, 70)),
		summarize("http1", 1, "sennit", rounds(10)),
	}}
	r.ratios()
	if got := r.Ratios["http1/64/cpu"]; got != 0.5 {
		t.Errorf("ratio of medians is %v, want 0.5", got)
	}
	if len(r.Ratios) != 4 {
		t.Errorf("%v: a system that stands alone has no ratio", r.Ratios)
	}
	if run := r.Runs[0]; run.CPU != 40 || run.CPUMin != 30 || run.CPUMax != 50 || run.Errors != 3 {
		t.Errorf("%+v", run)
	}
}

func TestProcessFigures(t *testing.T) {
	pids := []int{os.Getpid()}
	before, err := cpuTime(pids)
	if err != nil {
		t.Fatal(err)
	}
	for after := before; after == before; { // busy until the clock of /proc has moved
		if after, err = cpuTime(pids); err != nil {
			t.Fatal(err)
		}
	}
	if mb, err := residentMB(pids); err != nil || mb < 1 {
		t.Errorf("%v MB, %v", mb, err)
	}
	if _, err := cpuTime([]int{-1}); err == nil {
		t.Error("a process that does not exist has no CPU time")
	}
}
