package compile

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Grants are what ReferenceGrants allow: documents of one namespace to name documents of another.
type grants struct {
	allowed map[grant]bool
}

// A reference is what names something: documents of a kind in a namespace.
type reference struct{ group, kind, namespace string }

// Referred is what is named: one document, or, without a name, all of a kind in a namespace.
type referred struct{ group, kind, namespace, name string }

type grant struct {
	from reference
	to   referred
}

func newGrants(documents []*gatewayv1.ReferenceGrant) *grants {
	gs := &grants{allowed: map[grant]bool{}}
	for _, document := range documents {
		for _, from := range document.Spec.From {
			for _, to := range document.Spec.To {
				one := grant{
					from: reference{string(from.Group), string(from.Kind), string(from.Namespace)},
					to:   referred{group: string(to.Group), kind: string(to.Kind), namespace: document.Namespace},
				}
				if to.Name != nil {
					one.to.name = string(*to.Name)
				}
				gs.allowed[one] = true
			}
		}
	}
	return gs
}

// allow reports whether from may name to: within a namespace always, beyond it where the owner of the other says so.
func (gs *grants) allow(from reference, to referred) bool {
	if from.namespace == to.namespace || gs.allowed[grant{from, to}] {
		return true
	}
	to.name = ""
	return gs.allowed[grant{from, to}]
}
