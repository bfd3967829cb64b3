package node

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// requestTime bounds one request to the controllers.
const requestTime = 5 * time.Second

// Words is what a node says about itself over the bus; it signs what changes state (registry.Bus). It is safe
// for concurrent use.
type Words struct {
	conn     *bus.Conn
	identity *ca.Identity
	log      *slog.Logger
	now      func() time.Time
	lastSent atomic.Int64
}

// NewWords speaks over a connection of the node that the identity is of.
func NewWords(conn *bus.Conn, identity *ca.Identity, log *slog.Logger) *Words {
	return &Words{conn: conn, identity: identity, log: log, now: time.Now}
}

// Register sends one registration, or the removal of one.
func (w *Words) Register(ctx context.Context, in *snapshot.Instance, removed bool) error {
	payload, err := proto.Marshal(&snapshot.Registration{Instance: in, Removed: removed, SentUnixNs: w.stamp()})
	if err != nil {
		return err
	}
	signature, err := w.identity.Sign(payload)
	if err != nil {
		return err
	}
	message, err := proto.Marshal(&snapshot.SignedRegistration{Registration: payload, Signature: signature})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	_, err = w.conn.Request(ctx, bus.VerbRegister, message)
	return err
}

// stamp is the time, and grows even where the clock does not.
func (w *Words) stamp() int64 {
	for {
		last := w.lastSent.Load()
		next := max(w.now().UnixNano(), last+1)
		if w.lastSent.CompareAndSwap(last, next) {
			return next
		}
	}
}

// Alive says that the node lives.
func (w *Words) Alive(ctx context.Context, alive *snapshot.Alive) (*snapshot.AliveReply, error) {
	var reply snapshot.AliveReply
	if err := w.ask(ctx, bus.VerbAlive, alive, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// ask sends a message to a controller and reads its answer into reply.
func (w *Words) ask(ctx context.Context, verb string, message, reply proto.Message) error {
	encoded, err := proto.Marshal(message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	answer, err := w.conn.Request(ctx, verb, encoded)
	if err != nil {
		return err
	}
	return proto.Unmarshal(answer, reply)
}

// Lease asks for leases of limits, and gives back what is left of others.
func (w *Words) Lease(ctx context.Context, r *quota.Request) (*quota.Answer, error) {
	message, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	reply, err := w.conn.Request(ctx, bus.VerbQuota, message)
	if err != nil {
		return nil, err
	}
	var answer quota.Answer
	return &answer, proto.Unmarshal(reply, &answer)
}

// reportEdges sends what was counted in each second in which there was something, until ctx ends. What a bus that is
// away cannot take is lost: summaries are for watching, and the next ones follow. Denials wait for it.
func (w *Words) reportEdges(ctx context.Context, edges *telemetry.Edges, denials, plaintext *telemetry.Denials) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			report := edges.Report(now)
			if w.conn.Err() != nil {
				continue
			}
			report.Denials, report.Plaintext = denials.Take(), plaintext.Take()
			if len(report.Edges)+len(report.Denials)+len(report.Plaintext) == 0 {
				continue
			}
			message, err := proto.Marshal(report)
			if err != nil {
				w.log.Error("summary of exchanges not sent", "err", err)
				continue
			}
			sending, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = w.conn.Request(sending, bus.VerbTelemetry, message) // see above
			cancel()
		}
	}
}

// reportSpans sends the spans of each second in which there were some, until ctx ends. What a bus that is away cannot
// take is lost, and counted.
func (w *Words) reportSpans(ctx context.Context, spans *telemetry.Spans) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			taken := spans.Take()
			if len(taken) == 0 {
				continue
			}
			unwanted, err := w.sendSpans(ctx, taken)
			switch {
			case err != nil:
				w.log.Debug("spans not sent", "err", err)
				spans.Lost(taken)
			case unwanted:
				spans.Unwanted(now)
			}
		}
	}
}

// sendSpans sends spans to a controller; unwanted says that it passes them on to nobody.
func (w *Words) sendSpans(ctx context.Context, spans []*telemetry.ServiceSpans) (unwanted bool, err error) {
	if err := w.conn.Err(); err != nil {
		return false, err
	}
	var reply telemetry.ReportReply
	err = w.ask(ctx, bus.VerbTelemetry, &telemetry.EdgeReport{Spans: spans}, &reply)
	return reply.GetSpansUnwanted(), err
}
