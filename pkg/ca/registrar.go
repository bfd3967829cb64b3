package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// DefaultAbsence is how long a node may be away and still come back by itself.
	DefaultAbsence = 90 * 24 * time.Hour

	registryPrefix = "sennit.registry."
	nodePrefix     = registryPrefix + "node."
	tokenPrefixes  = registryPrefix + "token."

	// casAttempts bounds how often a change of a record is tried again because another was faster.
	casAttempts = 8
)

// Store keeps the registry: a compare-and-set register for each subject (*bus.Records).
type Store interface {
	Get(ctx context.Context, subject string) (bus.Entry, error)
	Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error)
}

// Users makes the users with which nodes connect to the bus (*bus.Accounts). Keys are public nkeys of users.
type Users interface {
	NodeUser(node string, services []string, key string, expires time.Time) (token string, err error)
	RenewUser(node, key string) (token string, err error)
	JoinUser(node string, expires time.Time) (token string, seed []byte, err error)
}

// An Incident is something about a node that an operator should look at.
type Incident struct {
	Node string
	Err  error // ErrFrozen, ErrOldGeneration, ErrRemoved, ErrAbsent, or nil where a receipt was believed
	What string
}

// A Decision is what became of a node's request.
type Decision struct {
	Node       string
	Verb       string // "join" or "renew"
	Address    string // that the node advertises
	Services   []string
	Generation uint64
	Issued     []Issued // nil: a host is let in, or refused
	Refused    error    // nil: it was not
}

// RegistrarConfig composes a Registrar.
type RegistrarConfig struct {
	Authority *Authority
	Store     Store
	Users     Users
	Addresses []string         // of the bus, host:port, which go into tokens
	TTL       time.Duration    // of nodes' certificates; 0: the authority's maximum
	Absence   time.Duration    // 0: DefaultAbsence
	Attest    *attest.Verifier // of evidence that hosts show with tokens for many; nil: none is believed
	Report    func(Incident)   // called from handlers; nil: logged only
	// Record keeps a decision: that a host is let in, before it is in the registry; what is issued, before it is
	// handed out; and that a request is refused. What is not kept is not granted. nil: nothing is kept.
	Record func(context.Context, Decision) error
	Log    *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}

// A Registrar decides which hosts are nodes and which services they may run. It keeps nothing of its own:
// the registry is in the store, so that every controller answers every node. It is safe for concurrent
// use.
type Registrar struct {
	cfg RegistrarConfig
}

// NewRegistrar checks its configuration.
func NewRegistrar(cfg RegistrarConfig) (*Registrar, error) {
	if cfg.Authority == nil || cfg.Store == nil || cfg.Users == nil {
		return nil, errors.New("registrar: authority, store and users are needed")
	}
	if len(cfg.Addresses) > maxAddresses {
		return nil, fmt.Errorf("registrar: %d bus addresses, at most %d", len(cfg.Addresses), maxAddresses)
	}
	if cfg.Absence == 0 {
		cfg.Absence = DefaultAbsence
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Attest == nil {
		cfg.Attest = new(attest.Verifier)
	}
	if cfg.Report == nil {
		cfg.Report = func(Incident) {}
	}
	if cfg.Record == nil {
		cfg.Record = func(context.Context, Decision) error { return nil }
	}
	return &Registrar{cfg}, nil
}

// A Node is a node as the registry knows it.
type Node struct {
	Name            string
	State           string // "active", "frozen", "removed" or "revoked"
	Why             string // of the state, where there is something to say
	Services        []exchange.ServiceName
	Suspended       []exchange.ServiceName // that it may not run until they are resumed, or allowed
	Generation      uint64
	Key             string // fingerprint of its public key
	Rival           string // frozen: fingerprint of the other host's key
	Address         string // where its lanes are dialled
	Joined, Renewed time.Time
	Epoch           uint64   // in which it showed its receipt last; what it had before a later restore may not be known here
	EndedUsers      []string // users of the bus, by public nkey, of hosts that were revoked under this name
}

func (r *NodeRecord) node() Node {
	n := Node{
		Name: r.GetNode(), Why: r.GetWhy(), Generation: r.GetGeneration(), Key: fingerprint(r.GetPublicKey()), Address: r.GetAddress(),
		Joined: time.UnixMilli(r.GetJoinedUnixMs()), Renewed: time.UnixMilli(r.GetRenewedUnixMs()), Epoch: r.GetEpoch(),
		EndedUsers: r.GetEndedUsers(),
	}
	n.Services, _ = parseServices(r.GetServices()) // they were checked when they were stored
	n.Suspended, _ = parseServices(r.GetSuspended())
	switch r.GetState() {
	case NodeState_NODE_STATE_FROZEN:
		n.State, n.Rival = "frozen", fingerprint(r.GetRivalKey())
	case NodeState_NODE_STATE_REMOVED:
		n.State = "removed"
		if r.GetRevoked() {
			n.State = "revoked"
		}
	default:
		n.State = "active"
	}
	return n
}

// Node returns one node, or ErrUnknownNode.
func (r *Registrar) Node(ctx context.Context, node string) (Node, error) {
	record, _, err := r.read(ctx, node)
	if err != nil {
		return Node{}, err
	}
	return record.node(), nil
}

// Allow lets a node run one more service. The node gets the certificate when it asks next: it learns of
// the service from its configuration, and asks at once (Identity.Refresh).
func (r *Registrar) Allow(ctx context.Context, node string, service exchange.ServiceName) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		record.allow(service.String())
		_, err := parseServices(record.GetServices())
		return err
	})
}

// Deny takes a service away from a node, also where it is suspended. Certificates that it has stay valid until they end,
// unless they are revoked.
func (r *Registrar) Deny(ctx context.Context, node string, service exchange.ServiceName) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		record.deny(service.String())
		return nil
	})
}

