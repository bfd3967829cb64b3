package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// gateway lets those outside reach the pair's service as shop.example, and returns where.
func (p *pair) gateway(t *testing.T) string {
	t.Helper()
	backend := &snapshot.Backend{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 1}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Hostname: "shop.example", Rules: []uint32{0}}}}},
		Rules:     []*snapshot.Rule{{Origin: "httproute/shop/r#0/0", Backends: []*snapshot.Backend{backend}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error {
		var group sync.WaitGroup
		defer group.Wait()
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			group.Go(func() {
				p.outbound.Serve(ctx, conn.(*net.TCPConn), capture.Listener{As: cart, To: cart, Port: 80, Gateway: true})
			})
		}
	})
	return l.Addr().String()
}

// raw sends bytes from outside and returns what is answered until the connection ends.
func raw(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(conn, request)
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		t.Fatalf("%v, for %.200q", err, request)
	}
	return string(answer)
}

// TestOutside: whoever comes from outside is told apart by host, and speaks neither for others nor for itself.
func TestOutside(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = nil
		for name, values := range r.Header {
			for _, v := range values {
				got = append(got, name+": "+v)
			}
		}
		for name, values := range r.Trailer {
			got = append(got, "trailer "+name+": "+strings.Join(values, ","))
		}
		slices.Sort(got)
		io.WriteString(w, r.Host)
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	address := p.gateway(t)
	answer := raw(t, address, "POST /a HTTP/1.1\r\nHost: Shop.example:8080\r\nTransfer-Encoding: chunked\r\nConnection: close, X-Hop\r\n"+
		"X-Forwarded-For: 10.0.0.1\r\nx_forwarded_for: 10.0.0.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Prefix: /evil\r\n"+
		"Forwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nSennit-Caller: shop/admin\r\nX-Hop: 1\r\n"+
		"Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nTracestate: a=b\r\nX-Mine: yes\r\n\r\n"+
		"1\r\na\r\n0\r\nX-Forwarded-For: 10.0.0.3\r\nX-Sum: 1\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || !strings.HasSuffix(answer, "Shop.example:8080\r\n0\r\n\r\n") && !strings.Contains(answer, "Shop.example:8080") {
		t.Errorf("%q", answer)
	}
	want := []string{
		`Forwarded: for=127.0.0.1;host="Shop.example:8080";proto=http`,
		"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: Shop.example:8080", "X-Forwarded-Proto: http", "X-Mine: yes", "trailer X-Sum: 1",
	}
	mu.Lock()
	if !slices.Equal(got, want) {
		t.Errorf("the process was told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	mu.Unlock()

	for _, tt := range []struct{ name, request, status, reason string }{
		{"another host", "GET / HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n", "404", "no-route"},
		{"no host", "GET / HTTP/1.0\r\n\r\n", "404", "no-route"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400", "malformed"},
		{"a tunnel", "CONNECT shop.example:80 HTTP/1.1\r\nHost: shop.example:80\r\nConnection: close\r\n\r\n", "501", "no-route"},
	} {
		if got := raw(t, address, tt.request); !strings.HasPrefix(got, "HTTP/1.1 "+tt.status+" ") || !strings.Contains(got, "sennit-reason: "+tt.reason) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}

	if seen := p.observed(5); len(seen) != 5 || seen[0].Caller != cart || seen[0].Callee != orders || seen[1].Callee != cart || seen[1].Outcome.Status != 404 {
		t.Errorf("%+v", seen)
	}
}

// TestOutsideHasLittlePatience: who sends half of something, and then no more, does not keep its connection.
func TestOutsideHasLittlePatience(t *testing.T) {
	t.Parallel()
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		io.WriteString(w, "ok")
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	p.outbound.Outside = Patience{Idle: 4 * time.Second, Head: 4 * time.Second, Body: 4 * time.Second}
	address := p.gateway(t)
	const head = "POST / HTTP/1.1\r\nHost: shop.example\r\n"
	for _, tt := range []struct{ name, sent, want string }{
		{"nothing", "", ""},
		{"half a head", "GET / HTTP/1.1\r\nHost: shop", "HTTP/1.1 408 "},
		{"half a small body", head + "Content-Length: 10\r\n\r\n01234", "HTTP/1.1 408 "},
		{"half a large body", head + "Content-Length: 1000000\r\n\r\n01234", ""},
		{"half a chunk", head + "Transfer-Encoding: chunked\r\n\r\na\r\n01234", ""},
		{"a request, and silence", head + "Content-Length: 1\r\n\r\n0", "HTTP/1.1 200 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			io.WriteString(conn, tt.sent)
			answer, err := io.ReadAll(conn)
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || !strings.HasPrefix(string(answer), tt.want) || tt.want == "" && len(answer) > 0 {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
}

// TestOutsideTakesItsTime: a body that comes slowly, and comes, is not cut off, and neither is a slow answer.
func TestOutsideTakesItsTime(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		<-release
		fmt.Fprint(w, n)
	})
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, process)
	p.outbound.Outside = Patience{Body: 5 * time.Second}
	conn, err := net.Dial("tcp", p.gateway(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000\r\n\r\n")
	tick := time.NewTicker(700 * time.Millisecond)
	defer tick.Stop()
	for range 10 { // in all longer than the patience for a piece
		<-tick.C
		if _, err := conn.Write(make([]byte, 10000)); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		<-tick.C
	}
	close(release)
	reader := bufio.NewReader(conn)
	answered := func(want string) {
		t.Helper()
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(response.Body); err != nil || string(text) != want {
			t.Errorf("%s %q, %v", response.Status, text, err)
		}
	}
	answered("100000")
	io.WriteString(conn, "GET / HTTP/1.1\r\n") // the body before it is forgotten
	for range 4 {
		<-tick.C
	}
	io.WriteString(conn, "Host: shop.example\r\n\r\n")
	answered("0")
}

func TestWhereOutsidersComeFrom(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.1":        `for=192.0.2.1;host="a";proto=http`,
		"::ffff:192.0.2.1": `for=192.0.2.1;host="a";proto=http`,
		"2001:db8::1":      `for="[2001:db8::1]";host="a";proto=http`,
	} {
		r := &exchange.Request{Scheme: "http", Authority: "a"}
		newOutsider(netip.MustParseAddr(from), Patience{}).admit(r)
		if got, _ := r.Fields.Get("Forwarded"); got != want {
			t.Errorf("%s: %s", from, got)
		}
	}
}

// TestOutsidersAreTheirOwnSource wants a client to be at one instance by its address, whatever connection it comes by.
func TestOutsidersAreTheirOwnSource(t *testing.T) {
	t.Parallel()
	says := func(name string) string {
		return startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	}
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, says("a"), says("b"))
	address := p.gateway(t)
	backend := toOrders(snapshot.Balance_BALANCE_MAGLEV)
	backend.HashKeys = []*snapshot.HashKey{{Type: snapshot.HashKey_SOURCE}}
	if _, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Hostname: "shop.example", Rules: []uint32{0}}}}},
		Rules:     []*snapshot.Rule{{Origin: "r", Backends: []*snapshot.Backend{backend}}},
	}}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for client := range 16 {
		at := ""
		for range 3 {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+client))}, Timeout: 30 * time.Second}
			conn, err := dialer.Dial("tcp", address)
			if err != nil {
				t.Skipf("addresses of loopback besides 127.0.0.1 cannot be used here: %v", err)
			}
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
			answer, err := io.ReadAll(conn)
			conn.Close()
			if err != nil || len(answer) == 0 || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
				t.Fatalf("%q, %v", answer, err)
			}
			instance := string(answer[len(answer)-1:])
			if at != "" && instance != at {
				t.Errorf("client %d is at %s and at %s", client, at, instance)
			}
			at = instance
		}
		seen[at] = true
	}
	if len(seen) != 2 {
		t.Errorf("all clients are at %v", seen)
	}
}
