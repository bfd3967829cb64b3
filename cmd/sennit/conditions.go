package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

// statusTimeout is how long apply waits for the controller's word on what it applied, for all documents together.
const statusTimeout = 10 * time.Second

var errSettled = errors.New("the status is of this generation")

// warnOfStatus says what the controller finds wrong with the routes and policies that were applied: references to nothing and the
// like, which are no errors. A controller that is busy has its word later; `sennit get` shows it.
func (a *apply) warnOfStatus(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for i, d := range a.docs {
		if !d.Kind.HasStatus || d.Kind.Core { // the controller says nothing of a Service
			continue
		}
		status, err := settledStatus(ctx, a.client, d.target(), a.results[i].GetGeneration())
		if err != nil {
			a.client.Warn(fmt.Sprintf("%s: the controller has not said yet what it makes of it (look later: sennit get %s %s -n %s)",
				d.reference(), d.Kind.Plural, d.Written.GetName(), d.Written.GetNamespace()))
			continue
		}
		for _, text := range conditionWarnings(status) {
			a.client.Warn(d.reference() + ": " + text)
		}
	}
}

// A documentStatus is what controllers say of a document: of a route at each of its parents, of a BackendTLSPolicy at what
// leads to its targets, of others as a whole.
type documentStatus struct {
	gatewayv1.RouteStatus  `json:",inline"`
	gatewayv1.PolicyStatus `json:",inline"`

	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// settledStatus waits until a document's status is of a generation, or of a later one.
func settledStatus(ctx context.Context, c *client.Client, t client.Target, generation int64) (status documentStatus, err error) {
	err = c.Watch(ctx, t, "", false, func(e client.Event) error {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(e.Object); err != nil {
			return fmt.Errorf("read the status: %w", err)
		}
		data, err := json.Marshal(u.Object["status"])
		if err != nil {
			return fmt.Errorf("read the status: %w", err)
		}
		status = documentStatus{}
		if err := json.Unmarshal(data, &status); err != nil {
			return fmt.Errorf("read the status: %w", err)
		}
		conditions := status.Conditions
		for _, p := range status.Parents {
			conditions = append(conditions, p.Conditions...)
		}
		for _, p := range status.Ancestors {
			conditions = append(conditions, p.Conditions...)
		}
		if len(conditions) == 0 || slices.ContainsFunc(conditions, func(c metav1.Condition) bool { return c.ObservedGeneration < generation }) {
			return nil
		}
		return errSettled
	})
	if errors.Is(err, errSettled) {
		return status, nil
	}
	if err == nil {
		err = errors.New("the watch ended")
	}
	return status, err
}

// conditionWarnings lists what a status says is not as it should be.
func conditionWarnings(status documentStatus) []string {
	var out []string
	for _, cond := range status.Conditions {
		if cond.Status != metav1.ConditionTrue {
			out = append(out, fmt.Sprintf("%s is %s (%s): %s", cond.Type, cond.Status, cond.Reason, cond.Message))
		}
	}
	for _, p := range status.Ancestors {
		for _, cond := range p.Conditions {
			if cond.Status != metav1.ConditionTrue {
				out = append(out, fmt.Sprintf("%s is %s at %s (%s): %s", cond.Type, cond.Status, parentName(p.AncestorRef), cond.Reason, cond.Message))
			}
		}
	}
	for _, p := range status.Parents {
		for _, cond := range p.Conditions {
			good := metav1.ConditionTrue
			if cond.Type == string(gatewayv1.RouteConditionPartiallyInvalid) {
				good = metav1.ConditionFalse
			}
			if cond.Status != good {
				out = append(out, fmt.Sprintf("%s is %s at %s (%s): %s", cond.Type, cond.Status, parentName(p.ParentRef), cond.Reason, cond.Message))
			}
		}
	}
	return out
}

func parentName(ref gatewayv1.ParentReference) string {
	kind, name := "gateway", string(ref.Name)
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if k, ok := findKind(kind); ok {
		kind = k.Singular
	}
	if ref.Namespace != nil {
		name = string(*ref.Namespace) + "/" + name
	}
	return kind + " " + name
}
