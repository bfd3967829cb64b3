package controller

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeBackendTLS says in each BackendTLSPolicy's status what became of it.
func (c *Controller) writeBackendTLS(ctx context.Context, in compile.Input, out compile.Output) error {
	for _, p := range in.BackendTLS {
		merged, changed := compile.MergePolicyStatus(p.Status, out.BackendTLS[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}], metav1.Now())
		if !changed {
			continue
		}
		if err := c.api.WriteStatus(ctx, api.BackendTLSPolicy, p.Namespace, p.Name, string(p.UID), merged); err != nil {
			return fmt.Errorf("status of backendtlspolicy %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	return nil
}
