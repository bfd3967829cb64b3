package http2

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// serve serves every connection of a listener with handle until the test ends, and returns its address.
func serve(t testing.TB, limits Limits, handle func(*ServerStream)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	var conns []*ServerConn
	group.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := NewServerConn(nc, limits)
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			group.Go(func() { c.Serve(handle) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
	return l.Addr().String()
}

// echo answers with the request's fields, body and trailers.
func echo(s *ServerStream) {
	if s.Err() != nil {
		s.WriteError(s.ErrorStatus(s.Err()), exchange.TooLarge)
		return
	}
	r := s.Request()
	reply := exchange.Response{Status: 200, Fields: append(exchange.Fields{{Name: "X-Path", Value: r.Path}}, r.Fields...), BodyLength: r.BodyLength}
	if s.WriteResponse(&reply) != nil {
		return
	}
	pass(s, s.Body())
}

type writer interface {
	io.Writer
	Flush() error
	WriteTrailers(exchange.Fields) error
}

// pass copies a body with its trailers.
func pass(to writer, from exchange.Body) error {
	room := make([]byte, 32<<10)
	for {
		n, err := from.Read(room)
		if n > 0 {
			if _, err := to.Write(room[:n]); err != nil {
				return err
			}
			if err := to.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return to.WriteTrailers(from.Trailers())
		}
		if err != nil {
			return err
		}
	}
}

// dial connects a client.
func dial(t testing.TB, address string, limits Limits) *ClientConn {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClientConn(nc, limits)
	done := make(chan struct{})
	go func() { defer close(done); c.Run() }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

// transport is net/http's client, with prior knowledge.
func transport(t testing.TB) *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &protocols}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// origin is net/http's server, and returns its address.
func origin(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &protocols}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// secured is a connection that says that it is, as those do that end TLS on their own.
type secured struct{ net.Conn }

func (secured) Scheme() string { return "https" }

// TestTheSchemeIsTheConnections: what a client of ours is asked to send says another.
func TestTheSchemeIsTheConnections(t *testing.T) {
	for want, wrap := range map[string]func(net.Conn) net.Conn{
		"http":  func(c net.Conn) net.Conn { return c },
		"https": func(c net.Conn) net.Conn { return secured{c} },
	} {
		near, far := net.Pipe()
		c := NewClientConn(wrap(near), Limits{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Run()
		}()
		s, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_ = s.WriteRequest(&exchange.Request{Method: "GET", Scheme: "ftp", Authority: "a", Path: "/"})
			_ = s.Finish()
		}()
		io.ReadFull(far, make([]byte, len(Preface)))
		framer := http2.NewFramer(io.Discard, far)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			f, err := framer.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if head, ok := f.(*http2.MetaHeadersFrame); ok {
				if got := head.PseudoValue("scheme"); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				break
			}
		}
		far.Close()
		<-wrote
		s.Release()
		<-done
	}
}
