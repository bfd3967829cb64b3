package compile

import (
	"fmt"
	"time"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// balances are the algorithms by the names that policies have for them. One without a name is the first.
var balances = map[string]snapshot.Balance{
	"":               snapshot.Balance_BALANCE_LEAST_REQUEST,
	api.LeastRequest: snapshot.Balance_BALANCE_LEAST_REQUEST,
	api.RoundRobin:   snapshot.Balance_BALANCE_ROUND_ROBIN,
	api.Random:       snapshot.Balance_BALANCE_RANDOM,
	api.PeakEWMA:     snapshot.Balance_BALANCE_PEAK_EWMA,
	api.RingHash:     snapshot.Balance_BALANCE_RING_HASH,
	api.Maglev:       snapshot.Balance_BALANCE_MAGLEV,
}

var hashKeyTypes = map[string]snapshot.HashKey_Type{
	api.ByHeader:         snapshot.HashKey_HEADER,
	api.ByCookie:         snapshot.HashKey_COOKIE,
	api.ByQueryParameter: snapshot.HashKey_QUERY,
	api.BySource:         snapshot.HashKey_SOURCE,
}

var localities = map[string]snapshot.Locality{
	api.PreferZone:   snapshot.Locality_LOCALITY_ZONE,
	api.PreferRegion: snapshot.Locality_LOCALITY_REGION,
}

// balancing is how the instances of a service are chosen, as a policy says.
type balancing struct {
	policy    string // "<ns>/<name>"
	algorithm snapshot.Balance
	keys      []*snapshot.HashKey
	slowStart time.Duration // 0: none
	locality  snapshot.Locality
}

// compileBalancing reads a policy, or names the first field that this version does not know.
func compileBalancing(p *api.LoadBalancingPolicy) (how *balancing, problem string) {
	algorithm, known := balances[p.Spec.Algorithm]
	if !known {
		return nil, fmt.Sprintf("spec.algorithm: this version knows none of the name %q", p.Spec.Algorithm)
	}
	how = &balancing{policy: p.Namespace + "/" + p.Name, algorithm: algorithm}
	for i, k := range p.Spec.HashOn {
		kind, known := hashKeyTypes[k.Type]
		if !known {
			return nil, fmt.Sprintf("spec.hashOn[%d].type: this version knows none of the name %q", i, k.Type)
		}
		how.keys = append(how.keys, &snapshot.HashKey{Type: kind, Name: k.Name})
	}
	if s := p.Spec.SlowStart; s != nil {
		how.slowStart = s.Window.Duration
	}
	if l := p.Spec.Locality; l != nil {
		if how.locality, known = localities[l.Prefer]; !known {
			return nil, fmt.Sprintf("spec.locality.prefer: this version knows none of the name %q", l.Prefer)
		}
	}
	return how, ""
}

// say has a backend say what nodes are to do.
func (how *balancing) say(b *snapshot.Backend) {
	if how != nil {
		b.BalancingPolicy, b.Balance, b.HashKeys = how.policy, how.algorithm, how.keys
		b.Locality = how.locality
		b.SlowStartMs = uint64(how.slowStart.Milliseconds())
	}
}

// balance has the services of the catalogue follow their LoadBalancingPolicies, and returns the conditions of each
// policy. Of several that name one service the oldest is in effect there (GEP-713, "Conflict Resolution"), and of equally
// old ones the first by name.
func (c *catalog) balance(policies []*api.LoadBalancingPolicy) map[types.NamespacedName][]v1.Condition {
	all := make(map[types.NamespacedName][]v1.Condition, len(policies))
	for _, p := range oldestFirst(policies) {
		all[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = observed(p.Generation, c.balanceBy(p))
	}
	return all
}

// balanceBy applies a policy where nothing stands against it, and says what became of it.
func (c *catalog) balanceBy(p *api.LoadBalancingPolicy) v1.Condition {
	how, problem := compileBalancing(p)
	if problem != "" {
		return policyCondition(1, gatewayv1.PolicyReasonInvalid, []string{problem})
	}
	var problems []string
	reason := gatewayv1.PolicyReasonTargetNotFound
	for _, t := range p.Spec.TargetRefs {
		s, problem := c.find(t.Kind, exchange.ServiceName{Namespace: p.Namespace, Name: t.Name})
		switch {
		case problem != "":
			problems = append(problems, problem)
		case s.balancing != nil:
			reason = gatewayv1.PolicyReasonConflicted
			problems = append(problems, fmt.Sprintf("the older policy %s is in effect at %s %s", s.balancing.policy, t.Kind, s.name))
		default:
			s.balancing = how
		}
	}
	return policyCondition(len(p.Spec.TargetRefs), reason, problems)
}
