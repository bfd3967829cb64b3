package controller

import (
	"context"
	"time"
)

const (
	// gatherQuiet is how long after the last news of nodes a restored controller begins to publish. A node that lost its
	// connection is back within ten seconds, and says within five what runs on it.
	gatherQuiet = 15 * time.Second
	// gatherMost is when it begins although nodes that the backup knows have not come.
	gatherMost = 40 * time.Second
)

// gather holds back what is published after a restore, until nodes have shown what the backup does not know: those that
// joined or were allowed more after it was taken, and what runs on them. Published before, all of that would be gone
// for its callers. Nodes go on with what they have meanwhile.
func (c *Controller) gather(ctx context.Context) error {
	if !c.gathering.Load() {
		return nil
	}
	if c.awaitLeading(ctx, true) != nil {
		return nil
	}
	if err := c.ready(ctx); err != nil {
		return nil // ctx has ended
	}
	if !c.publisher.Begun() {
		c.log.Info("this controller was restored, and waits for what nodes show before it publishes", "epoch", c.authority.Epoch(), "at most", gatherMost)
		c.awaitNodes(ctx)
	}
	c.gathering.Store(false)
	c.changed()
	return nil
}

// awaitNodes returns when every node of the backup has come and there is no more news, or after gatherMost.
func (c *Controller) awaitNodes(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	news, last := began, uint64(0)
	for {
		if now := c.members.version.At() + c.catalogue.Sequence(); now != last {
			news, last = time.Now(), now
		}
		missing := 0
		for node := range c.members.list() {
			if !c.shown(node) {
				missing++
			}
		}
		if missing == 0 && time.Since(news) >= gatherQuiet || time.Since(began) >= gatherMost {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
