package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// attachResilience gives each service the policy that is for it, and returns what became of every policy. Of several for
// one service the oldest is in effect, and of equally old ones the first by namespace and name (GEP-713, "Conflict
// resolution"): parts of several together are what nobody wrote.
func attachResilience(in Input, services *catalog) map[types.NamespacedName][]v1.Condition {
	all := make(map[types.NamespacedName][]v1.Condition, len(in.Resilience))
	policies := slices.Clone(in.Resilience)
	slices.SortStableFunc(policies, func(a, b *api.ResiliencePolicy) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	for _, p := range policies {
		compiled := compileResilience(p)
		var problems []string
		reason := gatewayv1.PolicyReasonTargetNotFound
		for _, t := range p.Spec.TargetRefs {
			name := exchange.ServiceName{Namespace: p.Namespace, Name: t.Name}
			s, problem := services.find(t.Kind, name)
			switch {
			case problem != "":
				problems = append(problems, problem)
			case s.resilience != nil:
				reason = gatewayv1.PolicyReasonConflicted
				problems = append(problems, fmt.Sprintf("%s %s has the older ResiliencePolicy %s: delete one of them, or put both into one", t.Kind, name, s.resilience.Origin))
			default:
				s.resilience = compiled
			}
		}
		name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
		all[name] = observed(p.Generation, resilienceCondition(len(p.Spec.TargetRefs), reason, problems))
	}
	return all
}

func resilienceCondition(targets int, reason gatewayv1.PolicyConditionReason, problems []string) v1.Condition {
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

func compileResilience(p *api.ResiliencePolicy) *snapshot.Resilience {
	r := &snapshot.Resilience{Origin: p.Namespace + "/" + p.Name}
	if o := p.Spec.Outliers; o != nil {
		r.Outliers = &snapshot.Outliers{
			ConsecutiveErrors: uint32(max(o.ConsecutiveErrors, 0)),
			EjectionMs:        milliseconds(o.EjectionTime),
			MaxEjectionMs:     milliseconds(o.MaxEjectionTime),
			MaxEjectedPercent: uint32(max(o.MaxEjectedPercent, 0)),
			PanicPercent:      uint32(max(o.PanicPercent, 0)),
		}
	}
	if b := p.Spec.Breaker; b != nil {
		r.CircuitBreaker = &snapshot.CircuitBreaker{
			MaxConnections: uint64(max(b.MaxConnections, 0)),
			MaxPending:     uint64(max(b.MaxPendingRequests, 0)),
			MaxRequests:    uint64(max(b.MaxRequests, 0)),
		}
	}
	return r
}

// milliseconds are those of a duration, rounded up, so that what is there is never nothing.
func milliseconds(d v1.Duration) uint64 {
	return uint64((max(d.Duration, 0) + 999_999) / 1_000_000)
}
