package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// supersededSecret is where the authority keeps the roster of a newer epoch, so that this controller does not lead
// after a restart either. It is not what this controller signs with.
const supersededSecret = "superseding-roster"

// errSuperseded is what a controller answers whose cluster goes on elsewhere.
var errSuperseded = errors.New("this controller does not lead any more: another one was restored into a newer epoch, and nodes follow that one")

// superseded notes that a newer epoch has begun, with the roster that the root signed (bus.PublisherConfig).
func (c *Controller) superseded(epoch uint64, roster []byte) {
	c.log.Error("another controller was restored into a newer epoch; this one changes nothing any more: stop it, and move its state directory away", "epoch", c.authority.Epoch(), "newer", epoch)
	if err := c.authority.PutSecret(supersededSecret, roster); err != nil {
		c.log.Error("that a newer epoch has begun cannot be kept", "err", err)
	}
}

// showed takes in what a roster proves that a node shows (bus.PublisherConfig): this controller may have been restored from a
// backup of before the root's last word.
func (c *Controller) showed(roster []byte) {
	withdrawn, number := c.authority.Shown(roster)
	if withdrawn {
		c.withdrawn.Store(true) // rotate takes the step
		return
	}
	for known := c.delegation.Load(); number > known && !c.delegation.CompareAndSwap(known, number); known = c.delegation.Load() {
	}
}

// delegationEnded warns where nodes believe a later word of the root than this controller has.
func (c *Controller) delegationEnded() string {
	if c.delegation.Load() <= c.authority.Delegation() {
		return ""
	}
	return "the root, whose key is kept elsewhere, has let this controller sign rosters again since the backup that it was restored from, and nodes believe none by what it had then: ask the root with `sennit ca request`"
}

// superseding is what was kept of a newer epoch; nil where nothing was, or the root, whose key is kept elsewhere, has let this
// controller sign rosters since.
func (c *Controller) superseding() (raw []byte, roster *snapshot.Roster, err error) {
	raw, err = c.authority.Secret(supersededSecret)
	if err != nil || raw == nil {
		return nil, nil, err
	}
	if roster, err = snapshot.OpenRoster(c.cfg.Cluster, c.authority.RootHash(), raw); err != nil {
		return nil, nil, fmt.Errorf("read the roster of a newer epoch: %w", err)
	}
	if roster.GetDelegation() < c.authority.Delegation() {
		return nil, nil, nil
	}
	return raw, roster, nil
}

// knowSuperseded takes in what was kept of a newer epoch before this start.
func (c *Controller) knowSuperseded() error {
	raw, _, err := c.superseding()
	if err != nil || raw == nil {
		return err
	}
	return c.publisher.PublishRoster(raw)
}

// newestEpoch is the newest that this controller has known, its own or one that ended its own.
func (c *Controller) newestEpoch() (uint64, error) {
	_, roster, err := c.superseding()
	return max(c.authority.Epoch(), roster.GetEpoch()), err
}

// ended returns errSuperseded where this controller's epoch has ended.
func (c *Controller) ended() error {
	if newer := c.publisher.Superseded(); newer > 0 {
		return fmt.Errorf("%w (its epoch is %d, the newer one %d; stop this controller)", errSuperseded, c.authority.Epoch(), newer)
	}
	return nil
}

// guarded answers nodes while this controller's epoch lasts. Afterwards it tells them nothing: what it would let join,
// renew or spend, the newer one does not know of.
func (c *Controller) guarded(handler bus.Handler) bus.Handler {
	return func(ctx context.Context, node string, request []byte) ([]byte, error) {
		if err := c.ended(); err != nil {
			return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_UNAVAILABLE, Message: err.Error()}
		}
		return handler(ctx, node, request)
	}
}

// hook is told of every change of a document, before it is stored and after (apiserver.Config).
func (c *Controller) hook(ctx context.Context, change apiserver.Change) error {
	if err := c.ended(); err != nil && change.Sequence == 0 && change.Err == nil {
		return err
	}
	return c.recorder.hook(ctx, change)
}

// shown says whether what a node proves of itself is known in this epoch (bus.PublisherConfig). Nothing more is to come
// of one that was removed or is frozen.
func (c *Controller) shown(node string) bool {
	if c.authority.Epoch() == 0 || c.members.wasRemoved(node) {
		return true
	}
	m, ok := c.members.list()[node]
	return ok && (m.Epoch >= c.authority.Epoch() || m.State == "frozen")
}
