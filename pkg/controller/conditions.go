package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// writeConditions says in the status of each document of which conditions are all that is said what became of it. Only
// the leader does.
func (c *Controller) writeConditions(ctx context.Context, in compile.Input, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	return errors.Join(
		c.writeBackendTLS(ctx, in, out),
		write(ctx, c, api.QuotaPolicies, in.Quotas, out.Quotas, func(p *api.QuotaPolicy) []metav1.Condition { return p.Status.Conditions }),
		write(ctx, c, api.ExternalServices, in.External, out.External, func(e *api.ExternalService) []metav1.Condition { return e.Status.Conditions }),
		write(ctx, c, api.ResiliencePolicies, in.Resilience, out.Resilience, func(p *api.ResiliencePolicy) []metav1.Condition { return p.Status.Conditions }),
		write(ctx, c, api.FaultPolicies, in.Faults, out.Faults, func(p *api.FaultPolicy) []metav1.Condition { return p.Status.Conditions }),
		write(ctx, c, api.LoadBalancingPolicies, in.Balancing, out.Balancing, func(p *api.LoadBalancingPolicy) []metav1.Condition { return p.Status.Conditions }),
		write(ctx, c, api.FederatedTrustDomains, in.Foreign, out.Foreign, func(f *api.FederatedTrustDomain) []metav1.Condition { return f.Status.Conditions }),
		write(ctx, c, api.AuthorizationPolicies, in.Authorization, out.Authorization, func(p *api.AuthorizationPolicy) []metav1.Condition { return p.Status.Conditions }),
		write(ctx, c, api.AuthenticationPolicies, in.Authentication, out.Authentication, func(p *api.AuthenticationPolicy) []metav1.Condition { return p.Status.Conditions }),
	)
}

// write says of each document of a kind what was compiled, where that is not what its status says now.
func write[T metav1.Object](ctx context.Context, c *Controller, k *api.Kind, documents []T, compiled map[types.NamespacedName][]metav1.Condition, now func(T) []metav1.Condition) error {
	for _, d := range documents {
		name := types.NamespacedName{Namespace: d.GetNamespace(), Name: d.GetName()}
		merged, changed := compile.MergeConditions(now(d), compiled[name], metav1.Now())
		if !changed {
			continue
		}
		status := map[string]any{"conditions": merged}
		if err := c.api.WriteStatus(ctx, k, name.Namespace, name.Name, string(d.GetUID()), status); err != nil {
			return fmt.Errorf("status of %s %s: %w", strings.ToLower(k.Name), name, err)
		}
	}
	return nil
}
