package proxy

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http1"
)

// TestPlacesAreForgotten holds places that configuration replaced, and their connections, to the time for which they are
// used: none is kept that nobody would find.
func TestPlacesAreForgotten(t *testing.T) {
	var open atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), Protocols: &protocols,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Add(-1)
			default:
			}
		},
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })

	m := &multiplexed{limits: http2Limits(http1.Limits{})}
	place := Place{Process: l.Addr().(*net.TCPAddr).AddrPort(), HTTP2: true}
	call := func() {
		stream, err := m.open(t.Context(), place)
		if err != nil {
			t.Error(err)
			return
		}
		defer stream.Release()
		request, response := exchange.Request{Method: "GET", Scheme: "http", Authority: "orders", Path: "/"}, exchange.Response{}
		if err := stream.WriteRequest(&request); err != nil {
			return // the connection was drained meanwhile
		}
		_ = stream.Finish()
		_ = stream.ReadResponse(&response)
		_ = stream.Close()
	}
	left := func() (n int) {
		m.places.Range(func(any, any) bool { n++; return true })
		return n
	}

	call()
	m.sweep(time.Now().Add(idleUpstream / 2))
	if n, conns := left(), open.Load(); n != 1 || conns != 1 {
		t.Fatalf("after half of its time a place that was used is one of %d, with %d connections", n, conns)
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				call()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for called := false; !called || open.Load() > 0 || left() > 0; { // for ever, where sweep does not find a connection
		select {
		case <-done:
			called = true
		case <-time.After(time.Millisecond):
		}
		m.sweep(time.Now().Add(2 * idleUpstream))
	}

	call()
	if left() != 1 {
		t.Error("a place that was forgotten is not made again")
	}
	m.close()
}

// TestNobodyIsThere has places that never answer be forgotten as others are.
func TestNobodyIsThere(t *testing.T) {
	m := &multiplexed{}
	if _, err := m.open(t.Context(), Place{Process: netip.MustParseAddrPort("127.0.0.1:1"), HTTP2: true}); err == nil {
		t.Fatal("connected to nobody")
	}
	m.sweep(time.Now())
	m.places.Range(func(key, _ any) bool { t.Errorf("kept: %v", key); return true })
}

// TestForgottenMeanwhile has a place be forgotten while somebody waits to connect to it: what is made then is where others
// find it.
func TestForgottenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, place := &multiplexed{}, Place{Process: netip.MustParseAddrPort("127.0.0.1:1"), HTTP2: true}
		before := m.of(place)
		before.dial <- struct{}{}
		opened := make(chan error)
		go func() {
			_, err := m.open(t.Context(), place)
			opened <- err
		}()
		synctest.Wait()
		before.gone = true
		m.places.Delete(place)
		<-before.dial
		if <-opened == nil {
			t.Error("connected to nobody")
		}
		if _, ok := m.places.Load(place); !ok {
			t.Error("it connected for a place that nobody finds")
		}
	})
}
