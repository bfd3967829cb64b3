package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// graph shows who calls whom, once every call of the shop is in it.
func (s *show) graph(ctx context.Context) error {
	s.view.say("The graph of the last ten seconds, as nodes saw it. By hand: sennit graph")
	within, cancel := context.WithTimeout(ctx, slowTime)
	defer cancel()
	for {
		edges, err := s.edges(within)
		if err == nil {
			err = checkGraph(edges)
		}
		switch {
		case err == nil:
			total, failed, _ := s.traffic.counts()
			s.view.draw(edges, total, failed)
			s.view.settle()
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case within.Err() != nil:
			return err
		}
		pauseFor(within, 10*pause)
	}
}

// checkGraph wants every call of the shop, with what answered it after payments moved to v2.
func checkGraph(edges []telemetry.GraphEdge) error {
	for _, want := range []telemetry.GraphEdge{
		{Caller: "shop/customers", Callee: "shop/storefront", Backend: "shop/storefront", Version: "v1"},
		{Caller: "shop/storefront", Callee: "shop/orders", Backend: "shop/orders", Version: "v1"},
		{Caller: "shop/orders", Callee: "shop/payments", Backend: "shop/payments-v2", Version: "v2"},
	} {
		if !slices.ContainsFunc(edges, func(e telemetry.GraphEdge) bool {
			return e.Caller == want.Caller && e.Callee == want.Callee && e.Backend == want.Backend && e.Version == want.Version && e.Rate > 0
		}) {
			return fmt.Errorf("%w: the graph has no call of %s to %s that %s %s answered", ErrNotShown, want.Caller, want.Callee, want.Backend, want.Version)
		}
	}
	return nil
}
