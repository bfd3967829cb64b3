package controller

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// bundleTick is how often keys of JWT-SVIDs are looked at. Theirs are the hours.
const bundleTick = 10 * time.Second

// currentBundle is whom processes may believe at this moment, beside the roots of the roster.
func (c *Controller) currentBundle() (*snapshot.Bundle, error) {
	keys, err := c.authority.JWTKeys()
	if err != nil {
		return nil, err
	}
	foreign, err := foreignBundles(c.federation.Bundles())
	if err != nil {
		return nil, err
	}
	return &snapshot.Bundle{JwtKeys: keys, Foreign: foreign}, nil
}

// addBundle adds the bundle to what is published.
func (c *Controller) addBundle(bodies map[string]bus.Body) error {
	bundle, err := c.currentBundle()
	if err != nil {
		return err
	}
	return encode(bodies, map[string]proto.Message{snapshot.BundleSubject: bundle})
}

// watchBundle has the bundle published anew when another key signs, until ctx ends.
func (c *Controller) watchBundle(ctx context.Context) error {
	tick := time.NewTicker(bundleTick)
	defer tick.Stop()
	var last *snapshot.Bundle
	for {
		bundle, err := c.currentBundle()
		switch {
		case err != nil:
			c.log.Error("the keys of JWT-SVIDs cannot be read", "err", err)
		case last != nil && !proto.Equal(last, bundle):
			c.changed()
		}
		last = bundle
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
