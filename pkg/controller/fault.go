package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeFaultStatuses says in each FaultPolicy's status what became of it. Only the leader does.
func (c *Controller) writeFaultStatuses(ctx context.Context, policies []*api.FaultPolicy, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, p := range policies {
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		err := c.writeConditions(ctx, api.FaultPolicies, p, p.Status.Conditions, out.Faults[name], func(merged []metav1.Condition) any {
			return api.FaultPolicyStatus{Conditions: merged}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
