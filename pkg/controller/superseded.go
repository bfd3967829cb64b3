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

// knowSuperseded takes in what was kept of a newer epoch before this start.
func (c *Controller) knowSuperseded() error {
	kept, err := c.authority.Secret(supersededSecret)
	if err != nil || kept == nil {
		return err
	}
	return c.publisher.PublishRoster(kept)
}

// newestEpoch is the newest that this controller has known, its own or one that ended its own.
func (c *Controller) newestEpoch() (uint64, error) {
	kept, err := c.authority.Secret(supersededSecret)
	if err != nil || kept == nil {
		return c.authority.Epoch(), err
	}
	roster, err := snapshot.OpenRoster(c.cfg.Cluster, c.authority.RootHash(), kept)
	if err != nil {
		return 0, fmt.Errorf("read the roster of a newer epoch: %w", err)
	}
	return max(c.authority.Epoch(), roster.GetEpoch()), nil
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
