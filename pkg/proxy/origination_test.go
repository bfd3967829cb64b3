package proxy

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// securedProcess is a process that speaks TLS, and how it is spoken to by a name of its certificate.
func securedProcess(t *testing.T, name string, both bool) (Place, *atomic.Int32) {
	t.Helper()
	served := new(atomic.Int32)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprint(w, r.Proto, " ", r.Host, " ", r.TLS != nil && r.TLS.ServerName == "example.com", " ")
		io.Copy(w, r.Body)
		w.Header().Set("Grpc-Status", "0")
	}))
	server.EnableHTTP2 = both
	server.StartTLS()
	t.Cleanup(server.Close)
	settings, err := origination.New(&snapshot.Origination{
		Origin: "shop/orders", ServerName: name, Roots: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return Place{Process: netip.MustParseAddrPort(server.Listener.Addr().String()), TLS: settings}, served
}

func post(t *testing.T, client *http.Client) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://orders/pay", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/grpc")
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// TestProcessThatSpeaksTLS: requests of both versions of HTTP reach it in the version that it is known to speak.
func TestProcessThatSpeaksTLS(t *testing.T) {
	for _, both := range []bool{false, true} {
		place, _ := securedProcess(t, "example.com", both)
		place.HTTP2 = both
		p := startHTTP2(t, nil, onePlace(place))
		want := "HTTP/1.1 orders true body"
		if both {
			want = "HTTP/2.0 orders true body"
		}
		for _, client := range []*http.Client{p.client(), p.client2(), p.client()} {
			if status, got := post(t, client); status != http.StatusOK || got != want {
				t.Errorf("%d %q, want %q", status, got, want)
			}
		}
	}
}

// TestProcessThatIsNotTheOne: nothing is sent to a process whose certificate has another name, or that speaks no TLS.
func TestProcessThatIsNotTheOne(t *testing.T) {
	other, served := securedProcess(t, "orders.test", false)
	p := startHTTP2(t, nil, onePlace(other))
	if status, body := post(t, p.client()); status != http.StatusBadGateway || served.Load() != 0 {
		t.Errorf("another name: %d %q, %d requests served", status, body, served.Load())
	}
	heard := make(chan string, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		first := make([]byte, 4096)
		n, _ := conn.Read(first)
		heard <- string(first[:n])
	}()
	other.Process = netip.MustParseAddrPort(l.Addr().String())
	p = startHTTP2(t, nil, onePlace(other))
	answer := make(chan int, 1)
	go func() {
		status, _ := post(t, p.client())
		answer <- status
	}()
	if line := <-heard; strings.Contains(line, "pay") || !strings.HasPrefix(line, "\x16\x03") {
		t.Errorf("a process in the clear heard %q", line)
	}
	l.Close()
	if status := <-answer; status != http.StatusBadGateway {
		t.Errorf("a process in the clear: %d", status)
	}
}

// A strangerPlace does not know what is called.
type strangerPlace struct{ onePlace }

func (strangerPlace) Secure(exchange.ServiceName, exchange.Kind, *exchange.Target) (*origination.Settings, bool) {
	return nil, false
}

// TestCalledByANameThatIsNotKnown: it is not spoken to in the clear instead.
func TestCalledByANameThatIsNotKnown(t *testing.T) {
	served := new(atomic.Int32)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	t.Cleanup(server.Close)
	place := Place{Process: netip.MustParseAddrPort(server.Listener.Addr().String())}
	p := startHTTP2(t, nil, strangerPlace{onePlace(place)})
	if status, _ := post(t, p.client()); status != http.StatusServiceUnavailable || served.Load() != 0 {
		t.Errorf("%d, %d requests served", status, served.Load())
	}
}

// TestBytesInTLS: a connection whose bytes nobody looks at reaches a process that speaks TLS.
func TestBytesInTLS(t *testing.T) {
	place, _ := securedProcess(t, "example.com", false)
	l, err := tls.Listen("tcp", "127.0.0.1:0", certificateOf(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		got, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "%s, %q", got, conn.(*tls.Conn).ConnectionState().ServerName)
	}()
	place.Process = netip.MustParseAddrPort(l.Addr().String())
	in := NewInbound(onePlace(place), pairLimits, slog.New(slog.DiscardHandler))
	run(t, in.Run)
	p := startCaller(t, snapshot.Protocol_PROTOCOL_TCP, nil, in.Serve)
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != `hello, "example.com"` || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// certificateOf is that of httptest's servers, which is the same for all of them.
func certificateOf(t *testing.T) *tls.Config {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	return &tls.Config{Certificates: server.TLS.Certificates}
}
