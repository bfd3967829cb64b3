package proxy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/login"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// Users say how it is known who the end users of requests to services of this host are.
type Users interface {
	// Policy is how they are known to a service; nil: nobody asks; false: it is not known whether anybody does. It may wait
	// for that for a while.
	Policy(ctx context.Context, service exchange.ServiceName) (*authn.Policy, bool)
	// Refused hears of a request that was refused by a policy, "<ns>/<name>", and why.
	Refused(seen *Observation, policy string, why *authn.Refusal)
}

// noToken is what a connection that nobody looks into has.
var noToken = &authn.Refusal{Status: http.StatusUnauthorized, Detail: "a connection has no token"}

// proves finds out who the end user of an inbound request is, or refuses it: before anybody decides who may have what, and
// before the process is dialled. From then on the request is as the process is to see it.
func (in *Inbound) proves(ctx context.Context, e *serving, stream *transport.Stream) (*authn.User, bool) {
	e.hears = hearing{}
	if in.Users == nil {
		return nil, true
	}
	policy, known := in.Users.Policy(ctx, stream.Local())
	if !known {
		stream.Reset(exchange.InstanceNotServed)
		return nil, false
	}
	if policy == nil {
		return nil, true
	}
	e.hears.users = policy
	now := time.Now()
	if e.request.Kind != exchange.HTTP {
		if !policy.Optional() {
			in.unproven(e, stream, noToken, now)
			stream.Reset(exchange.Denied)
			return nil, false
		}
		return nil, true
	}
	user, refusal := policy.Admit(&e.request, now)
	if refusal != nil {
		in.unproven(e, stream, refusal, now)
		if err := e.answerRefused(stream, refusal); err != nil {
			in.log.Debug("a caller does not hear why it was refused", "service", stream.Local().String(), "peer", stream.Peer().String(), "err", err)
		}
		return nil, false
	}
	return user, true
}

// unproven tells of a request that is refused.
func (in *Inbound) unproven(e *serving, stream *transport.Stream, why *authn.Refusal, now time.Time) {
	e.spot.join(&e.request)
	e.seen = Observation{
		Kind: e.request.Kind, Inbound: true, Caller: e.caller(stream), Callee: stream.Local(), Instance: e.request.Target.Instance,
		Method: e.request.Method, Path: e.request.Path, Host: e.request.Authority, Start: now,
		Outcome: exchange.Outcome{Reason: exchange.Unauthenticated},
	}
	if e.request.Kind == exchange.HTTP {
		e.seen.Outcome.Status = why.Status
	}
	if !e.plaintext {
		e.seen.CallerNode = stream.Home().Node
	}
	e.seen.traced(&e.spot)
	in.Users.Refused(&e.seen, e.hears.users.Origin(), why)
}

// answerRefused answers in the place of the process.
func (e *serving) answerRefused(stream *transport.Stream, why *authn.Refusal) error {
	fields := append(e.response.Fields[:0], refusedFields(why)...)
	fields = append(fields, exchange.Field{Name: "sennit-reason", Value: string(exchange.Unauthenticated)})
	text := ""
	e.response = exchange.Response{Status: why.Status}
	if isGRPC(&e.request) {
		e.response.Status = http.StatusOK
		fields = append(fields, exchange.Field{Name: "content-type", Value: "application/grpc"})
		fields = append(fields, gRPCStatus(gRPCUnauthenticated, 0, exchange.Unauthenticated)...)
	} else {
		text = fmt.Sprintf("%d %s: %s\n", why.Status, http.StatusText(why.Status), exchange.Unauthenticated)
		fields = append(fields, exchange.Field{Name: "content-type", Value: "text/plain; charset=utf-8"})
	}
	e.response.Fields, e.response.BodyLength = fields, int64(len(text))
	if err := stream.WriteResponse(&e.response); err != nil {
		return err
	}
	if text != "" && !exchange.BodyForbidden(e.request.Method, e.response.Status) {
		if _, err := stream.Write([]byte(text)); err != nil {
			return err
		}
	}
	return stream.End()
}

// refusedFields are what a caller is told beside the status.
func refusedFields(why *authn.Refusal) []exchange.Field {
	if why.Challenge == "" {
		return nil
	}
	return []exchange.Field{{Name: "WWW-Authenticate", Value: why.Challenge}}
}

// prove finds out who the end user of a request from outside is, where the rule that matched asks. Where that is refused, or
// where somebody signs in, the decision becomes an answer: the instance that was picked is not asked.
func (c *caller) prove(ctx context.Context) {
	d := &c.decision
	if c.outside == nil {
		return
	}
	if c.outside.users = d.Users; d.Users == nil || d.Status != 0 {
		return
	}
	session := ""
	l := c.login(d.Users)
	if l != nil {
		if l.Answers(c.request.Path) {
			c.answerLogin(l.Answer(ctx, &c.request, d.Users, c.seen.Start))
			return
		}
		is := l.Session(ctx, &c.request, d.Users, c.seen.Start)
		if session, c.renewed = is.Token, is.Fields; is.Detail != "" {
			c.Log.Debug("a session at a gateway was not renewed", "service", c.call.Callee.String(), "policy", d.Users.Origin(), "err", is.Detail)
		}
	}
	_, by, refusal := d.Users.AdmitSession(&c.request, session, c.seen.Start)
	switch {
	case refusal == nil:
		if by && l.Forwards() {
			c.request.Fields.Set("Authorization", "Bearer "+session)
		}
	case refusal.Missing() && l != nil && login.Wants(&c.request):
		c.answerLogin(l.Begin(ctx, &c.request, d.Users, c.seen.Start))
	default:
		c.advice = refusedFields(refusal)
		d.Refuse(refusal.Status, exchange.Unauthenticated, "AuthenticationPolicy "+d.Users.Origin()+": "+refusal.Detail)
		c.code = gRPCUnauthenticated
	}
}

// tellSession has the response take the cookies of a session that was renewed to the browser, and to no cache on the way.
func (c *caller) tellSession(r *exchange.Response) {
	if len(c.renewed) == 0 {
		return
	}
	r.Fields = slices.DeleteFunc(r.Fields, func(f exchange.Field) bool {
		name := strings.ToLower(f.Name) // RFC 9213 §2.2 has some for single caches
		return strings.HasSuffix(name, "cache-control") || name == "expires" || name == "surrogate-control"
	})
	r.Fields = append(r.Fields, c.renewed...)
}

// login is how people sign in under a policy; nil: they do not, as they cannot without TLS, over which sessions go alone.
func (c *caller) login(users *authn.Policy) *login.Login {
	if users.Login() == nil || c.Logins == nil || !c.call.Secure {
		return nil
	}
	return c.Logins(c.call.Callee, users.Origin())
}

// answerLogin answers somebody who signs in or out.
func (c *caller) answerLogin(a *login.Answer) {
	c.advice = a.Fields
	reason := exchange.Completed
	if a.Detail != "" {
		reason = exchange.Unauthenticated
		c.Log.Debug("signing in at a gateway failed", "service", c.call.Callee.String(), "policy", c.decision.Users.Origin(), "err", a.Detail)
	}
	c.decision.Refuse(a.Status, reason, a.Detail)
	c.asSent()
	c.seen.Path, _, _ = strings.Cut(c.seen.Path, "?") // which has the code and the state
}
