package ca

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	revokedSubject = registryPrefix + "revoked"

	maxWhy = 256 // bytes that an operator may say to a revocation

	// maxBusUsers is how many users of the bus one host may have: it makes one, and keeps it. Each would have to be ended
	// with it.
	maxBusUsers = 4
	// maxEndedUsers bounds those of hosts that were revoked under one name; the oldest are forgotten, and could ask to
	// renew, which is refused.
	maxEndedUsers = 64
)

// ErrUnknownCertificate is returned for a serial number that no certificate has which was issued here and is valid.
var ErrUnknownCertificate = errors.New("no certificate that is valid has this serial number")

// A Revocation ends certificates: one by its serial number, or those of an identity, of a node, or of an identity on a
// node, that are valid from Issued or earlier on. What is issued later holds.
type Revocation struct {
	Serial, Identity, Node string
	Issued                 time.Time
	Ends                   time.Time // when the last certificate that it concerns has expired, and it is forgotten
	Why                    string
}

func (r *RevocationRecord) revocation() Revocation {
	return Revocation{
		Serial: r.GetSerial(), Identity: r.GetIdentity(), Node: r.GetNode(), Why: r.GetWhy(),
		Issued: time.UnixMilli(r.GetIssuedUnixMs()), Ends: time.UnixMilli(r.GetEndsUnixMs()),
	}
}

// RevokeCertificate revokes the certificate with a serial number, and returns whose it was. Its holder gets another one at
// once: revoke its service or its node where it shall not. It returns ErrUnknownCertificate where there is none.
func (r *Registrar) RevokeCertificate(ctx context.Context, serial, why string) (Issued, error) {
	serial = strings.ToLower(strings.TrimLeft(serial, "0"))
	var found Issued
	err := r.cfg.Authority.IssuedTo(func(one Issued) error {
		if one.Serial == serial {
			found = one
		}
		return nil
	})
	if err != nil {
		return found, err
	}
	if found.Serial == "" {
		return found, fmt.Errorf("revoke certificate %q: %w; `sennit certs` lists those that are", serial, ErrUnknownCertificate)
	}
	return found, r.revoke(ctx, &RevocationRecord{Serial: serial, EndsUnixMs: r.margin(found.NotAfter), Why: why})
}

// RevokeService revokes what a service's certificates say, on one node or, where node is empty, on all. The caller takes
// the service away from these nodes first (Deny, Suspend), else they get other certificates, which hold.
func (r *Registrar) RevokeService(ctx context.Context, service exchange.ServiceName, node, why string) error {
	if node != "" {
		if _, _, err := r.read(ctx, node); err != nil {
			return err
		}
	}
	return r.revoke(ctx, &RevocationRecord{Identity: ServiceID(r.cfg.Authority.TrustDomain(), service), Node: node, Why: why})
}

// RevokeNode ends a node as Remove does, and all that it holds with it. Its name can be given to another host with a new
// join token.
func (r *Registrar) RevokeNode(ctx context.Context, node, why string) error {
	// First, so that nothing is issued behind the revocation.
	err := r.change(ctx, node, func(record *NodeRecord) error {
		record.State, record.Revoked, record.Why = NodeState_NODE_STATE_REMOVED, true, cmp.Or(why, "revoked by an operator")
		record.RemovedUnixMs = r.cfg.Now().UnixMilli()
		record.PreviousKey, record.RivalKey = nil, nil
		record.EndedUsers = append(record.GetEndedUsers(), record.GetBusUsers()...)
		record.EndedUsers = record.EndedUsers[max(len(record.EndedUsers)-maxEndedUsers, 0):]
		record.BusUsers = nil
		return nil
	})
	if err != nil {
		return err
	}
	return r.revoke(ctx, &RevocationRecord{Node: node, Why: why})
}

// Revocations lists those that are in force, those that end first at first.
func (r *Registrar) Revocations(ctx context.Context) ([]Revocation, error) {
	list, _, err := r.readRevocations(ctx)
	if err != nil {
		return nil, err
	}
	return inForce(list.GetRevocations(), r.cfg.Now()), nil
}

func inForce(records []*RevocationRecord, now time.Time) (all []Revocation) {
	for _, one := range records {
		if one := one.revocation(); now.Before(one.Ends) {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b Revocation) int { return a.Ends.Compare(b.Ends) })
	return all
}

// Published is what nodes are told of revocations.
func Published(all []Revocation) *snapshot.Revocations {
	told := &snapshot.Revocations{}
	for _, one := range all {
		r := &snapshot.Revocation{Serial: one.Serial, Identity: one.Identity, Node: one.Node, EndsUnixMs: one.Ends.UnixMilli()}
		if one.Serial == "" {
			r.IssuedUnixMs = one.Issued.UnixMilli()
		}
		told.Revocations = append(told.Revocations, r)
	}
	return told
}

