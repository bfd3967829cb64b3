package http1

import (
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// sockets returns both ends of n TCP connections on loopback.
func sockets(tb testing.TB, n int) (near, far []net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	for range n {
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			tb.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { a.Close(); b.Close() })
		near, far = append(near, a), append(far, b)
	}
	return near, far
}

// A pair is a client and a server that answers each request with its own body, over one connection.
type pair struct {
	client   *ClientConn
	request  exchange.Request
	response exchange.Response
	body     []byte
	room     []byte
}

func newPair(tb testing.TB, request exchange.Request, body string) *pair {
	near, far := sockets(tb, 1)
	p := &pair{client: NewClientConn(near[0], Limits{}), request: request, body: []byte(body), room: make([]byte, 32<<10)}
	p.request.BodyLength = int64(len(body))
	done := make(chan struct{})
	tb.Cleanup(func() { near[0].Close(); <-done })
	go func() {
		defer close(done)
		echo(NewServerConn(far[0], Limits{}))
	}()
	return p
}

// echo serves exchanges until the connection ends.
func echo(c *ServerConn) error {
	var r exchange.Request
	reply := exchange.Response{Status: 200}
	room := make([]byte, 32<<10)
	for c.KeepAlive() {
		if err := c.ReadRequest(&r); err != nil {
			return err
		}
		reply.Fields, reply.BodyLength = r.Fields, r.BodyLength
		if err := c.WriteResponse(&reply); err != nil {
			return err
		}
		for b := c.Body(); ; {
			n, err := b.Read(room)
			if _, err := c.Write(room[:n]); err != nil {
				return err
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if err := c.WriteTrailers(c.Body().Trailers()); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) exchange() error {
	if err := p.client.WriteRequest(&p.request); err != nil {
		return err
	}
	if _, err := p.client.Write(p.body); err != nil {
		return err
	}
	if err := p.client.Finish(); err != nil {
		return err
	}
	if err := p.client.ReadResponse(&p.response); err != nil {
		return err
	}
	for {
		if _, err := p.client.Body().Read(p.room); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	p.client.Release()
	return nil
}

var usual = exchange.Request{
	Method: "POST", Authority: "orders.default.mesh.internal:80", Path: "/orders/4711?fields=id,total",
	Fields: exchange.Fields{
		{Name: "User-Agent", Value: "curl/8.14.1"}, {Name: "Accept", Value: "application/json"},
		{Name: "Accept-Encoding", Value: "gzip, deflate"}, {Name: "X-Request-Id", Value: "0199aa4c-6cd2-7b4a-9f0e-6b0a1c1d5f10"},
		{Name: "Traceparent", Value: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		{Name: "Content-Type", Value: "application/json"},
	},
}

func TestExchangesAllocateNothing(t *testing.T) {
	chunked := usual
	for _, tt := range []struct {
		name string
		body string
		as   int64 // BodyLength, where it is not that of the body
	}{
		{"no body", "", 0},
		{"small body", `{"total": 12}`, 0},
		{"body larger than the buffers", strings.Repeat("x", 100<<10), 0},
		{"chunks", strings.Repeat("x", 20<<10), exchange.LengthUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPair(t, chunked, tt.body)
			if tt.as != 0 {
				p.request.BodyLength = tt.as
			}
			var failed error
			allocs := testing.AllocsPerRun(500, func() {
				if err := p.exchange(); err != nil {
					failed = err
				}
			})
			if failed != nil {
				t.Fatal(failed)
			}
			if allocs != 0 && !raceDetector {
				t.Errorf("%v allocations an exchange, both ends together", allocs)
			}
		})
	}
}

// TestIdleConnectionsHoldNoBuffer measures the heap that connections take that have exchanged something and wait.
func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	const n = 500 // pairs: 1,000 connections
	near, far := sockets(t, n)
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 { // a pool lets go of what it holds in the second collection
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before := heap()
	var serving sync.WaitGroup
	clients := make([]*ClientConn, n)
	for i := range n {
		serving.Go(func() {
			c := NewServerConn(far[i], Limits{})
			var r exchange.Request
			for c.ReadRequest(&r) == nil {
				if _, err := io.Copy(io.Discard, c.Body()); err != nil {
					t.Error(err)
				}
				if err := respond(exchange.Response{Status: 200, BodyLength: 2}, "hi")(c); err != nil {
					t.Error(err)
				}
			}
		})
		clients[i] = NewClientConn(near[i], Limits{})
	}
	var response exchange.Response
	for _, c := range clients {
		err := c.WriteRequest(&usual)
		if err == nil {
			err = c.Finish()
		}
		if err == nil {
			err = c.ReadResponse(&response)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, c.Body())
		}
		if err != nil || !c.Alive() {
			t.Fatalf("alive: %v, error %v", c.Alive(), err)
		}
		c.Release()
	}
	each := (heap() - before) / (2 * n)
	t.Logf("%d bytes of heap for each idle connection", each)
	if each > 2<<10 && !raceDetector {
		t.Errorf("an idle connection takes %d bytes of heap", each)
	}
	for _, c := range near {
		c.Close()
	}
	serving.Wait()
	runtime.KeepAlive(clients)
}

func BenchmarkExchange(b *testing.B) {
	p := newPair(b, usual, `{"total": 12}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.exchange(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadRequest measures the parser alone.
func BenchmarkReadRequest(b *testing.B) {
	peer := &script{}
	if c := NewClientConn(peer, Limits{}); c.WriteRequest(&usual) != nil || c.Finish() != nil {
		b.Fatal("could not write the request")
	}
	wire := string(peer.out)
	c := NewServerConn(peer, Limits{})
	var r exchange.Request
	reply := exchange.Response{Status: 204}
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		peer.in, peer.out = wire, peer.out[:0]
		if err := c.ReadRequest(&r); err != nil {
			b.Fatal(err)
		}
		if c.WriteResponse(&reply) != nil || c.Finish() != nil {
			b.Fatal("could not answer")
		}
	}
}
