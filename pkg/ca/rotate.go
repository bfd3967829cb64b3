package ca

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	// Certificates are rotated at a random point between these shares of their life, so that hosts which
	// joined together do not renew together, and a failure leaves time to repeat.
	rotateFrom = 0.5
	rotateTo   = 0.8

	retryFirst = time.Second
	retryMost  = 5 * time.Minute

	// showSpread is how long nodes wait at most, each as long as it likes, to show their receipts after a restore.
	showSpread = 2 * time.Second

	// wakeMost bounds one sleep. A timer does not run while a host is suspended; the wall clock does.
	wakeMost = 30 * time.Second

	// requestTimeout bounds one request to renew.
	requestTimeout = 30 * time.Second
)

// rotationPoint draws when certificates that live from issued to ends are rotated.
func rotationPoint(issued, ends time.Time) time.Time {
	life := ends.Sub(issued)
	if life <= 0 {
		return issued
	}
	share := rotateFrom + rand.Float64()*(rotateTo-rotateFrom)
	return issued.Add(time.Duration(share * float64(life)))
}

// retryDelay is the pause before the n-th repetition (from 1): doubling, at most retryMost, and between half
// and all of it, at random.
func retryDelay(n int) time.Duration {
	delay := retryMost
	if n < 16 {
		delay = min(retryFirst<<(n-1), retryMost)
	}
	return delay/2 + rand.N(delay/2+1)
}

// Run keeps the certificates fresh until ctx ends, and returns nil then. It renews when the rotation point
// has come, when Refresh is called, when the registry allows a service that the node has no certificate of, when the
// roster asks for it since the authority is rotated, when a controller was restored, which may not know what this node's receipt says, and repeats what fails. What is held stays in use until it ends, whatever fails.
func (i *Identity) Run(ctx context.Context, conn Requester) error {
	failures := 0
	var notBefore time.Time // of the next request, after a failure
	asked := false
	for {
		now := i.wall()
		due := i.rotates()
		if i.unshown() {
			due = i.shows(now)
		}
		if at, recalled := i.recalled(now); recalled && at.Before(due) {
			due = at
		}
		if asked || len(i.missing()) > 0 || i.current().GetPendingKey() != nil {
			due = now
		}
		if most := now.Add(retryMost); notBefore.After(most) { // the clock was set back since
			notBefore = most
		}
		if due.Before(notBefore) {
			due = notBefore
		}
		if wait := due.Sub(now); wait > 0 {
			timer := time.NewTimer(min(wait, wakeMost))
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-i.refresh:
				asked = true
				timer.Stop()
			case <-i.woken:
				timer.Stop()
			case <-timer.C:
			}
			continue
		}
		err := i.request(ctx, conn, !now.Before(i.rotates()))
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			asked, failures, notBefore = false, 0, time.Time{}
			continue
		}
		failures++
		notBefore = i.wall().Add(retryDelay(failures))
		i.cfg.Log.Warn("certificates could not be renewed", "node", i.Node(), "err", err, "again", notBefore.UTC().Format(time.RFC3339))
	}
}

// wall is the time without the monotonic clock, which stands still while a host is suspended.
func (i *Identity) wall() time.Time { return i.cfg.Now().Round(0) }

// rotates is the rotation point by this host's clock, which may be wrong: the point is by the controller's, and would else have
// passed again after each renewal, or not come before the certificates end.
func (i *Identity) rotates() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rotatesAt.Round(0).Add(i.skew)
}

// unshown reports whether the receipt is of before the restore that the newest roster tells of.
func (i *Identity) unshown() bool {
	believed := i.believed.Load()
	return believed != nil && i.receipt().GetEpoch() < believed.roster.GetEpoch()
}

// shows is when the receipt is shown to a registry that was restored; now, where the clock was set back since that was drawn.
func (i *Identity) shows(now time.Time) time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.showAt.Sub(now) > showSpread {
		return now
	}
	return i.showAt
}

// maxRecallSpread bounds what a roster can make a node wait.
const maxRecallSpread = 24 * time.Hour

