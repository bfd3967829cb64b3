package authz

import (
	"cmp"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/sennit-mesh/sennit/internal/condition"
	"github.com/sennit-mesh/sennit/pkg/authn"
)

// A plain is a condition, or a part of one, that is found out without CEL: what a request has is compared with a text that is
// written out, and "!", "&&" and "||" make more of that. It says what CEL says, whose expression it is. But CEL takes some
// 100 ns to begin, and makes a value of its own, which is an allocation, of each text of a request.
type plain struct {
	op          string
	left, right *plain   // of "!" and "&&"
	of          string   // the variable that is compared
	names       []string // where in claims; or the name of a header, in lower case
	text        string   // that it is compared with
	port        types.Int
}

// plainOf is what an expression that was checked is without CEL; nil: CEL has to evaluate it.
func plainOf(e ast.Expr) *plain {
	call := e.AsCall() // of no name, of what is no call
	op, args := call.FunctionName(), slices.Clone(call.Args())
	if call.IsMemberFunction() {
		args = slices.Insert(args, 0, call.Target())
	}
	switch op {
	case operators.LogicalNot:
		return negated(plainOf(args[0]))
	case operators.LogicalAnd:
		return conjoined(plainOf(args[0]), plainOf(args[1]))
	case operators.LogicalOr:
		return disjoined(plainOf(args[0]), plainOf(args[1]))
	case operators.NotEquals:
		return negated(compared(operators.Equals, args[0], args[1]))
	case operators.Equals, "startsWith", "endsWith", "contains":
		return compared(op, args[0], args[1])
	case operators.In:
		items := args[1].AsList().Elements() // of what is no list written out there are none
		if len(items) == 0 {
			return compared(op, args[1], args[0])
		}
		one := compared(operators.Equals, args[0], items[0])
		for _, item := range items[1:] {
			one = disjoined(one, compared(operators.Equals, args[0], item))
		}
		return one
	}
	return nil
}

func negated(p *plain) *plain {
	if p == nil {
		return nil
	}
	return &plain{op: operators.LogicalNot, left: p}
}

func conjoined(a, b *plain) *plain {
	if a == nil || b == nil {
		return nil
	}
	return &plain{op: operators.LogicalAnd, left: a, right: b}
}

func disjoined(a, b *plain) *plain { return negated(conjoined(negated(a), negated(b))) }

// compared is a variable beside what is written out.
func compared(op string, e, literal ast.Expr) *plain {
	p := &plain{op: op}
	for e.Kind() != ast.IdentKind { // the way down to the variable
		switch call := e.AsCall(); {
		case e.Kind() == ast.SelectKind:
			p.names, e = append(p.names, e.AsSelect().FieldName()), e.AsSelect().Operand()
		case call.FunctionName() == operators.Index:
			name, is := call.Args()[1].AsLiteral().(types.String)
			if !is {
				return nil
			}
			p.names, e = append(p.names, string(name)), call.Args()[0]
		default:
			return nil
		}
	}
	slices.Reverse(p.names)
	p.of = e.AsIdent()
	text, isText := literal.AsLiteral().(types.String)
	if p.text = string(text); !isText && p.of != condition.RequestPort {
		return nil
	}
	switch p.of {
	case condition.RequestPort:
		var is bool
		if p.port, is = literal.AsLiteral().(types.Int); !is {
			return nil
		}
	case condition.SourceNamespace, condition.SourceTrustDomain, condition.SourceNode, condition.RequestMethod, condition.RequestPath,
		condition.RequestHost, condition.UserIssuer, condition.UserSubject, condition.UserAudiences:
	case condition.UserClaims:
	case condition.RequestHeaders:
		if op == operators.In {
			p.names = []string{p.text}
		}
		p.names[0] = strings.ToLower(p.names[0])
	default:
		return nil
	}
	return p
}

