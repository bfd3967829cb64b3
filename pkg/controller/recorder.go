package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

const (
	// checkpointSecret is where the authority keeps a copy of the newest checkpoint, apart from the streams.
	checkpointSecret = "audit-checkpoint"

	recordTimeout     = 10 * time.Second
	refusalsPerMinute = 60  // that are recorded each; what comes above is counted
	maxIssuedQueue    = 256 // certificates of this controller's own listeners that wait to be recorded
)

// A recorder says to the audit what this controller does. It is safe for concurrent use.
type recorder struct {
	writer    *audit.Writer
	heads     *audit.Heads
	records   *bus.Records // the audit's stream
	documents *bus.Records
	authority *ca.Authority
	log       *slog.Logger
	own       chan ca.Issued // certificates of this controller's own
	nodes     *refusals
	damage    string // found at the start, and to be recorded before anything else; empty: none

	recorded bus.Progress // of the changes of documents

	mu         sync.Mutex
	minute     time.Time // in which refusals are counted
	refusals   int
	unrecorded uint64
}

// newRecorder begins where the copy of the newest checkpoint says, or at the beginning where there is none.
func (c *Controller) newRecorder(ctx context.Context) (*recorder, error) {
	data, err := c.authority.Secret(checkpointSecret)
	if err != nil {
		return nil, err
	}
	head, kept, err := audit.Kept(data)
	if err != nil {
		return nil, fmt.Errorf("%w (restore the authority's files from a backup)", err)
	}
	r := &recorder{
		records: c.conn.Records(bus.StreamAudit), documents: c.conn.Records(bus.StreamResource), authority: c.authority, log: c.log,
		own: c.issued, nodes: &c.refusals,
	}
	last, err := r.records.Last(ctx)
	if err != nil {
		return nil, err
	}
	if head != nil && last <= kept.GetRead() {
		r.damage = fmt.Sprintf("the audit ends with record %d of its stream, and a copy was kept of checkpoint %s: what was behind is missing", last, headText(head))
		c.log.Error("the end of the audit was cut off; its stream was damaged, or restored from an older backup than ca.db", "last", last, "checkpoint", headText(head))
		kept = nil
	}
	r.writer = audit.NewWriter(audit.WriterConfig{
		Store: r.records, Cluster: c.cfg.Cluster, Writer: c.cfg.Name, Signer: c.authority.Signer, Log: c.log, Now: c.cfg.Now,
	})
	r.heads = audit.NewHeads(r.records, kept)
	return r, nil
}

// keep stores a copy of a checkpoint.
func (r *recorder) keep(checkpoint []byte) error {
	return r.authority.PutSecret(checkpointSecret, checkpoint)
}

