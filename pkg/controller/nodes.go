package controller

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// verbs are what nodes may ask.
func (c *Controller) verbs() iter.Seq2[string, bus.Handler] {
	return func(yield func(string, bus.Handler) bool) {
		_ = yield(bus.VerbJoin, c.registrar.Join) &&
			yield(bus.VerbRenew, c.registrar.Renew) &&
			yield(bus.VerbCatchup, c.publisher.Catchup) &&
			yield(bus.VerbApplied, c.publisher.Report) &&
			yield(bus.VerbRegister, c.register) &&
			yield(bus.VerbAlive, c.alive) &&
			yield(bus.VerbQuota, c.lease) &&
			yield(bus.VerbTelemetry, c.telemetry) &&
			yield(bus.VerbTap, c.tapped) &&
			yield(bus.VerbWorkload, c.registrar.Workload)
	}
}

// register takes in a registration, if the node's key signed it and it is newer than the last.
func (c *Controller) register(ctx context.Context, node string, request []byte) ([]byte, error) {
	var signed snapshot.SignedRegistration
	var registration snapshot.Registration
	if err := errors.Join(proto.Unmarshal(request, &signed), proto.Unmarshal(signed.GetRegistration(), &registration)); err != nil || registration.GetInstance() == nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: "not a registration"}
	}
	if err := c.registrar.VerifyNode(ctx, node, signed.GetRegistration(), signed.GetSignature()); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_DENIED, Message: err.Error()}
	}
	in := registration.GetInstance()
	if err := c.sent.check(node, time.Unix(0, registration.GetSentUnixNs()), c.cfg.Now()); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_CONFLICT, Message: err.Error()}
	}
	err := c.catalogue.Register(ctx, node, in, registration.GetRemoved())
	switch {
	case errors.Is(err, registry.ErrNotAllowed):
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_DENIED, Message: fmt.Sprintf("%v (allow it with `sennit node allow %s %s`)", err, node, in.GetService())}
	case errors.Is(err, registry.ErrInvalid):
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: err.Error()}
	case err != nil:
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_UNAVAILABLE, Message: err.Error()}
	}
	return nil, nil
}

func (c *Controller) alive(_ context.Context, node string, request []byte) ([]byte, error) {
	var alive snapshot.Alive
	if err := proto.Unmarshal(request, &alive); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: "not an alive message"}
	}
	c.refreshKeySets(&alive)
	return proto.Marshal(c.catalogue.Alive(node, &alive))
}

func (c *Controller) telemetry(_ context.Context, node string, request []byte) ([]byte, error) {
	var edges telemetry.EdgeReport
	if err := proto.Unmarshal(request, &edges); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: "not an edge report"}
	}
	runs := func(service exchange.ServiceName) bool { return c.members.allowed(node, service) }
	if len(edges.GetSpans()) > 0 {
		if c.exporter == nil {
			return proto.Marshal(&telemetry.ReportReply{SpansUnwanted: true})
		}
		c.exporter.Add(node, edges.GetSpans(), runs)
		edges.Spans = nil // the graph keeps reports
	}
	ownEdges(&edges, runs)
	runsNamed := func(service string) bool {
		name, err := exchange.ParseServiceName(service)
		return err == nil && runs(name)
	}
	now := time.Now()
	if err := errors.Join(c.denials.Report(edges.GetDenials(), runsNamed, now), c.plaintext.Report(edges.GetPlaintext(), runsNamed, now)); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: err.Error()}
	}
	edges.Denials, edges.Plaintext = nil, nil // the graph keeps reports
	if err := c.graph.Add(node, &edges, time.Now()); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_TOO_MANY, Message: err.Error()}
	}
	return nil, nil
}

// ownEdges drops what a node says about callers that it does not run: it would tell lies about others.
func ownEdges(report *telemetry.EdgeReport, runs func(caller exchange.ServiceName) bool) {
	report.Edges = slices.DeleteFunc(report.Edges, func(e *telemetry.EdgeSummary) bool {
		if e.GetCaller() == "" { // of what overflowed the node's table
			return e.GetCallee() != telemetry.Overflow.Callee.String()
		}
		caller, err := exchange.ParseServiceName(e.GetCaller())
		return err != nil || !runs(caller)
	})
}

// maxRegistrationSkew is how far the time at which a registration was sent may be from the controller's. It is
// more than a host's clock may be off when it joins.
const maxRegistrationSkew = 15 * time.Minute

// sentTimes remembers when the newest registration of each node was sent, so that a replayed one changes
// nothing. A node sends one after the other, each with a later time than the one before. After a restart,
// which forgets, only what is as old as maxRegistrationSkew can be replayed, and the node's next digest sets it right.
type sentTimes struct {
	mu   sync.Mutex
	last map[string]time.Time // by node: those alone whose signature was verified
}

// check takes in that a registration was sent, or says why it is not the newest. A time far ahead is refused: it
// would shut out all that the node sends once its clock is right.
func (s *sentTimes) check(node string, sent, now time.Time) error {
	if skew := sent.Sub(now); skew.Abs() > maxRegistrationSkew {
		return fmt.Errorf("the registration was sent %s by this host's clock, and the controller's says %s: set the one that is wrong (`timedatectl set-ntp true`)",
			sent.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[string]time.Time)
	}
	if !sent.After(s.last[node]) {
		return errors.New("a newer registration of this node is known (is this host's clock set back?)")
	}
	s.last[node] = sent
	return nil
}

// instanceRecords lets the catalogue keep its records in a stream.
type instanceRecords struct{ *bus.Records }

// Append stores a record.
func (r instanceRecords) Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error) {
	sequence, err := r.Records.Append(ctx, subject, data, expect)
	return sequence, registryError(err)
}

// Get reads a record.
func (r instanceRecords) Get(ctx context.Context, subject string) (registry.Entry, error) {
	entry, err := r.Records.Get(ctx, subject)
	return registry.Entry(entry), registryError(err)
}

// Follow hands over records.
func (r instanceRecords) Follow(ctx context.Context, from uint64, fn func(registry.Entry) error) error {
	return r.Records.Follow(ctx, from, func(e bus.Entry) error { return fn(registry.Entry(e)) })
}

func registryError(err error) error {
	switch {
	case errors.Is(err, bus.ErrConflict):
		return errors.Join(registry.ErrConflict, err)
	case errors.Is(err, bus.ErrNotFound):
		return errors.Join(registry.ErrNotFound, err)
	}
	return err
}

// allowedTo reports whether a node's services hold one.
func allowedTo(services []exchange.ServiceName, service exchange.ServiceName) bool {
	for _, s := range services {
		if s == service {
			return true
		}
	}
	return false
}
