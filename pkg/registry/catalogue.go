package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An Entry is one record as it is stored.
type Entry struct {
	Subject  string
	Data     []byte // empty: removed
	Sequence uint64
	Time     time.Time
}

// Records are the stored registrations, the last of each subject. Get and Append fail with an error that is
// ErrConflict or ErrNotFound where that is the reason.
type Records interface {
	// Append stores data where the last sequence of the subject is expect, 0 for none.
	Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error)
	// Get reads the last record of a subject from the stream's leader.
	Get(ctx context.Context, subject string) (Entry, error)
	// Follow hands over every record from a sequence on, in order, until ctx ends or fn fails.
	Follow(ctx context.Context, from uint64, fn func(Entry) error) error
}

// Errors of Records, and of Register.
var (
	ErrConflict   = errors.New("the record was changed by someone else")
	ErrNotFound   = errors.New("no such record")
	ErrNotAllowed = errors.New("the node may not run this service")
	ErrInvalid    = errors.New("not a registration")
)

const (
	instancePrefix = "sennit.instance."
	livenessPrefix = instancePrefix + "_node."
)

// CatalogueConfig is what a Catalogue needs.
type CatalogueConfig struct {
	Records Records
	// Allowed says whether a node may run a service.
	Allowed func(node string, service exchange.ServiceName) bool
	// Changed is called after each change of the view, with the sequence that it is of, in order and by one
	// goroutine. It must not block.
	Changed func(sequence uint64)
	Rules   Rules
	Log     *slog.Logger
}

// A Catalogue is one controller's view of what all nodes run. The records are the truth; every controller
// follows them and any may write. It is safe for concurrent use.
type Catalogue struct {
	cfg CatalogueConfig

	mu       sync.Mutex
	sequence uint64
	nodes    map[string]*catalogued
	liveness *liveness
}

// catalogued is what is known of one node. Instances in it are never changed, only replaced.
type catalogued struct {
	instances map[Key]*snapshot.Instance
	hashes    map[Key][32]byte
	bytes     int // of all instances, encoded
}

// put brings an instance in, in the place of the one that was there; nil takes it out.
func (n *catalogued) put(key Key, in *snapshot.Instance) {
	if old := n.instances[key]; old != nil {
		n.bytes -= proto.Size(old)
		delete(n.instances, key)
		delete(n.hashes, key)
	}
	if in != nil {
		n.bytes += proto.Size(in)
		n.instances[key], n.hashes[key] = in, Hash(in)
	}
}

// NewCatalogue returns a Catalogue that is empty until Run has read the records.
func NewCatalogue(cfg CatalogueConfig) *Catalogue {
	return &Catalogue{cfg: cfg, nodes: map[string]*catalogued{}, liveness: newLiveness(cfg.Rules)}
}

// Run follows the records until ctx ends.
func (c *Catalogue) Run(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := c.cfg.Records.Follow(ctx, c.Sequence()+1, func(e Entry) error {
			pause = 50 * time.Millisecond
			c.take(e)
			c.cfg.Changed(e.Sequence)
			return nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.cfg.Log.Warn("following instances broke off", "err", err)
		c.Recovered()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// take brings one record into the view.
func (c *Catalogue) take(e Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequence = max(c.sequence, e.Sequence)
	if token, ok := strings.CutPrefix(e.Subject, livenessPrefix); ok {
		c.takeLiveness(token, e)
		return
	}
	node, key, err := parseInstanceSubject(e.Subject)
	if err != nil {
		c.cfg.Log.Error("record not understood", "subject", e.Subject, "err", err)
		return
	}
	known := c.nodes[node]
	if len(e.Data) == 0 {
		if known != nil {
			known.put(key, nil)
			if len(known.instances) == 0 {
				delete(c.nodes, node)
				if n := c.liveness.nodes[node]; n != nil && n.draining {
					c.liveness.forget(node)
				}
			}
		}
		return
	}
	in := &snapshot.Instance{}
	if err := proto.Unmarshal(e.Data, in); err != nil {
		c.cfg.Log.Error("record not understood", "subject", e.Subject, "err", err)
		return
	}
	if known == nil {
		known = &catalogued{instances: map[Key]*snapshot.Instance{}, hashes: map[Key][32]byte{}}
		c.nodes[node] = known
	}
	known.put(key, in)
	c.liveness.know(node, time.Now())
}

func (c *Catalogue) takeLiveness(token string, e Entry) {
	node, err := snapshot.Unescape(token)
	said := &snapshot.NodeLiveness{}
	if err == nil {
		err = proto.Unmarshal(e.Data, said)
	}
	switch {
	case err != nil:
		c.cfg.Log.Error("record not understood", "subject", e.Subject, "err", err)
	case len(e.Data) == 0:
		c.liveness.forget(node)
	default:
		c.liveness.recorded(node, said.GetLost(), time.UnixMilli(said.GetSinceUnixMs()), time.Now())
	}
}

// Sequence returns the last sequence that is in the view.
func (c *Catalogue) Sequence() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sequence
}

// View returns all instances, ordered by node and key, the nodes that are lost, and the sequence that this
// is of. The instances must not be changed.
func (c *Catalogue) View() (instances []*snapshot.Instance, lost map[string]bool, sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(c.nodes)) {
		known := c.nodes[node]
		for _, key := range slices.SortedFunc(maps.Keys(known.instances), compareKeys) {
			instances = append(instances, known.instances[key])
		}
	}
	lost = map[string]bool{}
	for node, n := range c.liveness.nodes {
		if n.lost {
			lost[node] = true
		}
	}
	return instances, lost, c.sequence
}

// Limits on what one node can make a controller store, and every caller of its services receive.
const (
	maxInstancesOfNode = 1024
	maxInstanceBytes   = 32 << 10
	maxNodeBytes       = 1 << 20 // of all instances of a node
)

// Register takes in a registration, or the removal of one, whose signature by the node was verified. What
// is stored already is not written again. It fails with ErrNotAllowed, with ErrInvalid, or where the
// records cannot be written.
func (c *Catalogue) Register(ctx context.Context, node string, in *snapshot.Instance, removed bool) error {
	key, err := checkRegistration(node, in, removed)
	if err != nil {
		return err
	}
	if !removed && !c.cfg.Allowed(node, key.Service) {
		return fmt.Errorf("register %s of node %s: %w (allow it with `sennit node allow %s %s`)", key, node, ErrNotAllowed, node, key.Service)
	}
	var data []byte
	if !removed {
		if data, err = proto.Marshal(in); err != nil {
			return fmt.Errorf("register %s of node %s: %w", key, node, err)
		}
	}
	c.mu.Lock()
	c.liveness.alive(node, time.Now())
	if !removed {
		err = c.room(node, key, len(data))
	}
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("register %s of node %s: %w: %w", key, node, ErrInvalid, err)
	}
	same := func(stored []byte) bool {
		old := &snapshot.Instance{}
		if removed || len(stored) == 0 {
			return removed && len(stored) == 0
		}
		return proto.Unmarshal(stored, old) == nil && Hash(old) == Hash(in)
	}
	if err := c.write(ctx, InstanceSubject(node, key), data, same); err != nil {
		return fmt.Errorf("register %s of node %s: %w", key, node, err)
	}
	return nil
}

