package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// members is the registry of nodes in memory, kept up to date record by record. It is safe for concurrent use.
type members struct {
	records  *bus.Records
	log      *slog.Logger
	onChange func()
	bell     bell

	nodes   atomic.Pointer[map[string]ca.Node] // nil: not read yet; without those that were removed
	removed atomic.Pointer[map[string]bool]    // names that were removed and not given away again
	version atomic.Uint64                      // of the records that are in here; it never goes down

	mu        sync.Mutex
	directory *ca.Directory
	moved     chan struct{} // closed and replaced with each record
}

func newMembers(records *bus.Records, log *slog.Logger, onChange func()) *members {
	return &members{records: records, log: log, onChange: onChange, directory: ca.NewDirectory(), moved: make(chan struct{})}
}

// run follows the registry until ctx ends.
func (m *members) run(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		last, err := m.records.Last(ctx)
		if err == nil {
			if last <= m.version.Load() && !m.read() {
				m.takeAll() // nothing was stored yet
				m.onChange()
			}
			err = m.records.Follow(ctx, m.version.Load()+1, func(e bus.Entry) error {
				m.record(e, e.Sequence >= last)
				return nil
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

// record takes in one record. While those of before this start are read, what is known is not told: some nodes
// would be missing.
func (m *members) record(e bus.Entry, tell bool) {
	m.mu.Lock()
	node, err := m.directory.Take(e)
	m.mu.Unlock()
	if err != nil { // one bad record must not hide all that follow
		m.log.Error("record skipped", "sequence", e.Sequence, "err", err)
	}
	changed := tell && (node || !m.read()) // else it is a token
	if changed {
		m.takeAll()
	}
	m.mu.Lock()
	m.version.Store(e.Sequence) // when what it stands for can be seen
	close(m.moved)
	m.moved = make(chan struct{})
	m.mu.Unlock()
	if changed {
		m.onChange()
	}
	if tell {
		m.bell.ring()
	}
}

// takeAll shows the nodes that are known now; only run calls it.
func (m *members) takeAll() {
	m.mu.Lock()
	list := m.directory.Nodes()
	m.mu.Unlock()
	m.take(list)
}

// tokens lists the join tokens as of now, and the version of the records that they are from.
func (m *members) tokens(ctx context.Context) ([]ca.TokenStatus, uint64, error) {
	last, err := m.records.Last(ctx)
	if err != nil {
		return nil, 0, err
	}
	for {
		m.mu.Lock()
		moved, version := m.moved, m.version.Load()
		if version >= last {
			defer m.mu.Unlock()
			return m.directory.Tokens(), version, nil
		}
		m.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("read the registry up to %d: %w", last, context.Cause(ctx))
		}
	}
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
