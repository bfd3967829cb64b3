package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeBalancingStatuses says in each LoadBalancingPolicy's status what became of it. Only the leader does.
func (c *Controller) writeBalancingStatuses(ctx context.Context, policies []*api.LoadBalancingPolicy, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, p := range policies {
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		err := c.writeConditions(ctx, api.LoadBalancingPolicies, p, p.Status.Conditions, out.Balancing[name], func(merged []metav1.Condition) any {
			return api.LoadBalancingPolicyStatus{Conditions: merged}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
