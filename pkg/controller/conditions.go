package controller

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeConditions says in a document's status what became of it, where that is not what it says now. status makes the
// status of all conditions.
func (c *Controller) writeConditions(ctx context.Context, k *api.Kind, of metav1.Object, now, compiled []metav1.Condition, status func(merged []metav1.Condition) any) error {
	merged, changed := compile.MergeConditions(now, compiled, metav1.Now())
	if !changed {
		return nil
	}
	if err := c.api.WriteStatus(ctx, k, of.GetNamespace(), of.GetName(), string(of.GetUID()), status(merged)); err != nil {
		name := of.GetName()
		if k.Namespaced {
			name = of.GetNamespace() + "/" + name
		}
		return fmt.Errorf("status of %s %s: %w", strings.ToLower(k.Name), name, err)
	}
	return nil
}
