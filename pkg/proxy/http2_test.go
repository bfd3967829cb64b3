package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// http2Process is one that speaks HTTP/2 with prior knowledge.
type http2Process netip.AddrPort

func (http2Process) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return nil, true
}

func (p http2Process) Find(exchange.ServiceName, exchange.Target) (Place, bool) {
	return Place{Process: netip.AddrPort(p), HTTP2: true}, true
}

// startHTTP2 starts a caller's node and that of a process of which processes says what it speaks.
func startHTTP2(tb testing.TB, rule *snapshot.Rule, processes Places) *pair {
	tb.Helper()
	inbound := NewInbound(processes, pairLimits, slog.New(slog.DiscardHandler))
	run(tb, inbound.Run)
	return startCaller(tb, snapshot.Protocol_PROTOCOL_HTTP2, rule, inbound.Serve)
}

// serveBoth serves h by HTTP/1.1 and by HTTP/2 with prior knowledge, and returns the address.
func serveBoth(tb testing.TB, h http.HandlerFunc) netip.AddrPort {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &protocols}
	go s.Serve(l)
	tb.Cleanup(func() { s.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// client2 is client for HTTP/2 with prior knowledge.
func (p *pair) client2() *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.address)
	}}
	p.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: time.Minute}
}

// TestVersionsAreTranslated has callers of each version call processes of each, on one port of the node.
func TestVersionsAreTranslated(t *testing.T) {
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hints" {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Proto", r.Proto)
		w.WriteHeader(http.StatusCreated)
		w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b), r.Trailer.Get("X-Came")))
	})
	for _, to := range []struct {
		proto     string
		processes Places
	}{{"HTTP/1.1", oneProcess(process)}, {"HTTP/2.0", http2Process(process)}} {
		p := startHTTP2(t, nil, to.processes)
		for from, client := range map[string]*http.Client{"HTTP/1.1": p.client(), "HTTP/2.0": p.client2()} {
			for _, size := range []int{0, 5, copyBuffer + 1, 1 << 20} {
				for _, path := range []string{"/", "/hints"} {
					t.Run(fmt.Sprintf("%s to %s, %d bytes to %s", from, to.proto, size, path), func(t *testing.T) {
						hints := ""
						ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
							hints = h.Get("Link")
							return nil
						}})
						body := bytes.Repeat([]byte("b"), size)
						r, err := http.NewRequestWithContext(ctx, "POST", "http://orders"+path, struct{ io.Reader }{bytes.NewReader(body)})
						if err != nil {
							t.Fatal(err)
						}
						r.Trailer = http.Header{"X-Came": {"late"}}
						resp, err := client.Do(r)
						if err != nil {
							t.Fatal(err)
						}
						defer resp.Body.Close()
						got, err := io.ReadAll(resp.Body)
						if err != nil || !bytes.Equal(got, body) {
							t.Fatalf("%d bytes, %v", len(got), err)
						}
						if resp.Proto != from || resp.Header.Get("X-Proto") != to.proto || resp.StatusCode != http.StatusCreated {
							t.Errorf("%s, %d %v", resp.Proto, resp.StatusCode, resp.Header)
						}
						if want := fmt.Sprint(size, "late"); resp.Trailer.Get("X-Sum") != want {
							t.Errorf("trailers %v, want %s", resp.Trailer, want)
						}
						if (path == "/hints") != (hints == "</a>") {
							t.Errorf("early hints: %q", hints)
						}
					})
				}
			}
		}
	}
}

// TestStreamsBothWays has a caller and a process answer each other within one exchange, beginning with a response that
// is a head and nothing else.
func TestStreamsBothWays(t *testing.T) {
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w)
		w.WriteHeader(200)
		flush.Flush()
		line := make([]byte, 2)
		for {
			if _, err := io.ReadFull(r.Body, line); err != nil {
				return
			}
			w.Write(bytes.ToUpper(line))
			flush.Flush()
		}
	})
	p := startHTTP2(t, nil, http2Process(process))
	from, to := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", "http://orders/", from)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.client2().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 2)
	for range 100 {
		to.Write([]byte("ab"))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "AB" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	to.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("at the end %q, %v", rest, err)
	}
}