// revoke stores a revocation, in the place of one of the same things, and forgets those that have ended.
func (r *Registrar) revoke(ctx context.Context, revocation *RevocationRecord) error {
	now := r.cfg.Now()
	revocation.Why = revocation.Why[:min(len(revocation.Why), maxWhy)]
	if revocation.GetSerial() == "" {
		// All that was issued, and what is at this moment by who has not read the revocation yet, begins earlier (backdate),
		// but for what was issued behind another revocation: see below. What is issued from now on begins in this second.
		revocation.IssuedUnixMs = now.Truncate(time.Second).Add(-time.Second).UnixMilli()
		ends, err := r.lastEnd(now)
		if err != nil {
			return err
		}
		revocation.EndsUnixMs = r.margin(ends)
	}
	for attempt := 1; ; attempt++ {
		list, sequence, err := r.readRevocations(ctx)
		if err != nil {
			return err
		}
		for _, old := range list.GetRevocations() {
			if revocation.concerns(old) && old.GetIssuedUnixMs() >= revocation.GetIssuedUnixMs() {
				revocation.IssuedUnixMs = old.GetIssuedUnixMs() + time.Second.Milliseconds()
			}
		}
		list.Revocations = slices.DeleteFunc(list.GetRevocations(), func(old *RevocationRecord) bool {
			same := old.GetSerial() == revocation.GetSerial() && old.GetIdentity() == revocation.GetIdentity() && old.GetNode() == revocation.GetNode()
			return same || old.GetEndsUnixMs() < now.UnixMilli()
		})
		if len(list.Revocations) >= maxRevocations {
			return fmt.Errorf("%d revocations are in force, at most %d can be; `sennit revoke list` shows them and when they end", len(list.Revocations), maxRevocations)
		}
		list.Revocations = append(list.Revocations, revocation)
		data, err := proto.Marshal(list)
		if err == nil {
			_, err = r.cfg.Store.Append(ctx, revokedSubject, data, sequence)
		}
		if err == nil || !errors.Is(err, bus.ErrConflict) || attempt == casAttempts {
			return err
		}
	}
}

// concerns reports whether both revoke certificates by name, and may mean the same ones.
func (r *RevocationRecord) concerns(other *RevocationRecord) bool {
	may := func(a, b string) bool { return a == b || a == "" || b == "" }
	return r.GetSerial() == "" && other.GetSerial() == "" && may(r.GetIdentity(), other.GetIdentity()) && may(r.GetNode(), other.GetNode())
}

// lastEnd is when the last of all certificates that are or may be issued has expired.
func (r *Registrar) lastEnd(now time.Time) (time.Time, error) {
	last := now.Add(r.cfg.Authority.cfg.MaxTTL)
	err := r.cfg.Authority.IssuedTo(func(one Issued) error { // by a controller that let them live longer
		if one.NotAfter.After(last) {
			last = one.NotAfter
		}
		return nil
	})
	return last, err
}

// margin is when a revocation ends, in Unix milliseconds: hosts' clocks may be late.
func (r *Registrar) margin(ends time.Time) int64 { return ends.Add(maxSkew).UnixMilli() }

func (r *Registrar) readRevocations(ctx context.Context) (*RevocationList, uint64, error) {
	entry, err := r.cfg.Store.Get(ctx, revokedSubject)
	if errors.Is(err, bus.ErrNotFound) {
		return &RevocationList{}, 0, nil
	}
	list := &RevocationList{}
	if err == nil {
		err = proto.Unmarshal(entry.Data, list)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read what is revoked: %w", err)
	}
	return list, entry.Sequence, nil
}

// revoked is what certificates must not be issued as.
func (r *Registrar) revoked(ctx context.Context) (*revokedSet, error) {
	list, _, err := r.readRevocations(ctx)
	if err != nil {
		return nil, err
	}
	return newRevokedSet(list.GetRevocations()), nil
}

// useBus notes a user of the bus that the node has, so that it can be ended.
func (r *NodeRecord) useBus(user string) error {
	switch {
	case !nkeys.IsValidPublicUserKey(user):
		return refuse(ErrBadRequest, "%q is not the public key of a user of the bus", user)
	case slices.Contains(r.GetEndedUsers(), user):
		return refuse(ErrRemoved, "the user of the bus is one of a host that was revoked; remove this host's state directory, and join again with a new token")
	case slices.Contains(r.GetBusUsers(), user):
		return nil
	case len(r.GetBusUsers()) >= maxBusUsers:
		return refuse(ErrBadRequest, "%s has had %d users of the bus; remove its state directory, and join again after `sennit node remove %s`", r.GetNode(), maxBusUsers, r.GetNode())
	}
	r.BusUsers = append(r.GetBusUsers(), user)
	return nil
}
