package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// rawProcess is a process that answers each connection by hand.
func rawProcess(t testing.TB, serve func(conn *net.TCPConn, head *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn), bufio.NewReader(conn))
			}()
		}
	}()
	return l.Addr().String()
}

// readHead reads a request's head and drops it.
func readHead(r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			return err == nil
		}
	}
}

func (p *pair) dial() *net.TCPConn {
	p.tb.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		p.tb.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// ended waits until an exchange is observed.
func (p *pair) ended() Observation {
	p.tb.Helper()
	all := p.observed(1)
	return all[len(all)-1]
}

// observed waits until at least n exchanges are: an application may have its answer before.
func (p *pair) observed(n int) []Observation {
	p.tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		p.mu.Lock()
		all := slices.Clone(p.seen)
		p.mu.Unlock()
		if len(all) >= n {
			return all
		}
	}
	p.tb.Fatalf("fewer than %d exchanges ended", n)
	return nil
}

func TestCallerThatGoesAwayEndsItsExchange(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(*net.TCPConn)
	}{
		{"closed", func(c *net.TCPConn) { c.Close() }},
		{"reset", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			entered, left := make(chan struct{}, 8), make(chan struct{}, 8)
			process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
				entered <- struct{}{}
				<-r.Context().Done()
				left <- struct{}{}
			})
			p := startPair(t, http11, nil, process, process)
			conn := p.dial()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
			<-entered
			tt.leave(conn)
			select {
			case <-left:
			case <-time.After(15 * time.Second):
				t.Fatal("the process works on for nobody")
			}
			if o := p.ended(); o.Outcome != (exchange.Outcome{Reason: exchange.CallerGone}) || o.Attempts != 1 {
				t.Errorf("observed as %+v after %d attempts", o.Outcome, o.Attempts)
			}
		})
	}
}

func TestCallerThatWaitsIsLeftAlone(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(goneAfter + 3*sweepEvery):
			io.WriteString(w, "late")
		}
	})
	p := startPair(t, http11, nil, process)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "late" {
		t.Errorf("%q, %v", body, err)
	}
}

// TestBrokenResponseIsNoEnd wants a reset where a response breaks off, whatever frames it.
func TestBrokenResponseIsNoEnd(t *testing.T) {
	for _, tt := range []struct{ name, version, head string }{
		{"HTTP/1.0 and no length", "1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"chunked", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"a length", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			goOn := make(chan struct{})
			process := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
				if readHead(r) {
					io.WriteString(conn, tt.head)
					<-goOn
				}
			})
			p := startPair(t, http11, nil, process)
			conn := p.dial()
			fmt.Fprintf(conn, "GET / HTTP/%s\r\nHost: orders\r\n\r\n", tt.version)
			var got strings.Builder
			buffer := make([]byte, 4096)
			for !strings.Contains(got.String(), "hello") {
				n, err := conn.Read(buffer)
				if err != nil {
					t.Fatal(err)
				}
				got.Write(buffer[:n])
			}
			close(goOn)
			if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after a response that broke off the application reads %v, want a reset", err)
			}
			if o := p.ended(); o.Outcome.Reason != exchange.ServiceBroke {
				t.Errorf("observed as %+v", o.Outcome)
			}
		})
	}
}

// TestBrokenConnectionIsNoEnd wants a reset to cross the mesh as one, in both directions.
func TestBrokenConnectionIsNoEnd(t *testing.T) {
	atProcess := make(chan error, 1)
	for _, tt := range []struct {
		name string
		ask  string
	}{{"by the process", "break"}, {"by the application", "listen"}} {
		t.Run(tt.name, func(t *testing.T) {
			process := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
				line, _ := r.ReadString('\n')
				io.WriteString(conn, "hello\n")
				if line == "break\n" {
					conn.SetLinger(0)
					return
				}
				_, err := io.ReadAll(r)
				atProcess <- err
			})
			p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, process)
			conn := p.dial()
			fmt.Fprintln(conn, tt.ask)
			err := error(nil)
			if tt.ask == "break" {
				_, err = io.ReadAll(conn)
			} else {
				if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				conn.SetLinger(0)
				conn.Close()
				err = <-atProcess
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side reads %v, want a reset", err)
			}
			o := p.ended()
			if tt.ask == "listen" && o.Outcome.Reason != exchange.CallerGone {
				t.Errorf("an application that reset its connection is observed as %+v", o.Outcome)
			}
		})
	}
}

