package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// speaker accepts connections, with TLS where a certificate is given, says hello first, and then says what it hears until
// the end, and "bye" behind it.
func speaker(t *testing.T, certificate *tls.Certificate) string {
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
				both := conn.(duplex)
				if certificate != nil {
					s := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS10})
					both = secured{s, &hello{}, conn.(*net.TCPConn)}
				}
				io.WriteString(both, "hello ")
				if _, err := io.Copy(both, both); err == nil {
					io.WriteString(both, " bye")
					both.CloseWrite()
				}
			}()
		}
	}()
	return l.Addr().String()
}

// talk says what there is to say, ends, and returns what it hears to the end.
func talk(conn net.Conn, what string) string {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, what); err != nil {
		return err.Error()
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err.Error()
	}
	heard, err := io.ReadAll(conn)
	if err != nil {
		return string(heard) + err.Error()
	}
	return string(heard)
}

// listen has the gateway's port 80 be these listeners, with one rule that leads to the pair's service, and another that
// leads nowhere.
func (p *pair) listen(t *testing.T, listeners ...*snapshot.IngressListener) string {
	t.Helper()
	address := p.gateway(t)
	p.relisten(t, 2, listeners...)
	return address
}

func (p *pair) relisten(t *testing.T, revision uint64, listeners ...*snapshot.IngressListener) {
	t.Helper()
	for _, l := range listeners {
		l.Port = 80
	}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: revision}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners: listeners,
		Rules: []*snapshot.Rule{
			{Origin: "tlsroute/shop/r#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}},
			{Origin: "tlsroute/shop/none#0/0", Backends: []*snapshot.Backend{{Namespace: "shop", Service: "gone", Port: 80, Weight: 1, Answer: 500}}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func hostsOf(rule uint32, names ...string) (hosts []*snapshot.IngressHost) {
	for _, name := range names {
		hosts = append(hosts, &snapshot.IngressHost{Hostname: name, Rules: []uint32{rule}})
	}
	return hosts
}

// cutting cuts what is written first into records of so many bytes, each in a packet of its own.
type cutting struct {
	*net.TCPConn
	size int
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.size == 0 {
		return c.TCPConn.Write(p)
	}
	size := c.size
	c.size = 0
	for body := p[5:]; len(body) > 0; {
		n := min(size, len(body))
		record := append([]byte{p[0], p[1], p[2], 0, byte(n)}, body[:n]...)
		body = body[n:]
		if _, err := c.TCPConn.Write(record); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// TestTLSPassesThrough: a connection is led by the name that its client asks for, to a process that has the certificate.
func TestTLSPassesThrough(t *testing.T) {
	t.Parallel()
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, speaker(t, selfSigned(t, 7)))
	p.outbound.Outside = Patience{Head: 5 * time.Second}
	address := p.listen(t,
		&snapshot.IngressListener{Name: "all", Tcp: true, Tls: &snapshot.IngressTLS{Passthrough: true}, Hosts: append(hostsOf(0, "a.example", "*.b.example"), hostsOf(1, "none.example")...)},
		&snapshot.IngressListener{Name: "c", Hostname: "*.c.example", Tcp: true, Tls: &snapshot.IngressTLS{Passthrough: true}, Hosts: hostsOf(0, "a.c.example")},
	)
	for _, tt := range []struct {
		name, server string
		size         int // of records
		edit         func(*tls.Config)
		want         bool
	}{
		{"a name", "a.example", 0, nil, true},
		{"upper case", "A.Example", 0, nil, true},
		{"a name below", "x.y.b.example", 0, nil, true},
		{"the name itself", "b.example", 0, nil, false},
		{"a hello in records of a byte", "a.example", 1, nil, true},
		{"a hello in records of 100 bytes", "a.example", 100, nil, true},
		{"an old version", "a.example", 0, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, true},
		{"another name", "other.example", 0, nil, false},
		{"no name", "", 0, nil, false},
		{"a backend that is not there", "none.example", 0, nil, false},
		{"another listener's", "a.c.example", 0, nil, true},
		{"another listener's, of which no route is", "b.c.example", 0, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			config := &tls.Config{ServerName: tt.server, InsecureSkipVerify: true}
			if tt.edit != nil {
				tt.edit(config)
			}
			client := tls.Client(&cutting{conn.(*net.TCPConn), tt.size}, config)
			heard := talk(client, "through")
			if served := heard == "hello through bye"; served != tt.want {
				t.Fatalf("heard %q", heard)
			}
			if !tt.want {
				return
			}
			if serial := client.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != 7 {
				t.Errorf("certificate %d", serial)
			}
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.seen {
		if o.Kind != exchange.TCP || o.Caller != cart || o.Host == "a.example" && (o.Callee != orders || o.Rule != "tlsroute/shop/r#0/0" || o.Received == 0) {
			t.Errorf("%+v", o)
		}
	}
}

// TestHellosHaveLimits: who does not say whom it asks for, soon and in short, is told nothing.
func TestHellosHaveLimits(t *testing.T) {
	t.Parallel()
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, speaker(t, nil))
	p.outbound.Outside = Patience{Head: 300 * time.Millisecond}
	address := p.listen(t, &snapshot.IngressListener{Name: "all", Tcp: true, Tls: &snapshot.IngressTLS{Passthrough: true}, Hosts: hostsOf(0, "")})
	large := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, make([]byte, mostHello)...) // a hello of 64 KiB in several records
	for _, tt := range []struct {
		name string
		sent []byte
	}{
		{"nothing", nil},
		{"half a hello", []byte{22, 3, 1, 2, 0, 1, 0}},
		{"no TLS", []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")},
		{"a hello without end", large},
		{"no hello", []byte{23, 3, 3, 0, 1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			conn.Write(tt.sent)
			heard, err := io.ReadAll(conn)
			var ne net.Error
			if len(heard) > 0 || errors.As(err, &ne) && ne.Timeout() {
				t.Errorf("heard %q, %v", heard, err)
			}
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) > 0 {
		t.Errorf("%+v", p.seen)
	}
	h := &hello{Conn: &endless{}}
	if read, err := io.Copy(io.Discard, struct{ io.Reader }{h}); read != mostHello || !errors.Is(err, errHello) {
		t.Errorf("%d bytes were read, %v", read, err)
	}
}

// An endless connection has ten times as many bytes as a hello may have.
type endless struct {
	net.Conn
	read int
}

func (z *endless) Read(p []byte) (int, error) {
	if z.read += len(p); z.read > 10*mostHello {
		return 0, io.EOF
	}
	return len(p), nil
}

// TestTLSEndsForConnections: TLS that ends at a gateway carries a connection to a process without; on the same port it passes
// through, or carries HTTP, for other names.
func TestTLSEndsForConnections(t *testing.T) {
	t.Parallel()
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, speaker(t, nil))
	p.outbound.Certificates = func(_ exchange.ServiceName, listener string) []*tls.Certificate {
		return []*tls.Certificate{map[string]*tls.Certificate{"ends": selfSigned(t, 1), "http": selfSigned(t, 2)}[listener]}
	}
	p.outbound.Outside = Patience{Head: 4 * time.Second}
	ends := &snapshot.IngressListener{Name: "ends", Hostname: "ends.example", Tcp: true, Tls: &snapshot.IngressTLS{}, Hosts: hostsOf(0, "ends.example")}
	address := p.listen(t, ends,
		&snapshot.IngressListener{Name: "http", Hostname: "http.example", Tls: &snapshot.IngressTLS{}, Hosts: hostsOf(1, "http.example")},
		&snapshot.IngressListener{Name: "through", Hostname: "through.example", Tcp: true, Tls: &snapshot.IngressTLS{Passthrough: true}, Hosts: hostsOf(0, "through.example")},
	)
	dial := func(server string) *tls.Conn {
		t.Helper()
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", address, &tls.Config{ServerName: server, InsecureSkipVerify: true, NextProtos: []string{"mine", "h2"}})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial("ends.example")
	if state := conn.ConnectionState(); state.PeerCertificates[0].SerialNumber.Int64() != 1 || state.NegotiatedProtocol != "" {
		t.Errorf("certificate %d, protocol %q", state.PeerCertificates[0].SerialNumber, state.NegotiatedProtocol)
	}
	large := strings.Repeat("0123456789abcdef", 1<<14)
	if heard := talk(conn, large); heard != "hello "+large+" bye" {
		t.Errorf("heard %d bytes", len(heard))
	}
	conn = dial("ends.example") // and then is silent for longer than a client may be that has not said whom it asks for
	silent := time.NewTimer(2 * p.outbound.Outside.Head)
	<-silent.C
	if heard := talk(conn, "late"); heard != "hello late bye" {
		t.Errorf("heard %q", heard)
	}
	conn = dial("http.example")
	if state := conn.ConnectionState(); state.PeerCertificates[0].SerialNumber.Int64() != 2 || state.NegotiatedProtocol != "h2" {
		t.Errorf("certificate %d, protocol %q", state.PeerCertificates[0].SerialNumber, state.NegotiatedProtocol)
	}
	conn.Close()
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(raw, &tls.Config{ServerName: "through.example", InsecureSkipVerify: true})
	if heard := talk(client, "x"); !strings.Contains(heard, "first record does not look like a TLS handshake") { // what the process says itself
		t.Errorf("heard %q", heard)
	}

	// What breaks off is no end: neither side takes a part for the whole.
	conn = dial("ends.example")
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.ReadFull(conn, make([]byte, len("hello ")))
	conn.NetConn().(*net.TCPConn).CloseWrite() // without TLS's own word
	if heard, err := io.ReadAll(conn); err == nil || bytes.Contains(heard, []byte("bye")) {
		t.Errorf("an end without close_notify was passed on: %q, %v", heard, err)
	}
}

// TestTCPFromOutside: a listener for TCP leads each connection to the service, which may speak first.
func TestTCPFromOutside(t *testing.T) {
	t.Parallel()
	p := startPair(t, snapshot.Protocol_PROTOCOL_TCP, nil, speaker(t, nil))
	p.outbound.Outside = Patience{Head: 100 * time.Millisecond}
	address := p.listen(t, &snapshot.IngressListener{Name: "tcp", Tcp: true, Hosts: hostsOf(0, "")})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	first := make([]byte, len("hello "))
	if _, err := io.ReadFull(conn, first); err != nil || string(first) != "hello " {
		t.Errorf("%q, %v", first, err)
	}
	p.relisten(t, 3, &snapshot.IngressListener{Name: "tcp", Tcp: true, Hosts: hostsOf(1, "")}) // it goes on, and the next does not begin
	if heard := talk(conn, "PRI * HTTP/2.0"); heard != "PRI * HTTP/2.0 bye" {
		t.Errorf("%q", heard)
	}
	p.observed(1)
	heard := ""
	if next, err := net.Dial("tcp", address); err == nil {
		heard = talk(next, "x")
	} else {
		heard = err.Error() // the reset may come before the dial has returned
	}
	if heard == "" || !strings.Contains(heard, "reset") && !strings.Contains(heard, "broken pipe") && !strings.Contains(heard, "not connected") {
		t.Errorf("a connection without a backend was not reset: %q", heard)
	}
	if seen := p.observed(2); len(seen) != 2 || seen[0].Sent != int64(len("PRI * HTTP/2.0")) || seen[0].Callee != orders || seen[1].Outcome.Reason != exchange.NoBackend {
		t.Errorf("%+v", seen)
	}
}
