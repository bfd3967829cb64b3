package egress

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var loopback = prefixes("127.0.0.0/8")

// outsider is a real server of TLS on this machine, whose certificate names example.com, and a Host that leads to it.
func outsider(t *testing.T, of *snapshot.Outside, local []netip.Prefix) (*Host, *atomic.Int32) {
	t.Helper()
	accepted := new(atomic.Int32)
	server := httptest.NewUnstartedServer(nil)
	server.Listener = counted{server.Listener, accepted}
	server.StartTLS()
	t.Cleanup(server.Close)
	of.Port = uint32(server.Listener.Addr().(*net.TCPAddr).Port)
	of.Protocol, of.Tls = snapshot.Protocol_PROTOCOL_HTTP, true
	if of.CaBundle == "server's" {
		of.CaBundle = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	}
	h, err := New(of, local)
	if err != nil {
		t.Fatal(err)
	}
	return h, accepted
}

type counted struct {
	net.Listener
	accepted *atomic.Int32
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.accepted.Add(1)
	}
	return conn, err
}

func TestDial(t *testing.T) {
	here := []string{"127.0.0.1/32"} // which a document cannot open
	opened := prefixes("127.0.0.1/32")
	for _, c := range []struct {
		name    string
		of      *snapshot.Outside
		resolve []string
		local   []netip.Prefix
		want    error // nil: connected
		says    string
		dialled bool
	}{
		{name: "verified by its own authority", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, local: opened, dialled: true},
		{name: "another name in its certificate", of: &snapshot.Outside{Host: "api.test", ServerName: "api.test", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, want: origination.ErrPeer, says: "api.test", local: opened, dialled: true},
		{name: "an authority that this host does not know", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, want: origination.ErrPeer, says: "unknown authority", local: opened, dialled: true},
		{name: "a policy, which does not believe the document's authority", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here,
			Origination: &snapshot.Origination{ServerName: "example.com", HostRoots: true}},
			resolve: []string{"127.0.0.1"}, want: origination.ErrPeer, says: "unknown authority", local: opened, dialled: true},
		{name: "a name that leads to the host itself", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's"},
			resolve: []string{"127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is of the egress host itself"},
		{name: "the same in the form of IPv6", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's"},
			resolve: []string{"::ffff:127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is of the egress host itself"},
		{name: "not among the allowed", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: []string{"192.0.2.0/24"}},
			resolve: []string{"127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is not in allowedAddresses", local: opened},
		{name: "one of two is allowed", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.2", "127.0.0.1"}, local: opened, dialled: true},
		{name: "the host itself, which a document cannot open", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is of the egress host itself"},
		{name: "no address", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com"}, want: ErrUnresolved, says: "api.test"},
		{name: "an address instead of a name", of: &snapshot.Outside{Host: "127.0.0.1", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here}, local: opened, dialled: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, accepted := outsider(t, c.of, c.local)
			h.resolve = func(context.Context, string) (found []netip.Addr, err error) {
				for _, a := range c.resolve {
					found = append(found, netip.MustParseAddr(a))
				}
				return found, nil
			}
			conn, err := h.Dial(t.Context())
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %v with %q", err, c.want, c.says)
			}
			if err == nil {
				defer conn.Close()
				if v := conn.Conn.(*tls.Conn).ConnectionState(); v.NegotiatedProtocol != "http/1.1" {
					t.Errorf("speaks %q", v.NegotiatedProtocol)
				}
			}
			if got := accepted.Load() > 0; got != c.dialled {
				t.Errorf("connected: %v, want %v", got, c.dialled)
			}
		})
	}
}

// TestHTTP2IsAgreedOn: a host that is said to speak HTTP/2 is asked for it, and for nothing else.
func TestHTTP2IsAgreedOn(t *testing.T) {
	certificates := httptest.NewTLSServer(nil)
	defer certificates.Close()
	for _, tt := range []struct {
		name   string
		speaks []string
		want   error
	}{
		{"both", []string{"http/1.1", "h2"}, nil},
		{"another", []string{"http/1.1"}, origination.ErrPeer},
		{"nothing is said", nil, origination.ErrProtocol},
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certificates.TLS.Certificates, NextProtos: tt.speaks})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if conn, err := l.Accept(); err == nil {
				_ = conn.(*tls.Conn).Handshake()
			}
		}()
		h, err := New(&snapshot.Outside{
			Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port), Protocol: snapshot.Protocol_PROTOCOL_HTTP2, Tls: true,
			ServerName: "example.com", CaBundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates.Certificate().Raw})),
		}, loopback)
		if err != nil || !h.HTTP || !h.HTTP2 {
			t.Fatal(h, err)
		}
		conn, err := h.Dial(t.Context())
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			if conn.Scheme() != "https" {
				t.Errorf("%s: %s", tt.name, conn.Scheme())
			}
			conn.Close()
		}
	}
}

