package routing

import (
	"fmt"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	faultShares = 1_000_000 // what a share is of
	// What the compiler lets through is no more than this; a body that asks for more is not followed into it.
	mostDelay = 5 * time.Minute
)

// A Fault is what happens to a share of the requests that it is for. It never changes.
type Fault struct {
	ID           string // "<ns>/<policy>/<fault>"
	Delay        time.Duration
	Status       int // not 0: the request is answered with it
	GRPC         int // the same for calls of gRPC; 0: what Status is in gRPC
	Reset        bool
	ResponseRate int64 // bytes of the response's body in a second; 0: no limit
	RequestRate  int64 // the same of the request's

	share   uint64
	matches port // one rule for each; none: every request
	callers []exchange.ServiceName
}

// compileFaults makes the faults of a body.
func compileFaults(sources []*snapshot.Fault) ([]*Fault, error) {
	var all []*Fault
	for _, s := range sources {
		f, err := compileFault(s)
		if err != nil {
			return nil, fmt.Errorf("fault %s: %w", s.Id, err)
		}
		all = append(all, f)
	}
	return all, nil
}

func compileFault(s *snapshot.Fault) (*Fault, error) {
	if s.Share > faultShares {
		return nil, fmt.Errorf("its share is %d of %d", s.Share, faultShares)
	}
	if s.Abort != 0 && (s.Abort < 400 || s.Abort > 599) || s.AbortGrpc > 16 {
		return nil, fmt.Errorf("it answers with %d, and %d of gRPC, which are no errors", s.Abort, s.AbortGrpc)
	}
	f := &Fault{
		ID: s.Id, share: uint64(s.Share),
		Delay:  time.Duration(min(s.DelayMs, uint64(mostDelay.Milliseconds()))) * time.Millisecond,
		Status: int(s.Abort), GRPC: int(s.AbortGrpc), Reset: s.Reset_,
		ResponseRate: int64(min(s.ResponseRate, 1<<62)), RequestRate: int64(min(s.RequestRate, 1<<62)),
	}
	for _, source := range s.Matches {
		m, err := compileMatch(source)
		if err != nil {
			return nil, err
		}
		f.matches.rules = append(f.matches.rules, rule{match: m})
	}
	f.matches.index = newIndex(f.matches.rules)
	for _, text := range s.Callers {
		caller, err := exchange.ParseServiceName(text)
		if err != nil {
			return nil, fmt.Errorf("caller: %w", err)
		}
		f.callers = append(f.callers, caller)
	}
	return f, nil
}

// faultsOf finds the faults that a rule or a backend names.
func faultsOf(named []uint32, all []*Fault) ([]*Fault, error) {
	var faults []*Fault
	for _, at := range named {
		if int(at) >= len(all) {
			return nil, fmt.Errorf("fault %d of %d is named", at, len(all))
		}
		faults = append(faults, all[at])
	}
	return faults, nil
}

// strike draws which of the faults hit the request, and reports whether one does. The draw comes before the match, which
// costs more. Connections whose bytes are not looked at meet none.
func (d *Decision) strike(faults []*Fault, call *Call, req *exchange.Request) bool {
	if req == nil {
		return false
	}
	for _, f := range faults {
		if !f.isOf(&call.Caller) {
			continue
		}
		if f.share < faultShares && below(call.Random.Uint64(), faultShares) >= f.share {
			continue
		}
		if f.isFor(req, d) {
			d.Faults = append(d.Faults, f)
		}
	}
	return len(d.Faults) > 0
}

// isOf reports whether the fault is for calls of a service.
func (f *Fault) isOf(caller *exchange.ServiceName) bool {
	for i := range f.callers {
		if f.callers[i].Name == caller.Name && f.callers[i].Namespace == caller.Namespace {
			return true
		}
	}
	return len(f.callers) == 0
}

// isFor reports whether one of the fault's matches takes the request. A path that can be read in several ways, of which
// not all lead to the same match, is none of the fault's.
func (f *Fault) isFor(req *exchange.Request, d *Decision) bool {
	if len(f.matches.rules) == 0 {
		return true
	}
	i, _ := f.matches.match(req, d)
	return i != none
}

// An Injection is what the faults that hit one request do to it together: the longest delay, the first that answers or
// resets, the lowest rates.
type Injection struct {
	Delay        time.Duration
	Status, GRPC int // as of a Fault
	Reset        bool
	ResponseRate int64 // as of a Fault
	RequestRate  int64
}

// Injection is what the Faults of the decision do.
func (d *Decision) Injection() Injection {
	var in Injection
	for _, f := range d.Faults {
		in.Delay = max(in.Delay, f.Delay)
		if in.Status == 0 && !in.Reset {
			in.Status, in.GRPC, in.Reset = f.Status, f.GRPC, f.Reset
		}
		in.ResponseRate = lower(in.ResponseRate, f.ResponseRate)
		in.RequestRate = lower(in.RequestRate, f.RequestRate)
	}
	return in
}

// lower is the lower of two rates, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Proceed goes on with a request that faults hit, and that Pick has chosen no instance for: as Pick would have without
// them. It may be called a while later, and once. Call's time is that of the choice.
func (t *Table) Proceed(call *Call, out *Decision) {
	if out.Status == 0 && out.Instance == nil && out.backend != nil {
		out.arrive(call)
	}
}
