package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const http11 = snapshot.Protocol_PROTOCOL_HTTP

func startProcess(t testing.TB, handler http.HandlerFunc) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestExchanges(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/cached":
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusNotModified)
		case "/echo":
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				panic(err)
			}
			n, err := io.Copy(w, r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-Sent")))
		case "/early":
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, "no")
		default:
			fmt.Fprintf(w, "%s %s", r.Method, r.Host)
		}
	})
	p := startPair(t, http11, nil, process)
	client := p.client()

	for _, tt := range []struct {
		name, method, path, body string
		header                   http.Header
		chunked                  bool
		status                   int
		want                     string
	}{
		{name: "get", method: "GET", path: "/", status: 200, want: "GET orders"},
		{name: "head has no body", method: "HEAD", path: "/", status: 200},
		{name: "204", method: "GET", path: "/none", status: 204},
		{name: "304", method: "GET", path: "/cached", status: 304},
		{name: "small body", method: "POST", path: "/echo", body: "hello", status: 200, want: "hello"},
		{name: "chunked body", method: "POST", path: "/echo", body: "hello", chunked: true, status: 200, want: "hello"},
		{name: "large body", method: "POST", path: "/echo", body: strings.Repeat("0123456789", 200_000), status: 200, want: strings.Repeat("0123456789", 200_000)},
		{name: "large chunked body", method: "PUT", path: "/echo", body: strings.Repeat("0123456789", 200_000), chunked: true, status: 200, want: strings.Repeat("0123456789", 200_000)},
		{name: "the application waits for a 100", method: "POST", path: "/echo", header: http.Header{"Expect": {"100-continue"}}, body: "hello", status: 200, want: "hello"},
		{name: "answered before the body", method: "POST", path: "/early", body: strings.Repeat("x", 1<<20), header: http.Header{"Expect": {"100-continue"}}, status: 403, want: "no"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 { // connections and streams are used again
				var body io.Reader
				if tt.body != "" {
					body = strings.NewReader(tt.body)
					if tt.chunked {
						body = io.MultiReader(body)
					}
				}
				r, err := http.NewRequest(tt.method, "http://orders"+tt.path, body)
				if err != nil {
					t.Fatal(err)
				}
				for name, values := range tt.header {
					r.Header[name] = values
				}
				if tt.chunked {
					r.Trailer = http.Header{"X-Sent": {"!"}}
				}
				response, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != tt.status || string(got) != tt.want {
					t.Fatalf("%s, %d bytes (%.40q), %v; want %d and %d bytes", response.Status, len(got), got, err, tt.status, len(tt.want))
				}
				if tt.chunked {
					if sum := response.Trailer.Get("X-Sum"); sum != fmt.Sprint(len(tt.body), "!") {
						t.Errorf("trailer %q: trailers do not go both ways", sum)
					}
				}
			}
		})
	}
}

func TestUpgrade(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" || r.URL.Path == "/refuse" {
			http.Error(w, "no upgrade", http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome\n")
		io.Copy(conn, rw)
	})
	p := startPair(t, http11, nil, process)
	for _, path := range []string{"/refuse", "/switch"} {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// What follows the head at once belongs to the other protocol.
		early := ""
		if path == "/switch" {
			early = "early "
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n%s", path, early)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if path == "/refuse" {
			if response.StatusCode != http.StatusUpgradeRequired {
				t.Errorf("refused upgrade: %s", response.Status)
			}
			continue
		}
		if response.StatusCode != 101 {
			t.Fatalf("upgrade: %s", response.Status)
		}
		fmt.Fprint(conn, "late")
		conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(reader)
		if err != nil || string(got) != "welcome\nearly late" {
			t.Errorf("after the switch: %q, %v", got, err)
		}
	}
}

func TestEventsAreNotHeldBack(t *testing.T) {
	next := make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 3 {
			fmt.Fprintf(w, "event %d\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	p := startPair(t, http11, nil, process)
	response, err := p.client().Get("http://orders/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for i := range 3 {
		if !lines.Scan() || lines.Text() != fmt.Sprintf("event %d", i) {
			t.Fatalf("event %d: %q, %v", i, lines.Text(), lines.Err())
		}
		next <- struct{}{} // the process writes the next one only when this one has arrived
	}
}

// TestHeadsAreNotHeldBack has the process wait with the first byte of a body until the caller has the head, and before
// that with the head until the caller has what it was told in advance (RFC 8297, RFC 9110 §15.2).
func TestHeadsAreNotHeldBack(t *testing.T) {
	hints, heads := make(chan struct{}), make(chan struct{})
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		for _, status := range []int{http.StatusEarlyHints, 199, http.StatusProcessing} {
			w.Header().Set("Link", fmt.Sprint("</", status, ">"))
			w.WriteHeader(status)
			<-hints
		}
		if length := r.URL.Query().Get("length"); length != "" {
			w.Header().Set("Content-Length", length)
		}
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-heads
		io.WriteString(w, "hello")
	})
	for to, processes := range map[string]Places{"HTTP/1.1": oneProcess(process), "HTTP/2": http2Process(process)} {
		p := startHTTP2(t, nil, processes)
		for from, client := range map[string]*http.Client{"HTTP/1.1": p.client(), "HTTP/2": p.client2()} {
			for _, query := range []string{"", "?length=5"} {
				t.Run(from+" to "+to+query, func(t *testing.T) {
					var early []string
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
						early = append(early, fmt.Sprint(status, h.Get("Link")))
						hints <- struct{}{}
						return nil
					}})
					r, err := http.NewRequestWithContext(ctx, "GET", "http://orders/"+query, nil)
					if err != nil {
						t.Fatal(err)
					}
					response, err := client.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					defer response.Body.Close()
					heads <- struct{}{}
					if body, err := io.ReadAll(response.Body); string(body) != "hello" || err != nil {
						t.Errorf("%q, %v", body, err)
					}
					if want := "[103</103> 199</199> 102</102>]"; fmt.Sprint(early) != want {
						t.Errorf("in advance %v, want %s", early, want)
					}
				})
			}
		}
	}
}

