package proxy

import (
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	aTrace     = "4bf92f3577b34da6a3ce929d0e0e4736"
	sampled    = "00-" + aTrace + "-00f067aa0ba902b7-01"
	notSampled = "00-" + aTrace + "-00f067aa0ba902b7-00"
)

// What goes on of a request's trace. The share is that of the caller's node; the other node has none.
func TestTracesAreCarriedOn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		share float64
		given []string
		trace string // that goes on; "": the field does not, "new": another one
		own   bool   // our span is the parent of what comes next
		state bool   // tracestate goes on
	}{
		{"sampled by the caller", 0, []string{sampled}, aTrace, true, true},
		{"not sampled by the caller", 1, []string{notSampled}, aTrace, false, true},
		{"none, and none begins", 0, nil, "", false, true},
		{"none, and all begin", 1, nil, "new", true, true},
		{"none, and hardly any is sampled", 1e-12, nil, "new", true, true},
		{"unreadable", 1, []string{"00-x"}, "new", true, false},
		{"unreadable, and none begins", 0, []string{"00-x"}, "00-x", false, true},
		{"two", 1, []string{sampled, notSampled}, "new", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			request := exchange.Request{Fields: exchange.Fields{{Name: "Accept", Value: "*/*"}, {Name: "TraceState", Value: "a=b"}}}
			for _, value := range tt.given {
				request.Fields = append(request.Fields, exchange.Field{Name: "Traceparent", Value: value})
			}
			var s spot
			s.begin(&request, tt.share)
			value, _ := request.Fields.Get("traceparent")
			if _, state := request.Fields.Get("tracestate"); state != tt.state {
				t.Errorf("tracestate goes on: %v", state)
			}
			out, ok := exchange.ParseTraceparent(value)
			switch {
			case tt.trace == "" && value != "", tt.trace == "00-x" && value != "00-x", tt.trace == aTrace && !strings.Contains(value, aTrace),
				tt.trace == "new" && (!ok || strings.Contains(value, aTrace)):
				t.Errorf("%q goes on", value)
			}
			if own := ok && !strings.Contains(value, "00f067aa0ba902b7"); own != tt.own || own && out != s.Trace {
				t.Errorf("the span of %q is ours: %v; ours is %v", value, own, s.Trace)
			}
			if want := tt.share == 1 && tt.trace == "new" || tt.given != nil && tt.given[0] == sampled && tt.trace == aTrace; s.Sampled != want {
				t.Errorf("sampled: %v", s.Sampled)
			}
			if (s.parent != [8]byte{}) != (tt.trace == aTrace && tt.own) {
				t.Errorf("parent %x", s.parent)
			}
		})
	}
}

// A trace goes through both nodes to the process, and each node's part of it is the parent of the next.
func TestSpansOfAnExchangeHangTogether(t *testing.T) {
	arrived := make(chan string, 1)
	p := startPair(t, http11, nil, startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- strings.Join(r.Header.Values("Traceparent"), " and ")
		w.WriteHeader(http.StatusTeapot)
	}))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders/a?b=c", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("traceparent", sampled)
	response, err := p.client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	at, ok := exchange.ParseTraceparent(<-arrived)
	told := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.inbound.mu.Lock()
		defer p.inbound.mu.Unlock()
		return len(p.seen) == 1 && len(p.inbound.seen) == 1
	}
	for end := time.Now().Add(20 * time.Second); !told(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("not both nodes have told")
		}
	}
	client, server := p.seen[0], p.inbound.seen[0]
	began, _ := exchange.ParseTraceparent(sampled)
	if !ok || at.ID != began.ID || !at.Sampled || at.Span != server.Trace.Span {
		t.Errorf("the process was told %v, its node %v", at, server.Trace)
	}
	if client.Parent != began.Span || server.Parent != client.Trace.Span || client.Inbound || !server.Inbound {
		t.Errorf("the caller's node is %v behind %x, the other %v behind %x", client.Trace, client.Parent, server.Trace, server.Parent)
	}
	if server.Caller != cart || server.Callee != orders || server.Outcome.Status != http.StatusTeapot || server.Path != "/a?b=c" || server.Duration <= 0 {
		t.Errorf("the called service's node saw %+v", server)
	}
}
