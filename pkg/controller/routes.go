package controller

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeRouteStatuses says in each route's status what became of it. Only the leader does: two controllers that
// disagree for a moment would take turns.
func (c *Controller) writeRouteStatuses(ctx context.Context, in compile.Input, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, r := range in.Routes {
		write := func(s gatewayv1.RouteStatus) any { return gatewayv1.HTTPRouteStatus{RouteStatus: s} }
		if err := c.writeRouteStatus(ctx, api.HTTPRoute, r.ObjectMeta, r.Status.RouteStatus, out.Statuses, write); err != nil {
			return err
		}
	}
	for _, r := range in.GRPC {
		write := func(s gatewayv1.RouteStatus) any { return gatewayv1.GRPCRouteStatus{RouteStatus: s} }
		if err := c.writeRouteStatus(ctx, api.GRPCRoute, r.ObjectMeta, r.Status.RouteStatus, out.GRPC, write); err != nil {
			return err
		}
	}
	for _, r := range in.TLS {
		write := func(s gatewayv1.RouteStatus) any { return gatewayv1.TLSRouteStatus{RouteStatus: s} }
		if err := c.writeRouteStatus(ctx, api.TLSRoute, r.ObjectMeta, r.Status.RouteStatus, out.TLS, write); err != nil {
			return err
		}
	}
	for _, r := range in.TCP {
		write := func(s gatewayv1.RouteStatus) any { return gatewayv1.TCPRouteStatus{RouteStatus: s} }
		if err := c.writeRouteStatus(ctx, api.TCPRoute, r.ObjectMeta, r.Status.RouteStatus, out.TCP, write); err != nil {
			return err
		}
	}
	for _, r := range in.UDP {
		write := func(s gatewayv1.RouteStatus) any { return gatewayv1.UDPRouteStatus{RouteStatus: s} }
		if err := c.writeRouteStatus(ctx, api.UDPRoute, r.ObjectMeta, r.Status.RouteStatus, out.UDP, write); err != nil {
			return err
		}
	}
	return nil
}

// writeRouteStatus stores the status of one route where it changed.
func (c *Controller) writeRouteStatus(ctx context.Context, kind *api.Kind, r metav1.ObjectMeta, stored gatewayv1.RouteStatus, compiled map[types.NamespacedName]gatewayv1.RouteStatus, of func(gatewayv1.RouteStatus) any) error {
	merged, changed := compile.MergeStatus(stored, compiled[types.NamespacedName{Namespace: r.Namespace, Name: r.Name}], metav1.Now())
	if !changed {
		return nil
	}
	if err := c.api.WriteStatus(ctx, kind, r.Namespace, r.Name, string(r.UID), of(merged)); err != nil {
		return fmt.Errorf("status of %s %s/%s: %w", kind.Singular, r.Namespace, r.Name, err)
	}
	return nil
}
