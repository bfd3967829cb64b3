package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// memory is a Store and Follower with the semantics of bus.Records, so that a test can also go back to an
// older state of it, as a restore does.
type memory struct {
	mu      sync.Mutex
	entries []bus.Entry
	last    uint64
}

func (m *memory) Get(_ context.Context, subject string) (bus.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, entry := range slices.Backward(m.entries) {
		if entry.Subject == subject {
			return entry, nil
		}
	}
	return bus.Entry{}, fmt.Errorf("read %s: %w", subject, bus.ErrNotFound)
}

func (m *memory) Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error) {
	entry, err := m.Get(ctx, subject)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && entry.Sequence != expect || err != nil && expect != 0 {
		return 0, fmt.Errorf("store %s: %w", subject, bus.ErrConflict)
	}
	m.last++
	m.entries = append(m.entries, bus.Entry{Subject: subject, Data: bytes.Clone(data), Sequence: m.last})
	return m.last, nil
}

func (m *memory) Last(context.Context) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, nil
}

func (m *memory) Follow(_ context.Context, from uint64, fn func(bus.Entry) error) error {
	m.mu.Lock()
	entries := slices.Clone(m.entries)
	m.mu.Unlock()
	for _, entry := range entries {
		if entry.Sequence >= from {
			if err := fn(entry); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *memory) backup() []bus.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.entries)
}

func (m *memory) restore(entries []bus.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = entries
}

// cluster is a controller's part of one cluster.
type cluster struct {
	t         testing.TB
	clock     *clock
	store     *memory
	authority *Authority
	registrar *Registrar

	mu        sync.Mutex
	incidents []Incident
}

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	clock := &clock{now: testStart}
	c := newClusterAt(t, clock.Now)
	c.clock = clock
	return c
}

func newClusterAt(t testing.TB, now func() time.Time) *cluster {
	t.Helper()
	cfg := authorityConfig(t)
	cfg.Now = now
	return newClusterOf(t, cfg)
}

func newClusterOf(t testing.TB, cfg AuthorityConfig) *cluster {
	t.Helper()
	c := &cluster{t: t, store: &memory{}}
	c.authority = openAuthority(t, cfg)
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	c.registrar, err = NewRegistrar(RegistrarConfig{
		Authority: c.authority, Store: c.store, Users: accounts, Addresses: []string{"127.0.0.1:4222"},
		Log: slog.New(slog.DiscardHandler), Now: cfg.Now,
		Report: func(incident Incident) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.incidents = append(c.incidents, incident)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) reported(sentinel error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.incidents, func(i Incident) bool { return errors.Is(i.Err, sentinel) })
}

func (c *cluster) token(node string, services ...exchange.ServiceName) *Token {
	c.t.Helper()
	token, err := c.registrar.CreateToken(c.t.Context(), TokenRequest{Node: node, Services: services})
	if err != nil {
		c.t.Fatal(err)
	}
	parsed, err := ParseToken(token.Secret())
	if err != nil {
		c.t.Fatal(err)
	}
	return parsed
}

// wire carries requests of one node to a registrar; a test may stand on it.
type wire struct {
	registrar *Registrar
	node      string
	request   func([]byte) ([]byte, error) // changes what is sent
	reply     func([]byte) ([]byte, error) // changes what comes back
	sent      atomic.Int32
}

func (w *wire) Request(ctx context.Context, verb string, payload []byte) ([]byte, error) {
	w.sent.Add(1)
	if w.request != nil {
		var err error
		if payload, err = w.request(payload); err != nil {
			return nil, err
		}
	}
	handler := w.registrar.Renew
	switch verb {
	case bus.VerbJoin:
		handler = w.registrar.Join
	case bus.VerbWorkload:
		handler = w.registrar.Workload
	}
	reply, err := handler(ctx, w.node, payload)
	if err != nil || w.reply == nil {
		return reply, err
	}
	return w.reply(reply)
}

func (w *wire) dial(context.Context, bus.ConnConfig) (Requester, func(), error) {
	return w, func() {}, nil
}

func (c *cluster) wire(node string) *wire { return &wire{registrar: c.registrar, node: node} }

func (c *cluster) identity(dir string) *Identity {
	c.t.Helper()
	return openIdentity(c.t, IdentityConfig{Dir: dir, Now: c.clock.Now, Log: slog.New(slog.DiscardHandler)})
}

func openIdentity(t testing.TB, cfg IdentityConfig) *Identity {
	t.Helper()
	i, err := NewIdentity(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i
}

var (
	orders  = exchange.ServiceName{Namespace: "default", Name: "orders"}
	billing = exchange.ServiceName{Namespace: "default", Name: "billing"}
)

var testServices = []exchange.ServiceName{orders}

// joined is a node that joined with one service.
func (c *cluster) joined(node string, services ...exchange.ServiceName) *Identity {
	c.t.Helper()
	i := c.identity(c.t.TempDir())
	if err := i.Join(c.t.Context(), c.token(node, services...), c.wire(node).dial); err != nil {
		c.t.Fatal(err)
	}
	return i
}

func (c *cluster) node(name string) Node {
	c.t.Helper()
	node, err := c.registrar.Node(c.t.Context(), name)
	if err != nil {
		c.t.Fatal(err)
	}
	return node
}

func leafSerial(t testing.TB, i *Identity, service exchange.ServiceName) string {
	t.Helper()
	certificate, err := i.Certificate(service)
	if err != nil {
		t.Fatal(err)
	}
	return serialOf(certificate.Leaf)
}

func userKey(t testing.TB) string {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// reroster makes and spreads a roster.
func (c *cluster) reroster(i *Identity, change func(*snapshot.Roster)) {
	c.t.Helper()
	raw, err := c.authority.UpdateRoster(change)
	if err != nil {
		c.t.Fatal(err)
	}
	if newer, err := i.UpdateRoster(raw); err != nil || !newer {
		c.t.Fatalf("roster taken: %v, %v", newer, err)
	}
}