// recalled reports whether the roster asks for certificates that were issued later than those held, and at which point
// this node asks for them, which it draws once.
func (i *Identity) recalled(now time.Time) (at time.Time, recalled bool) {
	believed := i.believed.Load()
	if believed == nil || i.receipt().GetIssuedUnixMs() >= believed.roster.GetRenewBeforeUnixMs() {
		return time.Time{}, false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	before, spread := believed.roster.GetRenewBeforeUnixMs(), time.Duration(believed.roster.GetRenewSpreadMs())*time.Millisecond
	most := min(max(spread, 0), maxRecallSpread)
	if i.recall.before != before || i.recall.spread != spread || i.recall.at.Sub(now) > most { // the clock was set back
		i.recall.before, i.recall.spread = before, spread
		i.recall.at = now.Add(rand.N(most + 1))
	}
	return i.recall.at, true
}

// missing are services that the registry allows and that the node has no certificate of.
func (i *Identity) missing() []exchange.ServiceName {
	held := *i.certificates.Load()
	return slices.DeleteFunc(i.Services(), func(s exchange.ServiceName) bool { return held[s] != nil })
}

// Refresh makes Run ask for certificates now, without a new key: the node's configuration says that it may
// run another service. It does not wait.
func (i *Identity) Refresh() {
	select {
	case i.refresh <- struct{}{}:
	default:
	}
}

// Renew asks once for a new key of the node and new certificates, and returns when they are in use.
func (i *Identity) Renew(ctx context.Context, conn Requester) error {
	return i.request(ctx, conn, true)
}

// Want asks once for the certificate of a service, without a new key. It returns ErrNotAllowed where the
// registry does not allow the node to run it.
func (i *Identity) Want(ctx context.Context, conn Requester, service exchange.ServiceName) error {
	if err := i.request(ctx, conn, false, service); err != nil {
		return err
	}
	if !slices.Contains(i.Services(), service) {
		return notAllowed(i.Node(), service.String())
	}
	return nil
}

func (i *Identity) request(ctx context.Context, conn Requester, rotate bool, extra ...exchange.ServiceName) error {
	i.renewing.Lock()
	defer i.renewing.Unlock()
	if i.current().GetReceipt() == nil {
		return ErrNotJoined
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := i.renew(ctx, conn, rotate, extra)
	if err == nil && len(i.missing()) > 0 { // the receipt allows more than the node knew
		err = i.renew(ctx, conn, false, nil)
	}
	if err != nil {
		err = fmt.Errorf("renew the identity of node %s: %w", i.Node(), err)
	}
	i.mu.Lock()
	i.lastErr = err
	i.mu.Unlock()
	return err
}

// renew asks with the key that the registry has, for that key or for its successor. A successor that was
// made before, and whose answer was never stored, is asked for again.
func (i *Identity) renew(ctx context.Context, conn Requester, rotate bool, extra []exchange.ServiceName) error {
	state := i.current()
	current, err := i.openKey(state.GetKey())
	if err != nil {
		return err
	}
	next := current
	if rotate || state.GetPendingKey() != nil {
		if state, next, err = i.successor(); err != nil {
			return err
		}
	}
	services := i.Services()
	for _, service := range extra {
		if !slices.Contains(services, service) {
			services = append(services, service)
		}
	}
	wanted, keys, err := i.want(state, next, services)
	if err != nil {
		return err
	}
	request, err := proto.Marshal(&RenewRequest{Cluster: state.GetCluster(), Receipt: state.GetReceipt(), Wanted: wanted})
	if err != nil {
		return err
	}
	signed := &SignedRequest{Request: request}
	if signed.CurrentSignature, err = signECDSA(current, renewDomain, request); err != nil {
		return err
	}
	if signed.NewSignature, err = signECDSA(next, renewDomain, request); err != nil {
		return err
	}
	payload, err := proto.Marshal(signed)
	if err != nil {
		return err
	}
	data, err := conn.Request(ctx, bus.VerbRenew, payload)
	if err != nil {
		return fmt.Errorf("ask a controller: %w", err)
	}
	return i.accept(next, keys, request, data)
}

// successor returns the node's next key, which is on disk when it returns.
func (i *Identity) successor() (*NodeIdentity, *nodeKey, error) {
	i.writing.Lock()
	defer i.writing.Unlock()
	state := i.current()
	if state.GetPendingKey() != nil {
		key, err := i.openKey(state.GetPendingKey())
		return state, key, err
	}
	key, err := i.newKey(i.cfg.KeysInTPM || inTPM(state.GetKey()))
	if err != nil {
		return nil, nil, err
	}
	next := cloneState(state)
	next.PendingKey = key.stored
	return next, key, i.store(next)
}
