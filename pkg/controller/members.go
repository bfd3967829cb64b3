package controller

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
	ended   atomic.Pointer[[]string]           // users of the bus that are not let in, in order
	version bus.Progress                       // of the records that are in here

	endedChanged chan struct{} // told when those users may have changed

	mu        sync.Mutex
	directory *ca.Directory
}

func newMembers(records *bus.Records, log *slog.Logger, onChange func()) *members {
	return &members{records: records, log: log, onChange: onChange, directory: ca.NewDirectory(), endedChanged: make(chan struct{}, 1)}
}

// run follows the registry until ctx ends.
func (m *members) run(ctx context.Context) error {
	return followRegistry(ctx, m.records, m.log.With("for", "nodes"), &m.version, func(last uint64) {
		if last <= m.version.At() && !m.read() {
			m.takeAll() // nothing was stored yet
			m.onChange()
		}
	}, func(e bus.Entry, last uint64) { m.record(e, e.Sequence >= last) })
}

// followRegistry reads the registry behind what was read until ctx ends, and again where following it breaks off. Begin is
// called before each time, and take for each record; last is the newest one that is stored then.
func followRegistry(ctx context.Context, records *bus.Records, log *slog.Logger, read *bus.Progress, begin func(last uint64), take func(e bus.Entry, last uint64)) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		last, err := records.Last(ctx)
		if err == nil {
			begin(last)
			err = records.Follow(ctx, read.At()+1, func(e bus.Entry) error {
				take(e, last)
				return nil
			})
		}
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("following the registry broke off", "err", err)
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
	m.version.Reach(e.Sequence) // when what it stands for can be seen
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
	if m.version.Wait(ctx, last) != nil {
		return nil, 0, fmt.Errorf("read the registry up to %d: %w", last, context.Cause(ctx))
	}
	version := m.version.At() // first: what comes meanwhile is read again
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.directory.Tokens(), version, nil
}

func (m *members) take(list []ca.Node) {
	nodes, removed := make(map[string]ca.Node, len(list)), make(map[string]bool)
	var ended []string
	for _, n := range list {
		ended = append(ended, n.EndedUsers...)
		if n.State == "removed" || n.State == "revoked" {
			removed[n.Name] = true
		} else {
			nodes[n.Name] = n
		}
	}
	slices.Sort(ended)
	m.ended.Store(&ended)
	select {
	case m.endedChanged <- struct{}{}:
	default:
	}
	m.removed.Store(&removed)
	m.nodes.Store(&nodes)
}

// endedUsers are those of hosts that were revoked, in order.
func (m *members) endedUsers() []string {
	if ended := m.ended.Load(); ended != nil {
		return *ended
	}
	return nil
}

// revocations lists those that are in force.
func (m *members) revocations(now time.Time) []ca.Revocation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.directory.Revocations(now)
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

// mayNot says whether a node may no longer run a service: it was removed, or the service was taken away from it.
// Of a node that the registry does not know nothing is said: a registry that was restored learns of it later.
func (m *members) mayNot(node string, service exchange.ServiceName) bool {
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
