package controller

import (
	"context"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// gatewayClass is the class that always exists.
func gatewayClass() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": api.GatewayClass.APIVersion(), "kind": api.GatewayClass.Name, "metadata": map[string]any{"name": "sennit"},
		"spec": map[string]any{
			"controllerName": string(compile.GatewayControllerName),
			"description":    "Gateways that nodes run, as their services.d says",
		},
	}}
}

// writeGatewayStatuses says in the status of each Gateway, of each ListenerSet, and of each class that is Sennit's, what
// became of it.
func (c *Controller) writeGatewayStatuses(ctx context.Context, in compile.Input, out compile.Output) error {
	if !c.publisher.Leading() {
		return nil
	}
	for _, class := range in.Classes {
		compiled, ours := out.Classes[class.Name]
		if !ours {
			continue
		}
		if merged, changed := compile.MergeClassStatus(class.Status, compiled, metav1.Now()); changed {
			if err := c.api.WriteStatus(ctx, api.GatewayClass, "", class.Name, string(class.UID), merged); err != nil {
				return fmt.Errorf("status of gatewayclass %s: %w", class.Name, err)
			}
		}
	}
	for _, g := range in.Gateways {
		compiled, ours := out.Gateways[types.NamespacedName{Namespace: g.Namespace, Name: g.Name}]
		if !ours {
			continue
		}
		if merged, changed := compile.MergeGatewayStatus(g.Status, compiled, metav1.Now()); changed {
			if err := c.api.WriteStatus(ctx, api.Gateway, g.Namespace, g.Name, string(g.UID), merged); err != nil {
				return fmt.Errorf("status of gateway %s/%s: %w", g.Namespace, g.Name, err)
			}
		}
	}
	for _, s := range in.ListenerSets {
		compiled, ours := out.ListenerSets[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}]
		if !ours {
			continue
		}
		if merged, changed := compile.MergeListenerSetStatus(s.Status, compiled, metav1.Now()); changed {
			if err := c.api.WriteStatus(ctx, api.ListenerSet, s.Namespace, s.Name, string(s.UID), merged); err != nil {
				return fmt.Errorf("status of listenerset %s/%s: %w", s.Namespace, s.Name, err)
			}
		}
	}
	return nil
}

// gatewayReports tells operators of the Gateways, as their statuses have it.
func (c *Controller) gatewayReports(ctx context.Context) ([]report.Gateways, error) {
	documents, _, err := c.api.Documents(ctx, api.Gateway)
	if err != nil {
		return nil, err
	}
	all := make([]report.Gateways, 0, len(documents))
	for _, u := range documents {
		var g gatewayv1.Gateway
		if err := api.As(u, &g); err != nil {
			return nil, err
		}
		one := report.Gateways{Name: g.Namespace + "/" + g.Name, Class: string(g.Spec.GatewayClassName), Listeners: []string{}, Addresses: []string{}}
		for _, a := range g.Status.Addresses {
			one.Addresses = append(one.Addresses, a.Value)
		}
		routes := map[gatewayv1.SectionName]int32{}
		for _, l := range g.Status.Listeners {
			routes[l.Name] = l.AttachedRoutes
		}
		for _, l := range g.Spec.Listeners {
			one.Listeners = append(one.Listeners, fmt.Sprintf("%s:%d/%s(%d)", l.Name, l.Port, strings.ToLower(string(l.Protocol)), routes[l.Name]))
			one.Routes += int(routes[l.Name])
		}
		one.State = "not looked at"
		for _, condition := range g.Status.Conditions {
			if condition.Type == string(gatewayv1.GatewayConditionProgrammed) {
				if one.State = condition.Reason; condition.Status != metav1.ConditionTrue {
					one.Problem = condition.Message
				}
			}
		}
		all = append(all, one)
	}
	return all, nil
}
