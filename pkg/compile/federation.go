package compile

import (
	"fmt"

	v1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// MaxForeign bounds how many other trust domains are in effect: every node has the bundles of all.
const MaxForeign = 32

// ForeignDomains are the documents that are in effect, in their order: of several of one trust domain the oldest, and none
// of the mesh's own, for which nobody else speaks.
func ForeignDomains(in Input) (all []*api.FederatedTrustDomain) {
	taken := map[string]bool{in.TrustDomain: true}
	for _, f := range oldestFirst(in.Foreign) {
		if !taken[f.Spec.TrustDomain] && len(all) < MaxForeign {
			taken[f.Spec.TrustDomain] = true
			all = append(all, f)
		}
	}
	return all
}

// foreignConditions says of each FederatedTrustDomain whether it is in effect. Whether its endpoint answers is the
// controller's to say.
func foreignConditions(in Input) map[types.NamespacedName][]v1.Condition {
	effective := map[string]string{} // names, by trust domain
	for _, f := range ForeignDomains(in) {
		effective[f.Spec.TrustDomain] = f.Name
	}
	all := make(map[types.NamespacedName][]v1.Condition, len(in.Foreign))
	for _, f := range in.Foreign {
		accepted := v1.Condition{
			Type: string(gatewayv1.PolicyConditionAccepted), Status: v1.ConditionTrue, Reason: string(gatewayv1.PolicyReasonAccepted),
			Message: "the document is in effect",
		}
		switch first, found := effective[f.Spec.TrustDomain]; {
		case f.Spec.TrustDomain == in.TrustDomain:
			accepted.Status, accepted.Reason = v1.ConditionFalse, string(gatewayv1.PolicyReasonInvalid)
			accepted.Message = "this is the mesh's own trust domain, for which no other endpoint speaks"
		case !found:
			accepted.Status, accepted.Reason = v1.ConditionFalse, string(gatewayv1.PolicyReasonInvalid)
			accepted.Message = fmt.Sprintf("there are %d other trust domains already; delete one of them", MaxForeign)
		case first != f.Name:
			accepted.Status, accepted.Reason = v1.ConditionFalse, string(gatewayv1.PolicyReasonConflicted)
			accepted.Message = fmt.Sprintf("the older document %s is of the same trust domain", first)
		}
		all[types.NamespacedName{Name: f.Name}] = observed(f.Generation, accepted)
	}
	return all
}
