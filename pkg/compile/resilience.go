package compile

import (
	"fmt"
	"slices"

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
	services.routes = make(map[routeID]*snapshot.Resilience)
	routes := routesOf(in)
	for _, p := range oldestFirst(in.Resilience) {
		compiled := compileResilience(p)
		var problems []string
		reason := gatewayv1.PolicyReasonTargetNotFound
		for _, t := range p.Spec.TargetRefs {
			if t.Kind == api.HTTPRoute.Name || t.Kind == api.GRPCRoute.Name {
				if problem, conflict := services.attachToRoute(routes, routeID{t.Kind, p.Namespace, t.Name}, compiled); problem != "" {
					if conflict {
						reason = gatewayv1.PolicyReasonConflicted
					}
					problems = append(problems, problem)
				}
				continue
			}
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
		all[name] = observed(p.Generation, policyCondition(len(p.Spec.TargetRefs), reason, problems))
	}
	return all
}

// attachToRoute gives a route the policy that is for it, or says why not.
func (c *catalog) attachToRoute(routes []*routeDocument, name routeID, compiled *snapshot.Resilience) (problem string, conflict bool) {
	if !slices.ContainsFunc(routes, func(r *routeDocument) bool { return r.id() == name }) {
		return fmt.Sprintf("there is no %s", name), false
	}
	if before := c.routes[name]; before != nil {
		return fmt.Sprintf("%s has the older ResiliencePolicy %s: delete one of them, or put both into one", name, before.Origin), true
	}
	c.routes[name] = compiled
	return "", false
}

// routePolicy is what is said of a route; nil: nothing is.
func (c *catalog) routePolicy(route *routeDocument) *snapshot.Resilience {
	return c.routes[route.id()]
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
			IntervalMs:        milliseconds(o.Interval),
		}
		if s := o.SuccessRate; s != nil {
			r.Outliers.SuccessRate = &snapshot.Outliers_SuccessRate{
				MinInstances: uint32(max(s.MinInstances, 0)), MinRequests: uint32(max(s.MinRequests, 0)), FactorThousandths: uint32(max(s.Factor*1000+0.5, 0)),
			}
		}
		if l := o.Latency; l != nil {
			r.Outliers.Latency = &snapshot.Outliers_Latency{
				MinInstances: uint32(max(l.MinInstances, 0)), MinRequests: uint32(max(l.MinRequests, 0)), FactorThousandths: uint32(max(l.Factor*1000+0.5, 0)),
				MinDifferenceMs: milliseconds(l.MinDifference),
			}
		}
	}
	if a := p.Spec.AdaptiveConcurrency; a != nil {
		r.AdaptiveConcurrency = &snapshot.AdaptiveConcurrency{
			IntervalMs: milliseconds(a.Interval), MinRequests: uint32(max(a.MinRequests, 0)),
			MinConcurrency: uint64(max(a.MinConcurrency, 0)), MaxConcurrency: uint64(max(a.MaxConcurrency, 0)),
			ToleranceThousandths: uint32(max(a.Tolerance*1000+0.5, 0)), ProbeIntervalMs: milliseconds(a.ProbeInterval),
		}
	}
	if h := p.Spec.Hedging; h != nil {
		r.HedgeDelayMs = milliseconds(h.Delay)
	}
	r.Retry = compilePolicyRetry(p.Spec.Retry)
	if b := p.Spec.Budget; b != nil {
		r.RetryBudget = &snapshot.RetryBudget{Percent: uint32(max(b.Percent, 0)), MinPerSecond: uint32(max(b.MinPerSecond, 0))}
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

// conditions are those of a policy's retry as documents have them.
var conditions = map[string]snapshot.Retry_Condition{
	api.OnConnectFailure: snapshot.Retry_CONNECT_FAILURE, api.OnReset: snapshot.Retry_RESET, api.OnTimeout: snapshot.Retry_TIMEOUT,
}

func compilePolicyRetry(r *api.ResilienceRetry) *snapshot.Retry {
	if r == nil {
		return nil
	}
	compiled := &snapshot.Retry{Attempts: uint32(max(r.Attempts, 0)), BackoffMs: milliseconds(r.Backoff), On: []snapshot.Retry_Condition{snapshot.Retry_NONE}}
	if r.MaxBackoff != nil {
		compiled.MaxBackoffMs = milliseconds(*r.MaxBackoff)
	}
	if r.PerTryTimeout != nil {
		compiled.PerTryTimeoutMs = milliseconds(*r.PerTryTimeout)
	}
	if len(r.Conditions) > 0 { // an absent list would mean all
		compiled.On = nil
	}
	for _, on := range r.Conditions {
		compiled.On = append(compiled.On, conditions[on])
	}
	for _, code := range r.Codes {
		compiled.Codes = append(compiled.Codes, uint32(max(code, 0)))
	}
	for _, name := range r.GRPCCodes {
		if code := slices.Index(api.GRPCCodes, name); code > 0 {
			compiled.GrpcCodes = append(compiled.GrpcCodes, uint32(code))
		}
	}
	return compiled
}
