package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/bench/peer"
)

// alone starts a mesh of Sennit's for what is measured of nobody else, hands it to use, and ends it. Where Sennit is
// left out, nothing happens.
func (b *bench) alone(ctx context.Context, workload string, grid peer.Grid, use func(*peer.System) error) error {
	if !b.has(peer.Sennit) {
		return nil
	}
	direct, err := b.startDirect(ctx, b.dir)
	if err != nil {
		return err
	}
	defer func() { _ = direct.Stop() }() // as in memory
	return b.fresh(ctx, peer.StartSennit(peer.Variant{Grid: grid}), workload, func(s *peer.System) error {
		if err := use(s); err != nil {
			return fmt.Errorf("%s: %w", workload, err)
		}
		return nil
	})
}

// has reports whether a system is to be measured.
func (b *bench) has(name string) bool {
	return slices.ContainsFunc(b.starters, func(s peer.Starter) bool { return s.Name == name })
}
