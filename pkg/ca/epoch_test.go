package ca

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A node that learns of a restore shows its receipt by itself, long before its certificates are due, and keeps its key.
// Nodes that had renewed since the backup, and one that had joined since, are what they were.
func TestReceiptIsShownAfterARestore(t *testing.T) {
	for _, beforeJoining := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newClusterAt(t, time.Now)
			backup := c.store.backup()
			i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: time.Now})
			if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
				t.Fatal(err)
			}
			if !beforeJoining {
				backup = c.store.backup()
			}
			if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
				t.Fatal(err)
			}
			key := i.Status().Key
			c.store.restore(backup)

			wire := c.wire("web1")
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = i.Run(ctx, wire)
			}()
			synctest.Wait()
			c.reroster(i, func(r *snapshot.Roster) { r.Epoch = 5 })
			time.Sleep(showSpread)
			synctest.Wait()
			stop()
			<-ended
			node := c.node("web1")
			if node.Epoch != 5 || node.State != "active" || node.Generation != 2 || node.Key != key || i.Status().Key != key {
				t.Errorf("before joining %v: registered as %+v, the node has %+v", beforeJoining, node, i.Status())
			}
			if wire.sent.Load() != 1 || i.unshown() {
				t.Errorf("before joining %v: %d requests; to be shown again: %v", beforeJoining, wire.sent.Load(), i.unshown())
			}
		})
	}
}

// A registry of an older epoch than a node knows of can give it nothing: not a key, nor a service.
func TestOlderEpochIsNotBelieved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	before := i.Status()
	roster := proto.CloneOf(c.authority.roster)
	roster.Epoch = 5 // signed by the same root elsewhere, from a backup of this controller
	newer, err := snapshot.SealRoster(c.authority.rootKey, c.authority.root, roster)
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := i.UpdateRoster(newer); err != nil || !taken {
		t.Fatal(taken, err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("renewed at the older controller: %v", err)
	}
	if err := i.Want(t.Context(), c.wire("web1"), exchange.ServiceName{Namespace: "default", Name: "orders"}); !errors.Is(err, ErrOldEpoch) {
		t.Errorf("certificates of the older controller: %v", err)
	}
	if after := i.Status(); after.Generation != before.Generation || after.Key != before.Key {
		t.Errorf("the node was %+v, and is %+v", before, after)
	}
}
