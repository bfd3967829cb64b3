package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// exchangeUDP sends a datagram again and again until an answer to it comes, and returns the version that answered.
func exchangeUDP(ctx context.Context, conn *net.UDPConn, what []byte) (version string, err error) {
	answer := make([]byte, 65535)
	for ctx.Err() == nil {
		if _, err := conn.Write(what); err != nil {
			return "", err
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			n, err := conn.Read(answer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return "", err
			}
			if version, said, ok := bytes.Cut(answer[:n], []byte("\n")); ok && bytes.Equal(said, what) {
				return string(version), nil
			}
		}
	}
	return "", fmt.Errorf("no answer to %d bytes: %w", len(what), context.Cause(ctx))
}

// awaitUDP sends until a version of versions answers.
func (m *Mesh) awaitUDP(conn *net.UDPConn, what string, versions ...string) (version string) {
	m.t.Helper()
	m.Eventually("an answer of "+strings.Join(versions, " or ")+" "+what, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		var err error
		if version, err = exchangeUDP(ctx, conn, []byte("hello "+what)); err != nil {
			return err
		}
		for _, v := range versions {
			if v == version {
				return nil
			}
		}
		return fmt.Errorf("%s answered", version)
	})
	return version
}

// dialUDP is DialUDP until the test ends.
func (m *Mesh) dialUDP(node, address string) *net.UDPConn {
	m.t.Helper()
	conn, err := m.DialUDP(node, address)
	m.must("dial "+address, err)
	m.t.Cleanup(func() { conn.Close() })
	return conn
}

