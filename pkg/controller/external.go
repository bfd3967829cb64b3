package controller

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeExternalStatuses says in each ExternalService's status what became of it. Only the leader does.
func (c *Controller) writeExternalStatuses(ctx context.Context, external []*api.ExternalService, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, e := range external {
		name := types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
		err := c.writeConditions(ctx, api.ExternalServices, e, e.Status.Conditions, out.External[name], func(merged []metav1.Condition) any {
			return api.ExternalServiceStatus{Conditions: merged}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
