package controller

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// members is the registry of nodes in memory: read again whenever one of its records changes. It is safe for
// concurrent use.
type members struct {
	registrar *ca.Registrar
	records   *bus.Records
	log       *slog.Logger
	onChange  func()
	bell      bell

	nodes   atomic.Pointer[map[string]ca.Node] // nil: not read yet; without those that were removed
	removed atomic.Pointer[map[string]bool]    // names that were removed and not given away again
	version atomic.Uint64                      // of the records that are in nodes, or newer; it never goes down
}

// run follows the registry until ctx ends.
func (m *members) run(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := m.load(ctx)
		if err == nil {
			err = m.records.Follow(ctx, m.version.Load()+1, func(e bus.Entry) error {
				if e.Sequence <= m.version.Load() {
					return nil // the last reading was of later
				}
				return m.load(ctx)
			})
		}
		if ctx.Err() != nil {
			return nil
		}
		m.log.Warn("following the registry of nodes broke off", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// load reads all records; only run calls it.
func (m *members) load(ctx context.Context) error {
	version, err := m.records.Last(ctx)
	if err != nil {
		return err
	}
	list, err := m.registrar.Nodes(ctx, m.records)
	if err != nil {
		return err
	}
	m.take(list)
	m.version.Store(version)
	m.bell.ring()
	m.onChange()
	return nil
}

func (m *members) take(list []ca.Node) {
	nodes, removed := make(map[string]ca.Node, len(list)), make(map[string]bool)
	for _, n := range list {
		if n.State == "removed" {
			removed[n.Name] = true
		} else {
			nodes[n.Name] = n
		}
	}
	m.removed.Store(&removed)
	m.nodes.Store(&nodes)
}

func (m *members) read() bool { return m.nodes.Load() != nil }

func (m *members) list() map[string]ca.Node {
	if nodes := m.nodes.Load(); nodes != nil {
		return *nodes
	}
	return nil
}

// allowed says whether a node may run a service.
func (m *members) allowed(node string, service exchange.ServiceName) bool {
	n, ok := m.list()[node]
	return ok && allowedTo(n.Services, service)
}

// ended says whether a node may no longer run a service: it was removed, or the service was taken away from it.
// Of a node that the registry does not know nothing is said: a registry that was restored learns of it later.
func (m *members) ended(node string, service exchange.ServiceName) bool {
	if n, ok := m.list()[node]; ok {
		return !allowedTo(n.Services, service)
	}
	return m.wasRemoved(node)
}

// wasRemoved says whether a node was removed, and its name not given away again.
func (m *members) wasRemoved(node string) bool {
	removed := m.removed.Load()
	return removed != nil && (*removed)[node]
}
