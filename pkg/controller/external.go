package controller

import (
	"context"
	"fmt"

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
		merged, changed := compile.MergeConditions(e.Status.Conditions, out.External[name], metav1.Now())
		if !changed {
			continue
		}
		if err := c.api.WriteStatus(ctx, api.ExternalServices, e.Namespace, e.Name, string(e.UID), api.ExternalServiceStatus{Conditions: merged}); err != nil {
			return fmt.Errorf("status of externalservice %s: %w", name, err)
		}
	}
	return nil
}