// TestTheSecondAnswerOfTheDNSIsNotAsked: what is dialled is what was checked.
func TestTheSecondAnswerOfTheDNSIsNotAsked(t *testing.T) {
	h, _ := outsider(t, &snapshot.Outside{Host: "rebind.test", ServerName: "example.com", CaBundle: "server's"}, loopback)
	asked := 0
	h.resolve = func(context.Context, string) ([]netip.Addr, error) {
		if asked++; asked > 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.9")}, nil
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	conn, err := h.Dial(t.Context())
	if err != nil || asked != 1 {
		t.Fatalf("resolved %d times: %v", asked, err)
	}
	if conn.Close(); h.open.Load() != 0 {
		t.Errorf("%d connections count as open after the only one was closed", h.open.Load())
	}
	h.own = func() ([]netip.Addr, error) { return nil, errors.New("no list") }
	if _, err := h.Dial(t.Context()); !errors.Is(err, ErrRefused) {
		t.Errorf("without knowing the host's own addresses: %v", err)
	}
	h.open.Store(maxConnections)
	if _, err := h.Dial(t.Context()); !errors.Is(err, ErrBusy) || h.open.Load() != maxConnections {
		t.Errorf("over the limit: %v, %d open", err, h.open.Load())
	}
}

// TestQuiet: an idle connection at which the host's end has arrived is not used again.
func TestQuiet(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := New(&snapshot.Outside{Host: "127.0.0.1", Port: uint32(l.Addr().(*net.TCPAddr).Port)}, loopback)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := h.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if !conn.Quiet() {
		t.Error("nothing has arrived, and it is not quiet")
	}
	far.Close()
	for deadline := time.Now().Add(10 * time.Second); conn.Quiet(); {
		if time.Now().After(deadline) {
			t.Fatal("the host's end is not seen")
		}
	}
}

func mustNew(t *testing.T, of *snapshot.Outside, local ...netip.Prefix) *Host {
	t.Helper()
	h, err := New(of, local)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestGuard says of addresses who opens them: nobody has to, the document, or only the host.
func TestGuard(t *testing.T) {
	const open, document, host = "open", "document", "host"
	own := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("10.5.0.9")}
	everything := []string{"0.0.0.0/0", "::/0"}
	bare := mustNew(t, &snapshot.Outside{Host: "a.example", Port: 1})
	allowed := mustNew(t, &snapshot.Outside{Host: "a.example", Port: 1, AllowedAddresses: everything})
	opened := mustNew(t, &snapshot.Outside{Host: "a.example", Port: 1, AllowedAddresses: everything}, prefixes(everything...)...)
	for text, want := range map[string]string{
		"93.184.216.34": open, "2606:4700::1111": open, "64:ff9b::5db8:d822": open,
		"10.1.2.3": document, "172.31.255.255": document, "192.168.0.1": document, "100.64.0.1": document, "fd12::1": document,
		"::ffff:10.1.2.3": document, "64:ff9b::a01:203": document,
		"127.0.0.1": host, "127.9.9.9": host, "::1": host, "::ffff:127.0.0.1": host, "64:ff9b::7f00:1": host, "0.0.0.0": host, "::": host,
		"169.254.169.254": host, "::ffff:169.254.169.254": host, "64:ff9b::a9fe:a9fe": host, "fe80::1": host, "fd00:ec2::254": host,
		"100.100.100.200": host, "168.63.129.16": host, "192.0.0.192": host, "fd20:ce::254": host, "224.0.0.1": host, "255.255.255.255": host, "ff02::1": host,
		"2002:7f00:1::": host, "2001:0:7f00:1::": host, "203.0.113.9": host, "10.5.0.9": host,
	} {
		a, got := netip.MustParseAddr(text), "nobody"
		for by, d := range map[string]*Host{host: opened, document: allowed, open: bare} {
			if d.refuse(a, own) == "" && (got == "nobody" || by == open || got == host) {
				got = by
			}
		}
		if got != want {
			t.Errorf("%s is opened by: %s; want: %s", text, got, want)
		}
	}
	if narrow := mustNew(t, &snapshot.Outside{Host: "a.example", Port: 1, AllowedAddresses: []string{"192.0.2.0/24"}}); narrow.refuse(netip.MustParseAddr("93.184.216.34"), nil) == "" {
		t.Error("an address that allowedAddresses do not name is connected to")
	}
	if zoned := opened.refuse(netip.MustParseAddr("fe80::1%eth0"), nil); zoned == "" {
		t.Error("an address of a link is connected to")
	}
}

func TestAuthority(t *testing.T) {
	for want, of := range map[string]*snapshot.Outside{
		"api.test":           {Host: "api.test", Port: 443, Tls: true, ServerName: "api.test"},
		"api.test:8443":      {Host: "api.test", Port: 8443, Tls: true, ServerName: "api.test"},
		"api.test:443":       {Host: "api.test", Port: 443},
		"192.0.2.1":          {Host: "192.0.2.1", Port: 80},
		"[2001:db8::1]:8080": {Host: "2001:db8::1", Port: 8080},
	} {
		if h, err := New(of, nil); err != nil || h.Authority != want {
			t.Errorf("%v: %v, want %s", h, err, want)
		}
	}
	for _, of := range []*snapshot.Outside{
		{Host: "a.test"}, {Port: 1}, {Host: "a.test", Port: 70000}, {Host: "a.test", Port: 1, Tls: true}, {Host: "a.test", Port: 1, AllowedAddresses: []string{"x"}},
		{Host: "a.test", Port: 1, Tls: true, ServerName: "a.test", CaBundle: "none"},
	} {
		if _, err := New(of, nil); err == nil {
			t.Errorf("%v is taken", of)
		}
	}
}

// TestTell: one failing host does not fill the log.
func TestTell(t *testing.T) {
	h, err := New(&snapshot.Outside{Host: "a.test", Port: 80}, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if !h.Tell(now) || h.Tell(now.Add(59*time.Second)) || !h.Tell(now.Add(61*time.Second)) {
		t.Error("not once a minute")
	}
}
