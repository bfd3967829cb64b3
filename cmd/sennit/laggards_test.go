package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// Laggards stand before a controller and answer requests to wait for nodes, with nodes that apply when a script says
// so. Everything else the controller answers itself.
type laggards struct {
	mu      sync.Mutex
	moved   *sync.Cond
	nodes   []string
	applied []string
	state   int
	told    map[*http.Request]int // the state that each waiting command was told
}

// lagging puts nodes before the controller.
func (w *world) lagging(ts *testscript.TestScript, args []string) {
	front := filepath.Join(w.run, strings.Join(args, "-")+".sock")
	behind := filepath.Join(w.run, "controller.sock")
	w.slow = &laggards{nodes: args, told: map[*http.Request]int{}}
	w.slow.moved = sync.NewCond(&w.slow.mu)
	l, err := net.Listen("unix", front)
	if err != nil { // the same nodes, once more
		front += "2"
		l, err = net.Listen("unix", front)
	}
	ts.Check(err)
	mux := http.NewServeMux()
	mux.Handle(report.PathWait, w.slow)
	mux.Handle("/", &httputil.ReverseProxy{
		Transport: overSocket(behind), FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "controller" },
	})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with the script
	}()
	w.Cleanup(func() {
		server.Close()
		<-done
	})
	ts.Setenv("SENNIT_SOCKET", front)
}

// awaited returns when a command waits for the nodes, and was told how far they are.
func (w *world) awaited(*testscript.TestScript, []string) {
	w.slow.mu.Lock()
	defer w.slow.mu.Unlock()
	for len(w.slow.told) == 0 || !w.slow.allTold() {
		w.slow.moved.Wait()
	}
}

// applies has nodes apply everything, and returns when commands that wait were told.
func (w *world) applies(_ *testscript.TestScript, nodes []string) {
	w.slow.mu.Lock()
	defer w.slow.mu.Unlock()
	w.slow.applied = append(w.slow.applied, nodes...)
	w.slow.state++
	w.slow.moved.Broadcast()
	for !w.slow.allTold() {
		w.slow.moved.Wait()
	}
}

func (l *laggards) allTold() bool {
	for _, state := range l.told {
		if state < l.state {
			return false
		}
	}
	return true
}

func (l *laggards) wake() {
	l.mu.Lock() // so that nobody is between looking and waiting
	defer l.mu.Unlock()
	l.moved.Broadcast()
}

// ServeHTTP answers a request to wait.
func (l *laggards) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	timeout, err := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	end := time.Now().Add(timeout)
	alarm := time.AfterFunc(timeout, l.wake)
	defer alarm.Stop()
	gone := context.AfterFunc(r.Context(), l.wake)
	defer gone()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told[r] = -1
	defer delete(l.told, r)
	for {
		p := report.Progress{Interested: len(l.nodes)}
		for _, n := range l.nodes {
			if !slices.Contains(l.applied, n) {
				p.Waiting = append(p.Waiting, n)
			}
		}
		p.Applied = p.Interested - len(p.Waiting)
		p.Done = len(p.Waiting) == 0
		_ = json.NewEncoder(w).Encode(p)
		_ = http.NewResponseController(w).Flush()
		l.told[r] = l.state
		l.moved.Broadcast()
		over := func() bool { return p.Done || r.Context().Err() != nil || !time.Now().Before(end) }
		for l.told[r] == l.state && !over() {
			l.moved.Wait()
		}
		if over() {
			return
		}
	}
}
