package routing

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// faulted lists the faults of a rule and of its backends, with what they do to a request, or why nothing.
func faulted(r *rule, call *Call, req *exchange.Request) (all []PolicyVerdict) {
	var d Decision
	add := func(f *Fault, of string) {
		v := PolicyVerdict{Kind: "FaultPolicy", Name: f.ID, Detail: f.says() + of}
		if why := f.spares(call, req, &d); why != "" {
			v.Detail = "does nothing to it: " + why
		}
		all = append(all, v)
	}
	for _, f := range r.faults {
		add(f, "")
	}
	for _, b := range r.backends {
		for _, f := range b.faults[len(r.faults):] {
			add(f, " at "+b.service.String())
		}
	}
	return all
}

// spares says why the fault never hits a request; empty where it does.
func (f *Fault) spares(call *Call, req *exchange.Request, d *Decision) string {
	if req == nil {
		return "the port's bytes are not looked at"
	}
	if !f.isOf(&call.Caller) {
		var names []string
		for _, c := range f.callers {
			names = append(names, c.String())
		}
		return "the caller is not " + strings.Join(names, " or ")
	}
	if f.isFor(req, d) {
		return ""
	}
	why := whyNot(&f.matches.rules[0].match, req, d)
	if others := len(f.matches.rules) - 1; others > 0 {
		why += fmt.Sprintf(" (and none of %d other matches takes it)", others)
	}
	return why
}

// says what the fault does, as "12.5 % of requests: held back for 2s, then answered with 503".
func (f *Fault) says() string {
	var does []string
	if f.Delay > 0 {
		does = append(does, "held back for "+f.Delay.String())
	}
	switch {
	case f.Reset:
		does = append(does, "reset without an answer")
	case f.Status != 0 && f.GRPC != 0:
		does = append(does, fmt.Sprintf("answered with %d (gRPC: %d)", f.Status, f.GRPC))
	case f.Status != 0:
		does = append(does, fmt.Sprintf("answered with %d", f.Status))
	}
	if f.RequestRate > 0 {
		does = append(does, fmt.Sprintf("sent at %d bytes per second", f.RequestRate))
	}
	if f.ResponseRate > 0 {
		does = append(does, fmt.Sprintf("response passed on at %d bytes per second", f.ResponseRate))
	}
	return strconv.FormatFloat(float64(f.share)/faultShares*100, 'f', -1, 64) + " % of requests: " + strings.Join(does, ", then ")
}