// TestRefusalIsRead wants the answer to a request whose body nobody reads to arrive, and soon.
func TestRefusalIsRead(t *testing.T) {
	p := startPair(t, http11, &snapshot.Rule{Answer: 500}, startProcess(t, nil))
	for _, tt := range []struct {
		name string
		sent int
	}{{"a body that does not come", 10}, {"a body that is large", 8 << 20}} {
		t.Run(tt.name, func(t *testing.T) {
			conn := p.dial()
			fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 20000000\r\n\r\n")
			go conn.Write(make([]byte, tt.sent))
			began := time.Now()
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(response.Body); response.StatusCode != 500 || err != nil {
				t.Errorf("%s, %q, %v", response.Status, body, err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the answer took %s", took)
			}
		})
	}
}

// TestHeadsOfOneSize wants what one side takes to pass on the other, and what is larger to be refused with the
// reason.
func TestHeadsOfOneSize(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Header().Set("X-Large", r.Header.Get("X-Large"))
		}
		fmt.Fprint(w, len(r.Header))
	})
	p := startPair(t, http11, nil, process)
	ask := func(path string, fields, size int) (*http.Response, error) {
		r, err := http.NewRequest("GET", "http://orders"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range fields {
			r.Header.Set(fmt.Sprintf("X-%d", i), "v")
		}
		if size > 0 {
			r.Header.Set("X-Large", strings.Repeat("v", size))
		}
		response, err := p.client().Do(r)
		if err == nil {
			response.Body.Close()
		}
		return response, err
	}
	for _, tt := range []struct {
		name         string
		path         string
		fields, size int
		status       int
	}{
		{"nearly as many fields as are taken", "/", pairLimits.Fields - 4, 0, 200},
		{"more fields than are taken", "/", pairLimits.Fields + 1, 0, 431},
		{"nearly as long as is taken", "/", 0, pairLimits.Head - 300, 200},
		{"nearly as long as is taken, both ways", "/large", 0, pairLimits.Head - 300, 200},
		{"longer than is taken", "/", 0, pairLimits.Head + 1, 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response, err := ask(tt.path, tt.fields, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tt.status {
				t.Errorf("%s, want %d", response.Status, tt.status)
			}
		})
	}
}

// TestTimeoutOfSwitchedProtocol wants a rule's timeout to end with the 101.
func TestTimeoutOfSwitchedProtocol(t *testing.T) {
	t.Parallel()
	process := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
		if readHead(r) {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(conn, r)
		}
	})
	p := startPair(t, http11, &snapshot.Rule{TimeoutMs: 5000}, process)
	conn := p.dial()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(conn)
	if response, err := http.ReadResponse(r, nil); err != nil || response.StatusCode != 101 {
		t.Fatalf("%v, %v", response, err)
	}
	time.Sleep(5500 * time.Millisecond) // longer than the timeout
	fmt.Fprintln(conn, "still here")
	if line, err := r.ReadString('\n'); line != "still here\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// TestProcessThatClosesIdleConnections wants requests to be saved that meet a connection which the process
// resets, where there is no other instance.
func TestProcessThatClosesIdleConnections(t *testing.T) {
	process := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
		if readHead(r) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			readHead(r) // and resets the next one
			conn.SetLinger(0)
		}
	})
	p := startPair(t, http11, nil, process)
	client := p.client()
	for i := range 20 {
		response, err := client.Get("http://orders/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != 200 {
			t.Fatalf("request %d: %s, %s", i, response.Status, response.Header.Get("sennit-reason"))
		}
	}
}

// TestObservedOnItsOwn wants nothing of the exchange before it said of one that was never routed.
func TestObservedOnItsOwn(t *testing.T) {
	p := startPair(t, http11, nil, startProcess(t, func(http.ResponseWriter, *http.Request) {}))
	conn := p.dial()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: orders\r\n\r\nGET / HTTP/1.1\r\nHost: orders\r\nHost: other\r\n\r\n")
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) != 2 || p.seen[0].Node == "" || p.seen[1].Outcome.Reason != exchange.Malformed {
		t.Fatalf("observed: %+v", p.seen)
	}
	if o := p.seen[1]; o.Node != "" || o.Instance != "" || !o.Backend.IsZero() {
		t.Errorf("a request that was malformed is said to have been served by %s on %s", o.Instance, o.Node)
	}
}
