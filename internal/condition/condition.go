// Package condition holds the language of conditions in AuthorizationPolicies: which expressions of CEL there are, what they
// may ask about, and what the worst of them may cost.
//
// Compile refuses what has a mistake, what is no condition, and what could take long. Both the API, before a document is
// stored, and nodes, when they take a snapshot into force, compile with it. Values come from whoever evaluates: pkg/authz.
//
// An expression has no side effects, ends always, and knows neither the time nor anything outside of its variables.
package condition

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
)

// The variables. One that has no value for a request makes what needs it an error.
const (
	SourceService     = "source.service" // "<ns>/<name>"
	SourceNamespace   = "source.namespace"
	SourceTrustDomain = "source.trustDomain"
	SourceNode        = "source.node"
	RequestMethod     = "request.method"
	RequestPath       = "request.path" // in normal form, without its query
	RequestHost       = "request.host" // in lower case, without its port
	RequestPort       = "request.port" // of the service
	RequestHeaders    = "request.headers"
	UserIssuer        = "user.issuer"
	UserSubject       = "user.subject"
	UserAudiences     = "user.audiences"
	UserClaims        = "user.claims"
)

const (
	// MaxLength bounds an expression, in bytes.
	MaxLength = 2048
	// MaxCost bounds what an expression may cost with the largest values that a request can have, in the units of CEL's
	// cost model: one for about each step.
	MaxCost  = 200_000
	maxDepth = 32
)

// The largest values: of heads as codecs bound them, and of claims as pkg/authn does.
const (
	maxText    = 64 << 10
	maxHeaders = 256
	maxClaims  = 4096
	maxName    = 512
)

var env = sync.OnceValues(func() (*cel.Env, error) {
	text := cel.StringType
	return cel.NewEnv(
		cel.Variable(SourceService, text), cel.Variable(SourceNamespace, text), cel.Variable(SourceTrustDomain, text), cel.Variable(SourceNode, text),
		cel.Variable(RequestMethod, text), cel.Variable(RequestPath, text), cel.Variable(RequestHost, text), cel.Variable(RequestPort, cel.IntType),
		cel.Variable(RequestHeaders, cel.MapType(text, text)),
		cel.Variable(UserIssuer, text), cel.Variable(UserSubject, text), cel.Variable(UserAudiences, cel.ListType(text)),
		cel.Variable(UserClaims, cel.MapType(text, cel.DynType)),
		cel.CrossTypeNumericComparisons(true), cel.ParserExpressionSizeLimit(MaxLength), cel.ParserRecursionLimit(maxDepth),
	)
})

// A Condition is an expression that is ready to be evaluated. It is safe for concurrent use.
type Condition struct {
	// Paths, Methods and Headers say that it asks for the path, for the method, and for headers.
	Paths, Methods, Headers bool
	Expression              ast.Expr // checked: a variable is an identifier with its dots
	program                 cel.Program
}

// Compile reads an expression. The error says what is wrong with it, with its line and column where CEL tells them.
func Compile(expression string) (*Condition, error) {
	if strings.TrimSpace(expression) == "" || len(expression) > MaxLength {
		return nil, fmt.Errorf("an expression has 1 to %d bytes", MaxLength)
	}
	env, err := env()
	if err != nil {
		return nil, fmt.Errorf("prepare CEL: %w", err)
	}
	checked, issues := env.Compile(expression)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		if first.Location.Line() < 1 { // of the whole
			return nil, errors.New(strings.TrimSpace(first.Message))
		}
		return nil, fmt.Errorf("%d:%d: %s", first.Location.Line(), first.Location.Column()+1, strings.TrimSpace(first.Message))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("it is %s, and a condition is true or false", checked.OutputType())
	}
	if !apart(checked.NativeRep()) {
		return nil, errors.New("request.headers as a whole is no value: ask for one by its name, or go through the names")
	}
	worst, err := env.EstimateCost(checked, sizes{})
	if err != nil {
		return nil, fmt.Errorf("estimate what it costs: %w", err)
	}
	if worst.Max > MaxCost {
		return nil, errors.New("it could take too long with a large request: go through headers or claims once, and compare with constants")
	}
	c := &Condition{Expression: checked.NativeRep().Expr()}
	for _, r := range checked.NativeRep().ReferenceMap() {
		c.Paths = c.Paths || r.Name == RequestPath
		c.Methods = c.Methods || r.Name == RequestMethod
		c.Headers = c.Headers || r.Name == RequestHeaders
	}
	if c.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize)); err != nil {
		return nil, err
	}
	return c, nil
}

// apart reports whether headers are asked for one by one: by a name, whether it is there, how many there are, or all in turn.
// With a map as a whole CEL forgets errors: two are equal to it where their values cannot be compared, as those of a header that is
// there twice.
func apart(checked *ast.AST) bool {
	headers := func(e ast.NavigableExpr) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == RequestHeaders }
	for _, e := range ast.MatchDescendants(ast.NavigateAST(checked), headers) {
		of, within := e.Parent()
		if !within {
			return false
		}
		switch call := of.AsCall(); {
		case of.Kind() == ast.SelectKind, call.FunctionName() == operators.Index, call.FunctionName() == overloads.Size:
		case call.FunctionName() == operators.In && call.Args()[1].ID() == e.ID():
		case of.Kind() == ast.ComprehensionKind && of.AsComprehension().IterRange().ID() == e.ID():
		default:
			return false
		}
	}
	return true
}

// Is evaluates it. The error says that it cannot be told, as of a header that is not there.
func (c *Condition) Is(variables interpreter.Activation) (bool, error) {
	value, _, err := c.program.Eval(variables)
	if err != nil {
		return false, err
	}
	is, ok := value.(types.Bool)
	if !ok {
		return false, errors.New("the condition is neither true nor false")
	}
	return bool(is), nil
}

// sizes are the largest values that variables can have (cost.Estimator).
type sizes struct{}

// EstimateSize bounds a value by what it is part of.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	most := uint64(maxName)
	switch path[0] {
	case RequestPath:
		most = maxText
	case RequestHeaders:
		most = maxText
		if len(path) == 1 {
			most = maxHeaders
		} else if path[len(path)-1] == "@keys" {
			most = maxName
		}
	case UserAudiences, UserClaims:
		most = maxClaims
	}
	return &cost.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost leaves calls to CEL's own model.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