// Suspend takes a service away from a node that may run it, as Deny does, until Resume gives it back.
func (r *Registrar) Suspend(ctx context.Context, node string, service exchange.ServiceName) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		if slices.Contains(record.GetServices(), service.String()) {
			record.deny(service.String())
			record.Suspended = append(record.GetSuspended(), service.String())
			record.Suspended = record.Suspended[max(len(record.Suspended)-maxServices, 0):]
		}
		return nil
	})
}

// Resume lets a node run a service that was suspended, as Allow does, and changes nothing where none was.
func (r *Registrar) Resume(ctx context.Context, node string, service exchange.ServiceName) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		if record.GetState() == NodeState_NODE_STATE_REMOVED || !slices.Contains(record.GetSuspended(), service.String()) {
			return nil
		}
		record.allow(service.String())
		_, err := parseServices(record.GetServices())
		return err
	})
}

// Accept ends a freeze: the host whose key has this fingerprint (Node.Key or Node.Rival; empty: Node.Key)
// goes on, and the other is refused as old from then on.
func (r *Registrar) Accept(ctx context.Context, node, key string) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		if record.GetState() != NodeState_NODE_STATE_FROZEN {
			return fmt.Errorf("accept %s: it is not frozen", node)
		}
		switch key {
		case "", fingerprint(record.GetPublicKey()):
		case fingerprint(record.GetRivalKey()):
			record.PublicKey = record.GetRivalKey()
		default:
			return fmt.Errorf("accept %s: no host of this node has a key %s; it is %s or %s", node, key,
				fingerprint(record.GetPublicKey()), fingerprint(record.GetRivalKey()))
		}
		record.Generation++ // above every receipt that either host has
		record.Floor = record.GetGeneration()
		record.PreviousKey, record.RivalKey, record.Why = nil, nil, ""
		record.State = NodeState_NODE_STATE_ACTIVE
		return nil
	})
}

// Remove ends a node: it renews nothing more, and its name can be given to another host with a new token.
// Its record stays, so that its receipts are not believed.
func (r *Registrar) Remove(ctx context.Context, node string) error {
	return r.change(ctx, node, func(record *NodeRecord) error {
		record.State, record.Why, record.RemovedUnixMs = NodeState_NODE_STATE_REMOVED, "removed by an operator", r.cfg.Now().UnixMilli()
		record.PreviousKey, record.RivalKey = nil, nil
		return nil
	})
}

// VerifyNode checks that signature is the node's over payload (Identity.Sign). It accepts the key of the
// generation before as well, since the node may not have read the answer to its renewal yet.
func (r *Registrar) VerifyNode(ctx context.Context, node string, payload, signature []byte) error {
	record, _, err := r.read(ctx, node)
	if err != nil {
		return err
	}
	if record.GetState() == NodeState_NODE_STATE_REMOVED {
		return refuse(ErrRemoved, "%s", node)
	}
	err = verifyECDSA(record.GetPublicKey(), registrationDomain, payload, signature)
	if err != nil && record.GetPreviousKey() != nil {
		err = verifyECDSA(record.GetPreviousKey(), registrationDomain, payload, signature)
	}
	if err != nil {
		return fmt.Errorf("message of node %s: %w", node, err)
	}
	return nil
}

// Allowed reports whether the registry lets a node run a service.
func (r *Registrar) Allowed(ctx context.Context, node string, service exchange.ServiceName) error {
	record, _, err := r.read(ctx, node)
	if err != nil {
		return err
	}
	if record.GetState() == NodeState_NODE_STATE_REMOVED {
		return refuse(ErrRemoved, "%s", node)
	}
	if !slices.Contains(record.GetServices(), service.String()) {
		return notAllowed(node, service.String())
	}
	return nil
}

func notAllowed(node, service string) error {
	return refuse(ErrNotAllowed, "%s may not run %s; allow it with `sennit node allow %s %s`", node, service, node, service)
}

// read returns a node's record and its sequence.
func (r *Registrar) read(ctx context.Context, node string) (*NodeRecord, uint64, error) {
	entry, err := r.cfg.Store.Get(ctx, nodePrefix+snapshot.Escape(node))
	if errors.Is(err, bus.ErrNotFound) {
		return nil, 0, fmt.Errorf("%w: %s; `sennit get nodes` shows those that joined", ErrUnknownNode, node)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the record of node %s: %w", node, err)
	}
	record := &NodeRecord{}
	if err := proto.Unmarshal(entry.Data, record); err != nil {
		return nil, 0, fmt.Errorf("read the record of node %s: %w", node, err)
	}
	return record, entry.Sequence, nil
}

// write stores a node's record where sequence is still its last.
func (r *Registrar) write(ctx context.Context, record *NodeRecord, sequence uint64) error {
	data, err := proto.Marshal(record)
	if err != nil {
		return err
	}
	_, err = r.cfg.Store.Append(ctx, nodePrefix+snapshot.Escape(record.GetNode()), data, sequence)
	return err
}

// change reads, changes and stores a node's record until nobody else was faster.
func (r *Registrar) change(ctx context.Context, node string, change func(*NodeRecord) error) error {
	for attempt := 1; ; attempt++ {
		record, sequence, err := r.read(ctx, node)
		if err != nil {
			return err
		}
		if err := change(record); err != nil {
			return err
		}
		err = r.write(ctx, record, sequence)
		if err == nil || !errors.Is(err, bus.ErrConflict) || attempt == casAttempts {
			return err
		}
	}
}

// report logs an incident and hands it on.
func (r *Registrar) report(incident Incident) {
	r.cfg.Log.Warn(incident.What, "node", incident.Node, "err", incident.Err)
	r.cfg.Report(incident)
}
