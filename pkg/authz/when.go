package authz

import (
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/sennit-mesh/sennit/internal/condition"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A when is a condition in CEL. Each is evaluated once for a request, however many rules have it. One that cannot be told
// counts against the caller.
type when struct {
	source string
	at     int // of the policies' conditions
	is     *condition.Condition
	plain  *plain // the same; nil: it needs CEL
}

// outcome is what is known of a condition.
type outcome uint8

const (
	notAsked outcome = iota
	isTrue
	isFalse
	untold
)

// maxWhens is how many conditions are evaluated once; others each time that a clause asks.
const maxWhens = 128

func (s *heads) holds(w *when, q *Request, deny bool) bool {
	var o outcome
	if w.at < maxWhens {
		o = s.whens[w.at]
	}
	if o == notAsked {
		if w.plain != nil {
			o = w.plain.is(q, s.path)
		} else {
			o = w.evaluate(q)
		}
		if w.at < maxWhens {
			s.whens[w.at] = o
		}
	}
	return o == isTrue || o == untold && deny
}

// evaluate has CEL find out whether it holds.
func (w *when) evaluate(q *Request) outcome {
	is, err := w.is.Is(variables{q})
	if err != nil {
		return untold
	}
	return outcomeOf(is)
}

// ruledOut reports whether a condition was evaluated, and does not hold.
func (s *heads) ruledOut(w *when, deny bool) bool {
	if w.at >= maxWhens {
		return false
	}
	return s.whens[w.at] == isFalse || s.whens[w.at] == untold && !deny
}

func (r *Rules) whenOf(sources []string) ([]*when, error) {
	var all []*when
	for _, source := range sources {
		at := slices.IndexFunc(r.whens, func(w *when) bool { return w.source == source })
		if at < 0 {
			is, err := condition.Compile(source)
			if err != nil {
				return nil, fmt.Errorf("condition %q: %w", source, err)
			}
			at = len(r.whens)
			r.whens = append(r.whens, &when{source, at, is, plainOf(is.Expression)})
		}
		all = append(all, r.whens[at])
	}
	return all, nil
}

// asks reports whether a rule's conditions ask for the path, and for the method.
func (r *Rules) asks(rule *snapshot.AuthorizationRule) (path, method bool) {
	for _, w := range r.whens {
		if slices.Contains(rule.When, w.source) {
			path, method = path || w.is.Paths, method || w.is.Methods
		}
	}
	return path, method
}

// variables are what conditions ask about (interpreter.Activation).
type variables struct{ of *Request }

// Parent has no more of them.
func (variables) Parent() interpreter.Activation { return nil }

// ResolveName returns a variable; false where it has no value for the request.
func (v variables) ResolveName(name string) (any, bool) {
	q := v.of
	switch name {
	case condition.SourceService:
		return types.String(q.Caller.String()), !q.Caller.IsZero()
	case condition.SourceNamespace:
		return types.String(q.Caller.Namespace), !q.Caller.IsZero()
	case condition.SourceTrustDomain:
		return types.String(q.TrustDomain), q.TrustDomain != ""
	case condition.SourceNode:
		return types.String(q.Node), q.Node != ""
	case condition.RequestPort:
		return types.Int(q.Port), true
	}
	if q.TCP {
		return nil, false
	}
	switch name {
	case condition.RequestMethod:
		return methodOf(q.Method), true
	case condition.RequestPath:
		path, _ := routing.PlainPath(nil, q.Path) // what is not plain was refused already
		return types.String(path), true
	case condition.RequestHost:
		host := strings.ToLower(bareHost(q))
		return types.String(host), host != ""
	case condition.RequestHeaders:
		return headersOfRequest{q}, true
	}
	if q.User == nil {
		return nil, false
	}
	u := q.User.Derived(tell).(*told)
	switch name {
	case condition.UserIssuer:
		return u.issuer, true
	case condition.UserSubject:
		return u.subject, true
	case condition.UserAudiences:
		return u.audiences, true
	case condition.UserClaims:
		return u.claims, true
	}
	return nil, false
}

// methods are those that most requests have, as values of CEL: a text that becomes one is an allocation.
var methods = func() map[string]ref.Val {
	all := map[string]ref.Val{}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"} {
		all[m] = types.String(m)
	}
	return all
}()

func methodOf(method string) ref.Val {
	if known := methods[method]; known != nil {
		return known
	}
	return types.String(method)
}
