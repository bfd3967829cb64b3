package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeAuthorizationStatuses says in each AuthorizationPolicy's status what became of it. Only the leader does.
func (c *Controller) writeAuthorizationStatuses(ctx context.Context, policies []*api.AuthorizationPolicy, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, p := range policies {
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		err := c.writeConditions(ctx, api.AuthorizationPolicies, p, p.Status.Conditions, out.Authorization[name], func(merged []metav1.Condition) any {
			return api.AuthorizationPolicyStatus{Conditions: merged}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
