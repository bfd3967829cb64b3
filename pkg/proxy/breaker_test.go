package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// TestTooManyRequestsAreRefused keeps two requests in the process, of which two are allowed, and sends a third.
func TestTooManyRequestsAreRefused(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			arrived <- struct{}{}
			<-answer
		}
		io.WriteString(w, "ok")
	})
	policy := &snapshot.Resilience{Origin: "shop/p", CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 2}}
	p := startPair(t, http11, withPolicy(retryOf(3, 503), policy), process, process)
	client := p.client()
	get := func(path string) (*http.Response, error) {
		response, err := client.Get("http://orders" + path)
		if err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		return response, err
	}
	statuses := make(chan int, 2)
	for range 2 {
		go func() {
			response, err := get("/held")
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			statuses <- response.StatusCode
		}()
		<-arrived
	}
	response, err := get("/")
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 503 || response.Header.Get("sennit-reason") != string(exchange.CircuitOpen) {
		t.Errorf("the third: %s, %q", response.Status, response.Header.Get("sennit-reason"))
	}
	if o := p.ended(); o.Outcome.Reason != exchange.CircuitOpen || o.Attempts != 0 {
		t.Errorf("observed as %+v after %d attempts", o.Outcome, o.Attempts)
	}
	close(answer)
	for range 2 {
		if status := <-statuses; status != 200 {
			t.Errorf("one of the first two: %d", status)
		}
	}
	// The last byte of an answer may be there before its exchange has ended.
	for response.StatusCode == 503 {
		if response, err = get("/"); err != nil {
			t.Fatal(err)
		}
	}
	if response.StatusCode != 200 {
		t.Errorf("after the first two: %s", response.Status)
	}
}

// heldLanes open no stream for as long as they are held.
type heldLanes struct {
	Lanes
	held atomic.Pointer[hold] // nil: they are not
}

type hold struct {
	waits chan struct{} // gets one for each that waits
	ends  chan struct{} // closed: they open
}

func (l *heldLanes) Open(ctx context.Context, key transport.Key, address netip.AddrPort, class transport.Class) (*transport.Stream, error) {
	if h := l.held.Load(); h != nil {
		select {
		case <-h.ends:
		case h.waits <- struct{}{}:
			<-h.ends
		}
	}
	return l.Lanes.Open(ctx, key, address, class)
}

// TestTooManyPendingRequestsAreRefused keeps one request waiting for its stream, of which one may wait, and sends another.
func TestTooManyPendingRequestsAreRefused(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	p := startPair(t, http11, withPolicy(nil, &snapshot.Resilience{CircuitBreaker: &snapshot.CircuitBreaker{MaxPending: 1}}), process, process)
	held := &hold{make(chan struct{}), make(chan struct{})}
	p.lanes.held.Store(held)
	client := p.client()
	first := make(chan int, 1)
	go func() {
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Error(err)
			first <- 0
			return
		}
		response.Body.Close()
		first <- response.StatusCode
	}()
	<-held.waits
	response, err := client.Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 503 || response.Header.Get("sennit-reason") != string(exchange.CircuitOpen) {
		t.Errorf("the second: %s, %q", response.Status, response.Header.Get("sennit-reason"))
	}
	if o := p.ended(); o.Attempts != 1 {
		t.Errorf("it was tried at %d instances", o.Attempts)
	}
	close(held.ends)
	if status := <-first; status != 200 {
		t.Errorf("the first: %d", status)
	}
}

// TestTooManyConnectionsAreReset keeps one TCP connection open, of which one is allowed, and opens another.
func TestTooManyConnectionsAreReset(t *testing.T) {
	process := rawProcess(t, func(conn *net.TCPConn, _ *bufio.Reader) { _, _ = io.Copy(conn, conn) })
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, withPolicy(nil, &snapshot.Resilience{CircuitBreaker: &snapshot.CircuitBreaker{MaxConnections: 1}}), process)
	echoes := func() (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.address)
		if err != nil {
			return nil, err // the reset may be there before the connection is
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := conn.Write([]byte("x")); err != nil {
			return conn, err
		}
		_, err = io.ReadFull(conn, make([]byte, 1))
		return conn, err
	}
	first, err := echoes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := echoes(); err == nil {
		t.Error("a second connection is carried")
	}
	if o := p.ended(); o.Outcome.Reason != exchange.CircuitOpen {
		t.Errorf("observed as %+v", o.Outcome)
	}
	first.Close()
	for deadline := time.Now().Add(20 * time.Second); ; { // its end takes its way
		if _, err = echoes(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the first has ended: %v", err)
		}
	}
}