// TestCancelReachesTheService resets a stream while the process works, and while others of its connection go on.
func TestCancelReachesTheService(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow" {
			return
		}
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	for name, processes := range map[string]Places{"HTTP/1.1": oneProcess(process), "HTTP/2": http2Process(process)} {
		t.Run(name, func(t *testing.T) {
			began, ended = make(chan struct{}), make(chan struct{})
			p := startHTTP2(t, nil, processes)
			client := p.client2()
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			group.Go(func() {
				r, _ := http.NewRequestWithContext(ctx, "GET", "http://orders/slow", nil)
				if _, err := client.Do(r); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			<-began
			cancel()
			group.Wait()
			<-ended
			resp, err := client.Get("http://orders/")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
}

// TestDrainingLosesNoCall drains a caller's connection of HTTP/2 while calls are made, one of which runs.
func TestDrainingLosesNoCall(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	process := serveBoth(t, func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		io.WriteString(w, "done")
	})
	p := startHTTP2(t, nil, http2Process(process))
	client := p.client2()
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Get("http://orders/")
		if err != nil {
			answer <- err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-began
	p.drain()
	close(finish)
	if got := <-answer; got != "done" {
		t.Errorf("the call that ran when the node began to drain: %s", got)
	}
}

// TestOwnAnswersToGRPC has the node itself answer calls of gRPC, which is not done by a status of HTTP.
func TestOwnAnswersToGRPC(t *testing.T) {
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing.Close()
	slow := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})
	for _, tt := range []struct {
		name, path, timeout, status, reason string
		process                             netip.AddrPort
	}{
		{"no process listens", "/", "", "14", "service-refused", refusing.Addr().(*net.TCPAddr).AddrPort()},
		{"the deadline passes before the head", "/", "50m", "4", "timeout", slow},
		{"the deadline passes behind the head", "/begun", "5S", "4", "", slow},
		{"a deadline of 0 has passed", "/", "0S", "4", "timeout", slow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := startHTTP2(t, nil, http2Process(tt.process))
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://orders"+tt.path, strings.NewReader("\x00\x00\x00\x00\x00"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/grpc+proto")
			if tt.timeout != "" {
				r.Header.Set("Grpc-Timeout", tt.timeout)
			}
			resp, err := p.client2().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Fatal(err)
			}
			status := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
			if resp.StatusCode != 200 || status != tt.status || resp.Header.Get("Sennit-Reason") != tt.reason {
				t.Errorf("%d, gRPC status %q, want %q: %v %v", resp.StatusCode, status, tt.status, resp.Header, resp.Trailer)
			}
		})
	}
}

func TestGRPCTimeouts(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "1": 0, "S": 0, "1S": time.Second, "2M": 2 * time.Minute, "3H": 3 * time.Hour, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond,
		"6n": 6, "0n": 1, "99999999H": 365 * 24 * time.Hour, "999999999S": 0, "-1S": 0, "+1S": 0, "1s": 0, "1 S": 0,
	} {
		r := &exchange.Request{Fields: exchange.Fields{{Name: "grpc-timeout", Value: value}}}
		if got := gRPCTimeout(r); got != want {
			t.Errorf("%q is %v, want %v", value, got, want)
		}
	}
}

// TestDetectWithoutDelay sends the beginnings of both versions a byte at a time.
func TestDetectWithoutDelay(t *testing.T) {
	p := startHTTP2(t, nil, oneProcess(serveBoth(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Method) })))
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, b := range []byte("PROPFIND / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n") {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if answer, err := io.ReadAll(conn); err != nil || !bytes.HasSuffix(answer, []byte("PROPFIND")) {
		t.Errorf("%q, %v", answer, err)
	}
}

// A small body without a stated length is held where it came whole, so that a unary call costs no goroutine. The process
// of a call of gRPC sees no length that its caller did not state.
func TestSmallBodiesWithoutLength(t *testing.T) {
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, "%s of %d", b, r.ContentLength)
	})
	p := startHTTP2(t, nil, http2Process(process))
	client := p.client2()
	for i := range 100 {
		body := strings.Repeat("x", 1+i*i) // up to more than is held
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://orders/shop.Cart/Add", struct{ io.Reader }{strings.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := body + " of -1"; err != nil || string(got) != want {
			t.Fatalf("%d bytes %.20q, %v; want %d bytes %.20q", len(got), got, err, len(want), want)
		}
	}
}

// TestProcessThatAllowsNoFurtherStreams wants calls beyond what a process allows to be told that it is overloaded, and
// the process to be asked again.
func TestProcessThatAllowsNoFurtherStreams(t *testing.T) {
	began, end := make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			began <- struct{}{}
			<-end
		}
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	p := startHTTP2(t, nil, http2Process(l.Addr().(*net.TCPAddr).AddrPort()))
	client := p.client2()
	var group sync.WaitGroup
	for range connsPerProcess { // one by one: before a connection's settings came, it takes more streams than one
		group.Go(func() {
			if resp, err := client.Get("http://orders/hold"); err != nil || resp.StatusCode != 200 {
				t.Errorf("%v, %v", resp, err)
			}
		})
		<-began
	}
	resp, err := client.Post("http://orders/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if reason := resp.Header.Get("Sennit-Reason"); resp.StatusCode != 503 || reason != "overloaded" {
		t.Errorf("%s because of %q", resp.Status, reason)
	}
	close(end)
	group.Wait()
	if resp, err = client.Get("http://orders/"); err != nil || resp.StatusCode != 200 {
		t.Errorf("afterwards %v, %v", resp, err)
	}
}