// changes records every revision in the log of documents, in its order, until ctx ends. It begins with those that were
// stored when a process died before it could record them, so that none is ever without its record.
func (r *recorder) changes(ctx context.Context) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		at, err := r.heads.Documents(ctx)
		if err == nil && r.damage != "" { // before a checkpoint takes the place of the copy
			if _, err = r.writer.Record(ctx, &audit.Event{Kind: audit.Damage, Actor: "system:controller", Verb: "start", Detail: r.damage}); err == nil {
				r.damage = ""
			}
		}
		if err == nil {
			r.recorded.Reach(at)
			err = r.documents.Follow(ctx, at+1, func(e bus.Entry) error {
				if err := r.change(ctx, e); err != nil {
					return err
				}
				pause = 50 * time.Millisecond
				r.recorded.Reach(e.Sequence)
				return nil
			})
		}
		if ctx.Err() != nil || errors.Is(err, audit.ErrStopped) {
			return nil
		}
		r.log.Error("changes cannot be recorded; nobody is told that a change was made", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (r *recorder) change(ctx context.Context, e bus.Entry) error {
	event := &audit.Event{Kind: audit.Change, After: audit.RevisionOf(e)}
	w, err := apiserver.ReadWritten(e)
	if err != nil { // it is recorded as it is: the log has it
		event.Detail = fmt.Sprintf("the revision cannot be read: %v", err)
	} else {
		event.Actor, event.From, event.Verb, event.Deleted = w.User, w.From, w.Verb, w.Deleted
		event.Namespace, event.Name = w.Document.GetNamespace(), w.Document.GetName()
		event.Resource = strings.ToLower(w.Document.GetKind())
		if w.Kind != nil {
			event.Resource = w.Kind.GroupResource().String()
		}
	}
	if w.Was > 0 {
		before, err := r.documents.At(ctx, w.Was)
		if err != nil {
			return err
		}
		event.Before = audit.RevisionOf(before)
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	_, err = r.writer.Record(ctx, event)
	return err
}

// await returns when the change of a document is recorded.
func (r *recorder) await(ctx context.Context, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if err := r.recorded.Wait(ctx, sequence); err != nil {
		return fmt.Errorf("the change is stored, and could not be recorded in the audit yet: %w", err)
	}
	return nil
}

// hook is told of every change (apiserver.Config.Hook). Documents are recorded from their log; what has no history
// is recorded before it is done, and how it ended.
func (r *recorder) hook(ctx context.Context, c apiserver.Change) error {
	status := strings.HasSuffix(c.Verb, "/status")
	switch {
	case c.DryRun:
		return nil
	case !c.Kind.Derived && !status && c.Sequence > 0:
		return r.await(ctx, c.Sequence)
	case !c.Kind.Derived && !status:
		return nil
	}
	event := &audit.Event{
		Kind: audit.Change, Actor: c.User, From: c.From, Verb: c.Verb, Resource: c.Kind.GroupResource().String(), Namespace: c.Namespace, Name: c.Name,
	}
	if c.Kind == api.JoinTokens && c.After != nil {
		var token api.JoinToken
		if err := api.As(c.After, &token); err == nil {
			event.Detail = strings.TrimSpace("for node " + token.Spec.Node + " " + strings.Join(token.Spec.Services, ", "))
		}
	}
	if c.Kind == api.OperatorTokens {
		event.Detail = auditedToken(cmp.Or(c.After, c.Before))
	}
	switch {
	case c.Err != nil:
		event.Result, event.Detail = audit.Result_RESULT_FAILED, c.Err.Error()
	case c.Sequence == 0:
		event.Result = audit.Result_RESULT_BEGUN
	}
	event.Begun = *c.Begun
	stored, err := r.writer.Record(ctx, event)
	*c.Begun = stored.Number
	return err
}

// decision records what became of a node's request (ca.RegistrarConfig.Record).
func (r *recorder) decision(ctx context.Context, d ca.Decision) error {
	event := &audit.Event{Kind: audit.Join, Actor: d.Node, From: "the bus", Verb: d.Verb, Resource: api.Nodes.GroupResource().String(), Name: d.Node}
	switch {
	case d.Refused != nil:
		if event = r.nodes.now(d.Node, d.Verb, d.Refused.Error(), time.Now()); event == nil {
			return nil // with others, later
		}
	case d.Issued != nil:
		event.Kind = audit.Issuance
		event.Certificates = certificates(d.Issued...)
	default:
		event.Detail = strings.Join(d.Services, ", ")
	}
	if d.Address != "" {
		event.From = "the bus, advertises " + d.Address
	}
	_, err := r.writer.Record(ctx, event)
	return err
}

func certificates(issued ...ca.Issued) (all []*audit.Certificate) {
	for _, one := range issued {
		all = append(all, &audit.Certificate{Serial: one.Serial, SpiffeId: one.SPIFFEID, NotAfterUnixMs: one.NotAfter.UnixMilli()})
	}
	return all
}

// refused records a request of somebody who may not (apiserver.Config.Refused).
func (r *recorder) refused(c apiserver.Caller, method, path string, why error) {
	const maxPath = 1024
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	event := &audit.Event{Kind: audit.Refusal, Actor: c.User, From: c.From, Verb: strings.ToLower(method), Detail: path[:min(len(path), maxPath)] + ": " + why.Error()}
	if err := r.refusal(ctx, event); err != nil && !errors.Is(err, audit.ErrStopped) {
		r.log.Error("a refusal cannot be recorded", "err", err)
	}
}

// refusedUnseen counts a refusal that is not recorded (apiserver.Config.RefusedUnseen).
func (r *recorder) refusedUnseen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unrecorded++
}

// refusal records a refusal, if there are not too many: who has nothing could fill the disk otherwise. The next one
// that is recorded says how many were not.
func (r *recorder) refusal(ctx context.Context, event *audit.Event) error {
	r.mu.Lock()
	if now := time.Now(); now.Sub(r.minute) >= time.Minute {
		r.minute, r.refusals = now, 0
	}
	if r.refusals++; r.refusals > refusalsPerMinute {
		r.unrecorded++
		r.mu.Unlock()
		return nil
	}
	event.Unrecorded, r.unrecorded = r.unrecorded, 0
	r.mu.Unlock()
	_, err := r.writer.Record(ctx, event)
	return err
}

// issuedToItself records the certificates of this controller's own listeners until ctx ends. They are made during
// handshakes, which must not wait for the disk; their keys never leave the process.
func (r *recorder) issuedToItself(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case one := <-r.own:
			event := &audit.Event{Kind: audit.Issuance, Actor: "system:controller", Verb: "renew", Certificates: certificates(one)}
			if _, err := r.writer.Record(ctx, event); err != nil && ctx.Err() == nil && !errors.Is(err, audit.ErrStopped) {
				r.log.Error("a certificate of this controller's cannot be recorded", "err", err)
			}
		}
	}
}

// act records what an operator does to a node or makes for himself, before it is done and how it ended.
func (r *recorder) act(q *http.Request, event *audit.Event, do func() error) error {
	caller, _ := apiserver.CallerOf(q.Context())
	event.Actor, event.From = caller.User, caller.From
	if event.Kind == "" {
		event.Kind = audit.Change
	}
	return r.writer.Do(q.Context(), event, do)
}

// localCaller is who sent a request over the unix socket.
func localCaller(r *http.Request) apiserver.Caller {
	peer, ok := socket.PeerOf(r.Context())
	if !ok {
		return apiserver.Caller{User: "unknown", From: r.RemoteAddr}
	}
	name := "uid-" + strconv.Itoa(peer.UID)
	if u, err := user.LookupId(strconv.Itoa(peer.UID)); err == nil {
		name = u.Username
	}
	return apiserver.Caller{User: name, From: fmt.Sprintf("unix socket, uid %d, pid %d", peer.UID, peer.PID)}
}