func TestRetriesWhereItIsSafe(t *testing.T) {
	var calls atomic.Int64
	good := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		io.Copy(w, r.Body)
	})
	breaks := startProcess(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refuses := closed.Addr().String()
	closed.Close()

	for _, tt := range []struct {
		name, method, body string
		other              string
		failures           bool // some requests cannot be saved
	}{
		{"any request where the process does not listen", "POST", "x", refuses, false},
		{"idempotent request where the process breaks off", "GET", "", breaks, false},
		{"idempotent request with a small body", "PUT", "x", breaks, false},
		{"not a POST that may have been processed", "POST", "x", breaks, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startPair(t, http11, nil, tt.other, good)
			client := p.client()
			failed := 0
			for range 20 {
				r, _ := http.NewRequest(tt.method, "http://orders/", strings.NewReader(tt.body))
				response, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(response.Body)
				response.Body.Close()
				if response.StatusCode != 200 {
					failed++
					if reason := response.Header.Get("sennit-reason"); reason != string(exchange.ServiceBroke) || response.StatusCode != 502 {
						t.Errorf("%s with reason %q", response.Status, reason)
					}
				} else if string(got) != tt.body {
					t.Errorf("body %q", got)
				}
			}
			if (failed > 0) != tt.failures {
				t.Errorf("%d of 20 requests failed", failed)
			}
		})
	}
}

func TestAnswersOfItsOwn(t *testing.T) {
	slow := startProcess(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, tt := range []struct {
		name   string
		rule   *snapshot.Rule
		raw    string
		status int
		reason exchange.Reason
	}{
		{"no rule matches", &snapshot.Rule{Match: &snapshot.Match{Method: "DELETE"}}, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 404, exchange.NoRoute},
		{"a rule that answers", &snapshot.Rule{Answer: 500}, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 500, exchange.NoBackend},
		{"the timeout passes", &snapshot.Rule{TimeoutMs: 50}, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 504, exchange.Timeout},
		{"a timeout for an attempt", &snapshot.Rule{BackendTimeoutMs: 50}, "GET / HTTP/1.1\r\nHost: orders\r\n\r\n", 504, exchange.Timeout},
		{"a tunnel", nil, "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n", 501, exchange.NoRoute},
		{"two lengths", nil, "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, exchange.Malformed},
		{"a head without end", nil, "GET / HTTP/1.1\r\nHost: orders\r\nX: " + strings.Repeat("x", 200<<10), 431, exchange.TooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startPair(t, http11, tt.rule, slow)
			conn, err := net.Dial("tcp", p.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go io.WriteString(conn, tt.raw)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tt.status || response.Header.Get("sennit-reason") != string(tt.reason) {
				t.Errorf("%s with reason %q, want %d and %q", response.Status, response.Header.Get("sennit-reason"), tt.status, tt.reason)
			}
		})
	}
}

func TestDrainingFinishesWhatRuns(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		io.WriteString(w, "done")
	})
	p := startPair(t, http11, nil, process)
	got := make(chan string)
	go func() {
		response, err := p.client().Get("http://orders/")
		if err != nil {
			got <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		got <- fmt.Sprint(string(body), " ", response.Close)
	}()
	<-entered
	p.drain()
	close(leave)
	if answer := <-got; answer != "done true" {
		t.Errorf("the exchange that ran when the node drained: %q, want it whole, on a connection that closes", answer)
	}
}

// TestPipelining sends requests ahead, as RFC 9112 §9.3.2 allows, and wants the answers in order.
func TestPipelining(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	p := startPair(t, http11, nil, process)
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var requests bytes.Buffer
	for i := range 50 {
		fmt.Fprintf(&requests, "GET /%d HTTP/1.1\r\nHost: orders\r\n\r\n", i)
	}
	go conn.Write(requests.Bytes())
	reader := bufio.NewReader(conn)
	for i := range 50 {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		if string(body) != fmt.Sprintf("/%d", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}

func TestTCP(t *testing.T) {
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, rawProcess(t, func(conn *net.TCPConn, in *bufio.Reader) {
		n, _ := io.Copy(io.Discard, in) // it answers only once the caller has ended its direction
		fmt.Fprint(conn, n)
	}))
	for _, size := range []int{0, 1, 3 << 20} {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || string(got) != fmt.Sprint(size) {
			t.Errorf("%d bytes sent: %q, %v", size, got, err)
		}
	}
}

// TestAnEarlyAnswerIsTheLast: who is answered before he has sent his whole request hears that the connection ends, and so
// sends no other on it.
func TestAnEarlyAnswerIsTheLast(t *testing.T) {
	p := startPair(t, http11, nil, startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/whole" {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		http.Error(w, "no", http.StatusForbidden)
	}))
	for path, last := range map[string]bool{"/early": true, "/whole": false} {
		conn := p.dial()
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000\r\n\r\n%1000d", path, 0)
		if path == "/whole" {
			fmt.Fprintf(conn, "%999000d", 0)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusForbidden || response.Close != last {
			t.Errorf("%s: %s, the last: %t", path, response.Status, response.Close)
		}
	}
}
