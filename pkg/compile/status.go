package compile

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ControllerName says in a status that Sennit wrote it; GatewayControllerName does where it is about a Gateway.
const ControllerName gatewayv1.GatewayController = "sennit.dev/controller"

// longestMessage bounds a condition's message, in bytes.
const longestMessage = 1024

// refProblems collects what is wrong with the references of a route. The first one gives the reason.
type refProblems struct {
	reason   gatewayv1.RouteConditionReason
	messages []string
}

func (p *refProblems) add(reason gatewayv1.RouteConditionReason, message string) {
	if p.reason == "" {
		p.reason = reason
	}
	p.messages = append(p.messages, message)
}

func (p *refProblems) condition() v1.Condition {
	c := v1.Condition{Type: string(gatewayv1.RouteConditionResolvedRefs)}
	if p.reason == "" {
		c.Status, c.Reason = v1.ConditionTrue, string(gatewayv1.RouteReasonResolvedRefs)
		c.Message = "all references are resolved"
		return c
	}
	c.Status, c.Reason = v1.ConditionFalse, string(p.reason)
	c.Message = strings.Join(p.messages, "; ")
	return cut(c)
}

// cut bounds a condition's message.
func cut(c v1.Condition) v1.Condition {
	if len(c.Message) > longestMessage {
		c.Message = c.Message[:longestMessage] + "…"
	}
	return c
}

func observed(generation int64, conditions ...v1.Condition) []v1.Condition {
	for i := range conditions {
		conditions[i].ObservedGeneration = generation
	}
	return conditions
}

// MergeStatus makes the status to store from the one that is stored and the one just compiled: other
// controllers' parents stay; a condition keeps its time of transition while its status stays the same, and
// gets now otherwise. It reports whether anything is different from what is stored.
func MergeStatus(stored, compiled gatewayv1.RouteStatus, now v1.Time) (gatewayv1.RouteStatus, bool) {
	var merged gatewayv1.RouteStatus
	for _, parent := range compiled.Parents {
		parent.Conditions, _ = MergeConditions(conditionsOf(stored, parent), parent.Conditions, now)
		merged.Parents = append(merged.Parents, parent)
	}
	for _, parent := range stored.Parents {
		if parent.ControllerName != ControllerName && parent.ControllerName != GatewayControllerName {
			merged.Parents = append(merged.Parents, parent)
		}
	}
	return merged, !equality.Semantic.DeepEqual(stored, merged)
}

// conditionsOf is what a stored status says of a parent.
func conditionsOf(stored gatewayv1.RouteStatus, parent gatewayv1.RouteParentStatus) []v1.Condition {
	for _, before := range stored.Parents {
		if before.ControllerName == parent.ControllerName && equality.Semantic.DeepEqual(before.ParentRef, parent.ParentRef) {
			return before.Conditions
		}
	}
	return nil
}

// MergeConditions makes the conditions to store from those that are stored and those just compiled: a condition keeps
// its time of transition while its status stays the same. It reports whether anything is different.
func MergeConditions(stored, compiled []v1.Condition, now v1.Time) ([]v1.Condition, bool) {
	merged := slices.Clone(compiled)
	changed := len(stored) != len(compiled)
	for i := range merged {
		merged[i].LastTransitionTime = now
		at := slices.IndexFunc(stored, func(c v1.Condition) bool { return c.Type == merged[i].Type })
		if at >= 0 && stored[at].Status == merged[i].Status {
			merged[i].LastTransitionTime = stored[at].LastTransitionTime
		}
		changed = changed || at < 0 || stored[at] != merged[i]
	}
	return merged, changed
}

// policyCondition is Accepted of a policy with so many targets: reason says what is wrong at those that have a problem.
func policyCondition(targets int, reason gatewayv1.PolicyConditionReason, problems []string) v1.Condition {
	c := v1.Condition{
		Type: string(gatewayv1.PolicyConditionAccepted), Status: v1.ConditionTrue, Reason: string(gatewayv1.PolicyReasonAccepted),
		Message: "the policy is in effect",
	}
	if len(problems) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, string(reason), strings.Join(problems, "; ")
		if len(problems) < targets {
			c.Message += "; the policy is in effect at its other targets"
		}
	}
	return cut(c)
}
