package analyze

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// CodeFaultsAll is a FaultPolicy that spoils every request of a whole service.
const CodeFaultsAll = "FaultsEveryRequest"

// faults finds policies that are hardly what anybody means to leave in place: those that spoil all requests of all callers
// to a service.
func (f *findings) faults(policies []*api.FaultPolicy) {
	for _, p := range policies {
		for i := range p.Spec.Faults {
			fault := &p.Spec.Faults[i]
			if fault.Percentage < 100 || len(fault.Matches) > 0 || len(fault.From) > 0 {
				continue
			}
			for _, t := range p.Spec.TargetRefs {
				if t.Kind == api.HTTPRoute.Name || t.Kind == api.GRPCRoute.Name {
					continue
				}
				f.add(Finding{
					Warning, CodeFaultsAll, documentName("faultpolicy", types.NamespacedName{Namespace: p.Namespace, Name: p.Name}),
					fmt.Sprintf("spec.faults[%d].percentage", i),
					fmt.Sprintf("every request to %s %s/%s is spoiled, whoever calls", t.Kind, p.Namespace, t.Name),
					"lower the percentage, or say with matches or from which requests are meant; delete the policy when the test is over",
				})
			}
		}
	}
}
