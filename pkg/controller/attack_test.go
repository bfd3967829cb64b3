package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// join has a host ask until the controller has answered. Who asks again with the same identity is promised the same answer.
func join(t *testing.T, host *ca.Identity, token *ca.Token) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return bustest.Insist(ctx, ca.ErrTryAgain, func() error { return host.Join(ctx, token, nil) })
}

// joined is a host that joined, and its connection to the bus.
func joined(t *testing.T, c *Controller, name string, services ...exchange.ServiceName) (*ca.Identity, *bus.Conn) {
	t.Helper()
	token, err := c.registrar.CreateToken(t.Context(), ca.TokenRequest{Node: name, Services: services})
	if err != nil {
		t.Fatal(err)
	}
	i, err := ca.NewIdentity(ca.IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	parsed, err := ca.ParseToken(token.Secret())
	if err != nil {
		t.Fatal(err)
	}
	if err := join(t, i, parsed); err != nil {
		t.Fatal(err)
	}
	cfg := i.BusConfig()
	cfg.Log = slog.New(slog.DiscardHandler)
	conn, err := bus.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := conn.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, name+" is known", func() bool { return c.members.allowed(name, services[0]) })
	return i, conn
}

// total is how often a node was refused something of a kind.
func (c *Controller) total(node, kind string) (n uint64) {
	c.refusals.each(func(of, what string, total uint64) {
		if of == node && what == kind {
			n = total
		}
	})
	return n
}

