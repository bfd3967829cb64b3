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

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// outsider is a real server of TLS on this machine, whose certificate names example.com, and a Host that leads to it.
func outsider(t *testing.T, of *snapshot.Outside) (*Host, *atomic.Int32) {
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
	h, err := New(of)
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
	here := []string{"127.0.0.1/32"}
	for _, c := range []struct {
		name    string
		of      *snapshot.Outside
		resolve []string
		want    error // nil: connected
		says    string
		dialled bool
	}{
		{name: "verified by its own authority", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, dialled: true},
		{name: "another name in its certificate", of: &snapshot.Outside{Host: "api.test", ServerName: "api.test", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, want: ErrTLS, says: "api.test", dialled: true},
		{name: "an authority that this host does not know", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", AllowedAddresses: here},
			resolve: []string{"127.0.0.1"}, want: ErrTLS, says: "unknown authority", dialled: true},
		{name: "a name that leads to the host itself", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's"},
			resolve: []string{"127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is the egress host itself"},
		{name: "the same in the form of IPv6", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's"},
			resolve: []string{"::ffff:127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is the egress host itself"},
		{name: "not among the allowed", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: []string{"192.0.2.0/24"}},
			resolve: []string{"127.0.0.1"}, want: ErrRefused, says: "127.0.0.1 is not in allowedAddresses"},
		{name: "one of two is allowed", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here},
			resolve: []string{"127.0.0.2", "127.0.0.1"}, dialled: true},
		{name: "no address", of: &snapshot.Outside{Host: "api.test", ServerName: "example.com"}, want: ErrUnresolved, says: "api.test"},
		{name: "an address instead of a name", of: &snapshot.Outside{Host: "127.0.0.1", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: here}, dialled: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, accepted := outsider(t, c.of)
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
				if v := conn.(*tls.Conn).ConnectionState(); v.NegotiatedProtocol != "http/1.1" {
					t.Errorf("speaks %q", v.NegotiatedProtocol)
				}
			}
			if got := accepted.Load() > 0; got != c.dialled {
				t.Errorf("connected: %v, want %v", got, c.dialled)
			}
		})
	}
}

// TestTheSecondAnswerOfTheDNSIsNotAsked: what is dialled is what was checked.
func TestTheSecondAnswerOfTheDNSIsNotAsked(t *testing.T) {
	h, _ := outsider(t, &snapshot.Outside{Host: "rebind.test", ServerName: "example.com", CaBundle: "server's", AllowedAddresses: []string{"127.0.0.1/32"}})
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
	conn.Close()
}

func TestSpecialAddresses(t *testing.T) {
	for _, text := range []string{
		"127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1",
		"255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
	} {
		if special(netip.MustParseAddr(text)) == "" {
			t.Errorf("%s may be connected to", text)
		}
	}
	for _, text := range []string{"192.0.2.1", "10.1.2.3", "2001:db8::1", "fd12::1", "64:ff9b::c000:201"} {
		if why := special(netip.MustParseAddr(text)); why != "" {
			t.Errorf("%s is refused as %s", text, why)
		}
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
		if h, err := New(of); err != nil || h.Authority != want {
			t.Errorf("%v: %v, want %s", h, err, want)
		}
	}
	for _, of := range []*snapshot.Outside{
		{Host: "a.test"}, {Port: 1}, {Host: "a.test", Port: 70000}, {Host: "a.test", Port: 1, Tls: true}, {Host: "a.test", Port: 1, AllowedAddresses: []string{"x"}},
		{Host: "a.test", Port: 1, Tls: true, ServerName: "a.test", CaBundle: "none"},
	} {
		if _, err := New(of); err == nil {
			t.Errorf("%v is taken", of)
		}
	}
}

// TestTell: one failing host does not fill the log.
func TestTell(t *testing.T) {
	h, err := New(&snapshot.Outside{Host: "a.test", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if !h.Tell(now) || h.Tell(now.Add(59*time.Second)) || !h.Tell(now.Add(61*time.Second)) {
		t.Error("not once a minute")
	}
}