// is finds out whether it holds for a request, of which path is the normal form.
func (p *plain) is(q *Request, path string) outcome {
	switch p.op {
	case operators.LogicalNot:
		switch of := p.left.is(q, path); of {
		case isTrue:
			return isFalse
		case isFalse:
			return isTrue
		default:
			return of
		}
	case operators.LogicalAnd: // one that is false decides, whatever the other is
		left := p.left.is(q, path)
		if left == isFalse {
			return isFalse
		}
		if right := p.right.is(q, path); right != isTrue {
			return right
		}
		return left
	case operators.In:
		return p.within(q)
	}
	if p.of == condition.RequestPort {
		return outcomeOf(p.port == types.Int(q.Port))
	}
	text, is := p.value(q, path)
	switch {
	case p.op == operators.Equals && is == isTrue:
		return outcomeOf(text == p.text)
	case p.op == operators.Equals || is == untold:
		return is
	case is == isFalse: // it is no text that could begin with something
		return untold
	case p.op == "startsWith":
		return outcomeOf(strings.HasPrefix(text, p.text))
	case p.op == "endsWith":
		return outcomeOf(strings.HasSuffix(text, p.text))
	}
	return outcomeOf(strings.Contains(text, p.text))
}

func outcomeOf(is bool) outcome {
	if is {
		return isTrue
	}
	return isFalse
}

// value is the text of a variable: false where it is there and no text, and untold where it is not there.
func (p *plain) value(q *Request, path string) (text string, is outcome) {
	there := func(text string, there bool) (string, outcome) {
		if !there {
			return "", untold
		}
		return text, isTrue
	}
	switch p.of {
	case condition.SourceNamespace:
		return there(q.Caller.Namespace, !q.Caller.IsZero())
	case condition.SourceTrustDomain:
		return there(q.TrustDomain, q.TrustDomain != "")
	case condition.SourceNode:
		return there(q.Node, q.Node != "")
	}
	if q.TCP {
		return "", untold
	}
	switch p.of {
	case condition.RequestMethod:
		return q.Method, isTrue
	case condition.RequestPath:
		return path, isTrue
	case condition.RequestHost:
		host := strings.ToLower(bareHost(q))
		return there(host, host != "")
	case condition.RequestHeaders:
		var f field
		f.read(q, p.names[0])
		return there(f.value, f.count == 1 && !f.odd)
	}
	switch {
	case q.User == nil:
		return "", untold
	case p.of == condition.UserIssuer:
		return q.User.Issuer(), isTrue
	case p.of == condition.UserSubject:
		return q.User.Subject(), isTrue
	}
	v, known := q.User.Claim(p.names...)
	switch {
	case !known:
		return "", untold
	case v.Kind() != authn.String:
		return "", isFalse
	}
	return v.Text(), isTrue
}

// within reports whether a list has the text, or an object or the headers that name.
func (p *plain) within(q *Request) outcome {
	if p.of == condition.RequestHeaders {
		var f field
		if f.read(q, p.names[0]); q.TCP || f.count > 1 || f.odd {
			return untold
		}
		return outcomeOf(f.count == 1)
	}
	has := false
	if !p.texts(q, func(text string) { has = has || text == p.text }) {
		return untold
	}
	return outcomeOf(has)
}

// texts calls visit with each text that a list of the end user's has, or an object as a name, and reports whether it is there.
func (p *plain) texts(q *Request, visit func(string)) bool {
	if q.TCP || q.User == nil {
		return false
	}
	if p.of == condition.UserAudiences {
		for _, text := range q.User.Audiences() {
			visit(text)
		}
		return true
	}
	v, _ := q.User.Claim(p.names...)
	return v.Texts(visit)
}

// wanted is a part that compares with one text and must be so, or not to be told, for the whole to be; nil: there is none.
func (p *plain) wanted() *plain {
	switch {
	case p == nil:
		return nil
	case p.op == operators.LogicalAnd:
		return cmp.Or(p.left.wanted(), p.right.wanted())
	case p.op == operators.Equals && p.of != condition.RequestPort, p.op == operators.In && p.of != condition.RequestHeaders:
		return p
	}
	return nil
}