// refusalsIn are the kinds of what the audit says that a node was refused.
func refusalsIn(t *testing.T, c *Controller, node string) (kinds []string) {
	t.Helper()
	for _, e := range entries(t, c, bus.StreamAudit) {
		entry, err := audit.Open(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		if event := entry.GetEvent(); event.GetKind() == audit.Refusal && event.GetActor() == node && event.GetFrom() == "the bus" {
			kinds = append(kinds, event.GetVerb())
		}
	}
	return kinds
}

// TestAttackByANode has a node that was taken over, with its key and its users of the bus, try at a real controller
// what it must not do: speak for others, read what is theirs, and take what it was not allowed. Nothing of it succeeds,
// each is counted and recorded in its name, others work on, and one command cuts it off for good.
func TestAttackByANode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, stop := start(t, dir)
	orders, payments := exchange.ServiceName{Namespace: "default", Name: "orders"}, exchange.ServiceName{Namespace: "default", Name: "payments"}
	gateway := exchange.ServiceName{Namespace: "edge", Name: "gateway"}
	thief, conn := joined(t, c, "web1", orders)
	honest, other := joined(t, c, "web2", payments, gateway)

	registration := func(node string, signer *ca.Identity, service string) []byte {
		t.Helper()
		body, err := proto.Marshal(&snapshot.Registration{SentUnixNs: time.Now().UnixNano(), Instance: &snapshot.Instance{
			Service: service, Node: node, Instance: "evil", LaneAddress: "192.0.2.66:7443", Ports: []*snapshot.InstancePort{{Number: 80, Name: "http", Address: "127.0.0.1:8080"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		signature, err := signer.Sign(body)
		if err != nil {
			t.Fatal(err)
		}
		data, err := proto.Marshal(&snapshot.SignedRegistration{Registration: body, Signature: signature})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, tt := range []struct {
		name, verb string
		payload    []byte
		kind       string
	}{
		{"an instance of a service that it may not run", bus.VerbRegister, registration("web1", thief, "default/payments"), "denied"},
		{"a gateway of its own", bus.VerbRegister, registration("web1", thief, "edge/gateway"), "denied"},
		{"a registration that another signed", bus.VerbRegister, registration("web1", honest, "default/orders"), "denied"},
		{"no registration", bus.VerbRegister, []byte("\xff"), "invalid"},
		{"no alive message", bus.VerbAlive, []byte("\xff"), "invalid"},
		{"no request to catch up", bus.VerbCatchup, []byte("\xff"), "invalid"},
		{"no report", bus.VerbApplied, []byte("\xff"), "invalid"},
		{"no request for leases", bus.VerbQuota, []byte("\xff"), "invalid"},
		{"no edges", bus.VerbTelemetry, []byte("\xff"), "invalid"},
		{"nothing tapped", bus.VerbTap, []byte("\xff"), "invalid"},
	} {
		before := c.total("web1", tt.kind)
		if _, err := conn.Request(t.Context(), tt.verb, tt.payload); err == nil {
			t.Errorf("%s: it is taken", tt.name)
		}
		if after := c.total("web1", tt.kind); after != before+1 {
			t.Errorf("%s: counted as %s are %d, and %d before", tt.name, tt.kind, after, before)
		}
	}
	if err := thief.Want(t.Context(), conn, payments); !errors.Is(err, ca.ErrNotAllowed) {
		t.Errorf("a certificate of another's service: %v", err)
	}
	if _, err := thief.WorkloadCertificate(t.Context(), conn, payments); !errors.Is(err, ca.ErrNotAllowed) || c.total("web1", "workload") == 0 {
		t.Errorf("a certificate of another's service, for a process: %v, counted %d", err, c.total("web1", "workload"))
	}

	// What is another's is absent to it: a gateway's keys, a service's rules, a node's services.
	catchup := &bus.CatchupRequest{Nonce: make([]byte, 16)}
	secrets := []string{snapshot.InSubject("default", "payments"), snapshot.InSubject("edge", "gateway"), snapshot.NodeSubject("web2")}
	for _, subject := range append(secrets, snapshot.NodeSubject("web1")) {
		catchup.Wants = append(catchup.Wants, &bus.Want{Subject: subject})
	}
	request, err := proto.Marshal(catchup)
	if err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "the node's own configuration", func() bool {
		data, err := conn.Request(t.Context(), bus.VerbCatchup, request)
		var reply bus.CatchupReply
		var answer bus.CatchupAnswer
		if err := errors.Join(err, proto.Unmarshal(data, &reply), proto.Unmarshal(reply.GetAnswer(), &answer)); err != nil {
			t.Fatal(err)
		}
		own := false
		for _, result := range answer.GetResults() {
			if slices.Contains(secrets, result.GetSubject()) && (len(result.GetMessages()) > 0 || !result.GetAbsent()) {
				t.Errorf("it is told of %s", result.GetSubject())
			}
			own = own || result.GetSubject() == snapshot.NodeSubject("web1") && len(result.GetMessages()) > 0
		}
		return own
	})

	// Past our client: what the bus's server refuses.
	connect := func(addr netip.AddrPort, closed func()) (*nats.Conn, error) {
		cfg := thief.BusConfig()
		pair, err := nkeys.FromSeed(cfg.Credential.Seed)
		if err != nil {
			t.Fatal(err)
		}
		return nats.Connect("tls://"+addr.String(), nats.Secure(cfg.TLS), nats.TLSHandshakeFirst(), nats.UserJWT(cfg.Credential.Token, pair.Sign), nats.NoReconnect(),
			nats.Timeout(30*time.Second), nats.ClosedHandler(func(*nats.Conn) { closed() }), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	addr, err := c.server.Addr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	raw, err := connect(addr, func() { close(ended) })
	if err != nil {
		t.Fatal(err)
	}
	published := []string{snapshot.RevokedSubject, "sennit.registry.revoked", "sennit.audit.controller.log", "sennit.node.web2.register", "$JS.API.STREAM.PURGE.SENNIT_AUDIT", "_INBOX.node.web2.x"}
	for _, subject := range published {
		if err := raw.Publish(subject, []byte("forged")); err != nil {
			t.Fatal(err)
		}
	}
	subscribed := []string{"sennit.>", "sennit.live.in.edge.gateway.>", "sennit.live.tap.web2", "_INBOX.node.web2.>"}
	for _, subject := range subscribed {
		if _, err := raw.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
	}
	if err := raw.Flush(); err != nil {
		t.Fatal(err)
	}
	awaitThat(t, "what the server refused is counted", func() bool {
		return c.total("web1", bus.RefusedPublish) == uint64(len(published)) && c.total("web1", bus.RefusedSubscribe) == uint64(len(subscribed))
	})
	awaitThat(t, "what was refused is in the audit", func() bool {
		kinds := refusalsIn(t, c, "web1")
		for _, kind := range []string{"denied", "invalid", "workload", bus.RefusedPublish, bus.RefusedSubscribe} {
			if !slices.Contains(kinds, kind) {
				return false
			}
		}
		return true
	})
	if kinds := refusalsIn(t, c, "web2"); len(kinds) > 0 {
		t.Errorf("web2, which did nothing, was refused %q", kinds)
	}

	// One command.
	if err := c.registrar.RevokeNode(t.Context(), "web1", "taken over"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("its connection stays")
	}
	out := func(when string, addr netip.AddrPort) {
		t.Helper()
		if again, err := connect(addr, func() {}); err == nil {
			again.Close()
			t.Errorf("%s: the bus lets it in", when)
		}
	}
	out("revoked", addr)
	awaitThat(t, "that it was not let in is counted", func() bool { return c.total("web1", bus.RefusedConnect) > 0 })
	if _, err := other.Request(t.Context(), bus.VerbRegister, registration("web2", honest, "default/payments")); err != nil {
		t.Errorf("another node: %v", err)
	}
	if _, err := c.known(bus.VerbAlive, c.alive)(t.Context(), "web1", nil); bus.Code(err) != bus.ErrorCode_ERROR_CODE_DENIED {
		t.Errorf("what it asks over a connection that has not ended yet: %v", err)
	}
	renewed, err := c.registrar.Renew(context.WithoutCancel(t.Context()), "web1", nil)
	if err != nil || strings.Contains(string(renewed), "node_chain") {
		t.Errorf("it is renewed: %v", err)
	}
	kept, err := c.endedUsers()
	awaitThat(t, "its user is kept", func() bool { kept, err = c.endedUsers(); return err != nil || len(kept) == 1 })
	if err != nil {
		t.Error(err)
	}
	stop()
	c, _ = start(t, dir)
	if addr, err = c.server.Addr(t.Context()); err != nil {
		t.Fatal(err)
	}
	out("the controller started again", addr)
}
