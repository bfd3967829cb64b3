package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// firstCall bounds how long a caller waits for the configuration of a service that this node has never
// called.
const firstCall = 5 * time.Second

// deliver takes one verified update into force: the end of the way of a change.
func (n *Node) deliver(u bus.Update) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(u.Refused) > 0 {
		n.unknown(u)
		return
	}
	if err := n.take(u); err != nil {
		// What was in force stays: a snapshot that cannot be used is the controllers' fault, and they hear of it.
		n.unusable.Add(1)
		n.log.Error("configuration is not usable; what was in force before stays", "subject", u.Subject, "err", err)
		n.follower.Applied(u.Subject, u.Version, err.Error())
	} else {
		n.applied.Add(1)
	}
	if !slices.Equal(n.table.Needs(), n.needed) {
		n.follow()
	}
	n.listen()
	close(n.changed) // wakes first callers
	n.changed = make(chan struct{})
}

// unknown hears of configuration that needs a newer node. What was in force stays, but for who may call a service: as long
// as this node cannot enforce that, it lets nobody in, and callers' nodes go to others that can.
func (n *Node) unknown(u bus.Update) {
	names, err := snapshot.ParseSubject(u.Subject)
	if err != nil || names.Kind != snapshot.KindIn || !slices.ContainsFunc(u.Refused, snapshot.GuardsService) {
		return
	}
	service := exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}
	n.admission.close(service)
	n.log.Error("who may call a service is said in a way that this node does not know: nobody is let in (upgrade it)", "service", service.String())
}

func (n *Node) take(u bus.Update) error {
	if u.Subject == snapshot.RosterSubject {
		newer, err := n.identity.UpdateRoster(u.Body)
		if newer {
			n.lanes.Recheck() // somebody may have been revoked
			n.workloadChanged()
		}
		return err
	}
	var body proto.Message
	if !u.Gone {
		var err error
		if body, err = snapshot.Decode(u.Subject, u.Body); err != nil {
			return err
		}
	}
	names, err := snapshot.ParseSubject(u.Subject)
	if err != nil {
		return err
	}
	switch names.Kind {
	case snapshot.KindRevoked:
		list, _ := body.(*snapshot.Revocations) // nil: gone
		news, err := n.identity.UpdateRevocations(u.Version, list.GetRevocations())
		if err != nil {
			return err
		}
		if news {
			n.revoked(list.GetRevocations())
			n.workloadChanged()
		}
	case snapshot.KindOut, snapshot.KindEndpoints, snapshot.KindIn:
		if names.Kind == snapshot.KindIn {
			in, _ := body.(*snapshot.Inbound)
			service := exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}
			if err := n.tls.set(service, in.GetSecured()); err != nil { // before anybody is admitted
				return err
			}
			if err := n.users.set(service, in); err != nil { // before who may call what, which is awaited
				return err
			}
			if err := n.admission.set(service, in); err != nil {
				return err
			}
			if err := n.outsides.set(service, in.GetOutside(), n.local.EgressAllows(service)); err != nil {
				return err
			}
		}
		applied, err := n.table.Apply(u.Subject, u.Version, body)
		for _, a := range applied {
			n.follower.Applied(a.Subject, a.Version, "")
		}
		return err
	case snapshot.KindBundle:
		bundle, _ := body.(*snapshot.Bundle)
		if err := n.bundles.take(bundle); err != nil {
			return err
		}
		n.workloadChanged()
	case snapshot.KindNode:
		if config, ok := body.(*snapshot.NodeConfig); ok {
			n.allowed(config.GetServices())
		}
	}
	n.follower.Applied(u.Subject, u.Version, "")
	return nil
}

// renewingTime is how long lanes of a certificate that was revoked by its serial number stay open, where it makes no
// others: its holder gets another at once, and can go over without losing what runs.
const renewingTime = 500 * time.Millisecond

// A named is a revocation of an identity, a node, or both.
type named struct {
	identity, node string
	issued         int64
}

// revoked closes the lanes of who was revoked: now, where it is by name. n.mu is held.
func (n *Node) revoked(all []*snapshot.Revocation) {
	known := n.named
	n.named = make(map[named]bool)
	now := false
	for _, r := range all {
		if r.GetSerial() == "" {
			one := named{r.GetIdentity(), r.GetNode(), r.GetIssuedUnixMs()}
			n.named[one] = true
			now = now || !known[one]
		}
	}
	if now {
		n.lanes.Recheck()
	}
	time.AfterFunc(renewingTime, n.lanes.Recheck)
}

// allowed compares what the registry lets this node run with the identities that it has.
func (n *Node) allowed(services []string) {
	have := make([]string, 0, len(services))
	for _, s := range n.identity.Services() {
		have = append(have, s.String())
	}
	slices.Sort(have)
	want := slices.Sorted(slices.Values(services))
	if !slices.Equal(have, want) {
		n.identity.Refresh()
	}
}

// declared takes in that what runs on this host, or its health, has changed.
func (n *Node) declared() {
	n.registrar.Wake()
	n.mu.Lock()
	defer n.mu.Unlock() // who reads what is declared last applies it last
	n.follow()
	n.listen()
	n.outsides.allow(n.local.EgressAllows)
	n.workloadChanged()
}

// follow tells the follower what this node needs, where that has changed: itself, what runs here, what is
// called from here, and the instances behind that. n.mu is held.
func (n *Node) follow() {
	if !n.ready {
		return // what was kept says what is needed: forgetting parts of it now would be too early
	}
	subjects := []string{snapshot.RosterSubject, snapshot.RevokedSubject, snapshot.NodeSubject(n.identity.Node())}
	if n.workload != nil {
		subjects = append(subjects, snapshot.BundleSubject)
	}
	for _, in := range n.local.Instances() {
		subjects = append(subjects, snapshot.InSubject(in.Service.Namespace, in.Service.Name))
	}
	for _, l := range n.local.Listeners() {
		subjects = append(subjects, snapshot.OutSubject(l.To.Namespace, l.To.Name, ""))
		if l.As.Namespace != l.To.Namespace {
			subjects = append(subjects, snapshot.OutSubject(l.To.Namespace, l.To.Name, l.As.Namespace))
		}
	}
	n.needed = n.table.Needs()
	subjects = append(subjects, n.needed...)
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	if slices.Equal(subjects, n.followed) {
		return
	}
	for _, old := range n.followed {
		if _, kept := slices.BinarySearch(subjects, old); !kept {
			n.table.Drop(old)
			n.outsides.drop(old)
			n.tls.drop(old)
			n.admission.drop(old)
			n.users.drop(old)
		}
	}
	n.followed = subjects
	n.follower.Follow(subjects)
}

// await waits until a service that was never called from here can be routed to.
func (n *Node) await(ctx context.Context, caller, callee exchange.ServiceName) error {
	ctx, cancel := context.WithTimeout(ctx, firstCall)
	defer cancel()
	for {
		n.mu.Lock()
		changed := n.changed
		n.mu.Unlock()
		if n.table.Ready(caller.Namespace, callee) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("configuration of %s did not come within %s: %w", callee, firstCall, errors.Join(n.conn.Err(), ctx.Err()))
		}
	}
}
