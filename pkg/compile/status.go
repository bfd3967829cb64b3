package compile

import (
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
		parent.Conditions = append([]v1.Condition(nil), parent.Conditions...)
		for i := range parent.Conditions {
			parent.Conditions[i].LastTransitionTime = transition(stored, parent, parent.Conditions[i], now)
		}
		merged.Parents = append(merged.Parents, parent)
	}
	for _, parent := range stored.Parents {
		if parent.ControllerName != ControllerName && parent.ControllerName != GatewayControllerName {
			merged.Parents = append(merged.Parents, parent)
		}
	}
	return merged, !equality.Semantic.DeepEqual(stored, merged)
}

func transition(stored gatewayv1.RouteStatus, parent gatewayv1.RouteParentStatus, c v1.Condition, now v1.Time) v1.Time {
	for _, before := range stored.Parents {
		if before.ControllerName != parent.ControllerName || !equality.Semantic.DeepEqual(before.ParentRef, parent.ParentRef) {
			continue
		}
		for _, old := range before.Conditions {
			if old.Type == c.Type && old.Status == c.Status {
				return old.LastTransitionTime
			}
		}
	}
	return now
}
