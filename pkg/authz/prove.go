package authz

import (
	"fmt"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Unproven answers a question whose end user is not proven as the AuthenticationPolicy of the service asks; nil: it is, or
// nobody asks. Claims without a token are believed: who asks so wants to know what would be.
func Unproven(q *Question, body *snapshot.Authentication, now time.Time) (*Answer, error) {
	policy, err := authn.Compile(body, nil, nil)
	if err != nil || policy == nil {
		return nil, err
	}
	no := func(why string) *Answer {
		return &Answer{Policy: policy.Origin(), Why: fmt.Sprintf("AuthenticationPolicy %s: %s", policy.Origin(), why)}
	}
	switch {
	case q.TCP && !policy.Optional():
		return no("it asks for a token, which a connection does not have"), nil
	case q.TCP:
		return nil, nil
	case q.Token != "":
		if _, refusal := policy.Verify(q.Token, now); refusal != nil {
			return no(refusal.Detail), nil
		}
	case len(q.Claims) == 0 && !policy.Optional():
		return no("it asks for a token, and there is none (give one with --jwt)"), nil
	}
	return nil, nil
}