// room says why an instance of so many bytes is too much for a node, or nil.
func (c *Catalogue) room(node string, key Key, size int) error {
	if size > maxInstanceBytes {
		return fmt.Errorf("it has %d bytes, at most %d are stored", size, maxInstanceBytes)
	}
	known := c.nodes[node]
	if known == nil {
		return nil
	}
	old := known.instances[key]
	if old == nil && len(known.instances) >= maxInstancesOfNode {
		return fmt.Errorf("the node has %d instances, which is the most", maxInstancesOfNode)
	}
	if total := known.bytes - proto.Size(old) + size; total > maxNodeBytes {
		return fmt.Errorf("the node's instances would have %d bytes, at most %d are stored (are there many long labels?)", total, maxNodeBytes)
	}
	return nil
}

// write stores data where something else is stored, whoever writes beside it.
func (c *Catalogue) write(ctx context.Context, subject string, data []byte, same func(stored []byte) bool) error {
	for attempt := 1; ; attempt++ {
		// From the stream's leader, not from the view: the view may be behind another controller's write.
		stored, err := c.cfg.Records.Get(ctx, subject)
		if errors.Is(err, ErrNotFound) {
			stored, err = Entry{}, nil
		}
		if err != nil {
			return err
		}
		if same(stored.Data) {
			return nil
		}
		_, err = c.cfg.Records.Append(ctx, subject, data, stored.Sequence)
		if err == nil || !errors.Is(err, ErrConflict) || attempt == 5 {
			return err
		}
	}
}

// Alive takes in that a node lives, and answers with what is held of it where that is not what the node
// believes.
func (c *Catalogue) Alive(node string, alive *snapshot.Alive) *snapshot.AliveReply {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := map[Key][32]byte{}
	if known := c.nodes[node]; known != nil {
		held = known.hashes
	}
	c.liveness.alive(node, time.Now())
	n := c.liveness.nodes[node]
	n.version = printable(alive.GetVersion())
	n.standing = Standing{alive.GetRosterEpoch(), alive.GetRosterSerial(), time.UnixMilli(alive.GetIssuedUnixMs())}
	if n.draining = alive.GetDraining(); n.draining && len(held) == 0 && !n.lost {
		c.liveness.forget(node) // it said goodbye: its silence is no loss
	}
	if string(alive.GetDigest()) == string(Digest(held)) {
		return &snapshot.AliveReply{}
	}
	reply := &snapshot.AliveReply{Differs: true}
	for _, key := range slices.SortedFunc(maps.Keys(held), compareKeys) {
		hash := held[key]
		reply.Held = append(reply.Held, &snapshot.HeldInstance{Service: key.Service.String(), Instance: key.Name, Hash: hash[:]})
	}
	return reply
}

// maxVersion bounds what a node can make a controller keep, in bytes.
const maxVersion = 64

// printable is what a node says its version is, as it can be shown on a terminal.
func printable(version string) string {
	return strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '?'
		}
		return r
	}, version[:min(len(version), maxVersion)])
}

func compareKeys(a, b Key) int {
	if c := compareNames(a.Service, b.Service); c != 0 {
		return c
	}
	return compare(a.Name, b.Name)
}