const dnsService = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: dns}, spec: {ports: [{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53}]}}`

// TestDatagrams sends datagrams to a service on another host, over QUIC and over TCP: an echo of many sizes, and Go's own
// resolver, which has a socket for each question.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	for _, carrier := range []string{"quic", "tcp"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"shop/web", "shop/dns"}, Flags: []string{"--lane", carrier, "--access-log-share", "1"}})
			m.Serve("two", Service{Name: "shop/dns", Version: "v1", Port: 53, Protocol: "udp"})
			m.MustApply(dnsService)
			address := m.ListenUDP("one", "shop/web", "shop/dns:53")
			conn := m.dialUDP("one", address)
			m.awaitUDP(conn, "at first", "v1")
			for _, size := range []int{0, 1, 512, 1200, 1500, 9000, 60000} {
				if version, err := exchangeUDP(t.Context(), conn, bytes.Repeat([]byte{'x'}, size)); err != nil || version != "v1" {
					t.Errorf("%d bytes: %q, %v", size, version, err)
				}
			}
			resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return m.DialUDP("one", address) }}
			for range 20 {
				if txt, err := resolver.LookupTXT(t.Context(), "version.shop.example."); err != nil || len(txt) != 1 || txt[0] != "v1" {
					t.Errorf("%q, %v", txt, err)
				}
			}
			m.Eventually("flows of sockets that are gone have ended, and are counted", func(context.Context) error {
				lines, err := m.AccessLog("one")
				if err != nil {
					return err
				}
				flows := 0
				for _, l := range lines {
					if l["network.protocol.name"] == "udp" && l["sennit.lane"] == carrier && strings.Contains(fmt.Sprint(l), "shop/dns") {
						flows++
					}
				}
				if flows < 20 {
					return fmt.Errorf("%d of 20 flows are in the access log: %v", flows, lines)
				}
				return nil
			})
			if err := lanesOver(m, "one", carrier, ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDatagramsGoOnElsewhere: an instance dies, a node drains, and another is killed. The same socket is answered by who is
// left, and the process that speaks TCP on a port of the same number hears nothing of it.
func TestDatagramsGoOnElsewhere(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/web", "shop/dns"}})
	dies := m.Serve("two", Service{Name: "shop/dns", Instance: "a", Version: "a", Port: 53, Protocol: "udp"})
	m.Serve("two", Service{Name: "shop/dns", Instance: "t", Version: "t", Port: 53, Protocol: "tcp"})
	m.MustApply(dnsService)
	conn := m.dialUDP("one", m.ListenUDP("one", "shop/web", "shop/dns:53"))
	m.awaitUDP(conn, "of the only one", "a")

	m.Serve("three", Service{Name: "shop/dns", Instance: "b", Version: "b", Port: 53, Protocol: "udp"})
	for range 20 { // a flow stays where it is
		if version, err := exchangeUDP(t.Context(), conn, []byte("stay")); err != nil || version != "a" {
			t.Fatalf("%q, %v", version, err)
		}
	}
	m.Kill(dies.Process)
	m.awaitUDP(conn, "after the instance died", "b")

	m.Serve("two", Service{Name: "shop/dns", Instance: "c", Version: "c", Port: 53, Protocol: "udp"})
	other := m.dialUDP("one", m.ListenUDP("one", "shop/web", "shop/dns:53"))
	m.Eventually("the new instance answers somebody", func(ctx context.Context) error {
		fresh := m.dialUDP("one", other.RemoteAddr().String())
		defer fresh.Close()
		if version, err := exchangeUDP(ctx, fresh, []byte("x")); err != nil || version != "c" {
			return fmt.Errorf("%q, %w", version, err)
		}
		return nil
	})
	m.StopPart(m.Node("three"))
	m.awaitUDP(conn, "after the node drained", "c")
	m.RestartNode("three")
	m.Eventually("both answer", func(ctx context.Context) error {
		fresh := m.dialUDP("one", other.RemoteAddr().String())
		defer fresh.Close()
		if version, err := exchangeUDP(ctx, fresh, []byte("x")); err != nil || version != "b" {
			return fmt.Errorf("%q, %w", version, err)
		}
		return nil
	})
	m.Kill(m.Node("two"))
	m.awaitUDP(conn, "after the node was killed", "b")
}

// TestWhoMaySendDatagrams has a policy for one of two callers.
func TestWhoMaySendDatagrams(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"shop/web", "shop/cart", "shop/dns"}, Flags: []string{"--access-log-share", "1"}})
	m.Serve("two", Service{Name: "shop/dns", Version: "v1", Port: 53, Protocol: "udp"})
	m.MustApply(dnsService)
	may := m.dialUDP("one", m.ListenUDP("one", "shop/cart", "shop/dns:53"))
	mayNot := m.dialUDP("one", m.ListenUDP("one", "shop/web", "shop/dns:53"))
	m.awaitUDP(may, "before the policy", "v1")
	m.awaitUDP(mayNot, "before the policy", "v1")
	m.MustApply(`{apiVersion: sennit.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {namespace: shop, name: dns}, ` +
		`spec: {targetRefs: [{kind: Service, name: dns}], rules: [{from: [{services: [shop/cart]}]}]}}`)
	refused := m.dialUDP("one", mayNot.RemoteAddr().String())
	m.awaitUDP(may, "under the policy", "v1")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if version, err := exchangeUDP(ctx, refused, []byte("let me in")); err == nil {
		t.Errorf("%s answers who may not call", version)
	}
	for node, direction := range map[string]string{"one": "outbound", "two": "inbound"} {
		m.Eventually("the refusal is in the access log of "+node, func(context.Context) error {
			lines, err := m.AccessLog(node)
			if err != nil {
				return err
			}
			for _, l := range lines {
				if l["error.type"] == "denied" && l["network.protocol.name"] == "udp" && l["sennit.caller"] == "shop/web" && l["sennit.direction"] == direction {
					return nil
				}
			}
			return fmt.Errorf("%v", lines)
		})
	}
	m.awaitUDP(may, "behind the refusals", "v1")
}

// TestDatagramsFromOutside: a gateway takes datagrams at a port that another listener has for TCP, and shares flows out by
// weight.
func TestDatagramsFromOutside(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Services: []string{"shop/edge", "shop/dns", "shop/spare"}})
	m.Serve("two", Service{Name: "shop/dns", Version: "v1", Port: 53, Protocol: "udp"})
	m.Serve("three", Service{Name: "shop/spare", Version: "v2", Port: 53, Protocol: "udp"})
	m.Write("one", "service: shop/edge\ngateway: {address: 127.0.0.1}\n")
	port := m.port()
	m.MustApply(dnsService)
	m.MustApply(`{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: spare}, spec: {ports: [{port: 53, protocol: UDP}]}}`)
	m.MustApply(fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {namespace: shop, name: edge}, spec: {gatewayClassName: sennit, listeners: [`+
		`{name: udp, port: %d, protocol: UDP}, {name: tcp, port: %d, protocol: TCP}]}}`, port, port))
	route := func(first, second int) {
		m.MustApply(fmt.Sprintf(`{apiVersion: gateway.networking.k8s.io/v1, kind: UDPRoute, metadata: {namespace: shop, name: dns}, spec: {parentRefs: [{name: edge}], `+
			`rules: [{backendRefs: [{name: dns, port: 53, weight: %d}, {name: spare, port: 53, weight: %d}]}]}}`, first, second))
	}
	route(1, 0)
	conn := m.dialUDP("one", fmt.Sprintf("127.0.0.1:%d", port))
	m.awaitUDP(conn, "from outside", "v1")
	route(1, 1)
	m.awaitUDP(conn, "of a flow that stays where it is", "v1")
	count := map[string]int{}
	for range 100 {
		fresh := m.dialUDP("one", fmt.Sprintf("127.0.0.1:%d", port))
		version, err := exchangeUDP(t.Context(), fresh, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		count[version]++
		fresh.Close()
	}
	if count["v1"] < 20 || count["v2"] < 20 { // either is 50, give or take 5 for one deviation
		t.Errorf("flows are shared out as %v", count)
	}
	var stored gatewayv1.UDPRoute
	m.must("read the route", m.Read("UDPRoute", "shop/dns", &stored))
	if len(stored.Status.Parents) != 1 {
		t.Errorf("status %+v", stored.Status)
	}
	for _, p := range stored.Status.Parents {
		for _, c := range p.Conditions {
			if c.Status != "True" {
				t.Errorf("%+v", c)
			}
		}
	}
}
