package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// auditReports adds the paths of the audit and of the history.
func (c *Controller) auditReports(handle func(pattern string, h http.HandlerFunc)) {
	handle("GET "+report.PathAudit, c.recorder.serveLog)
	handle("GET "+report.PathAuditVerify, func(w http.ResponseWriter, r *http.Request) {
		expect, err := parseHead(r.URL.Query().Get("expect"))
		if err != nil {
			socket.WriteFailure(w, http.StatusBadRequest, err)
			return
		}
		found, err := c.verifyAudit(r.Context(), expect)
		if err != nil {
			socket.WriteFailure(w, http.StatusInternalServerError, err)
			return
		}
		socket.WriteJSON(w, found)
	})
	handle("GET "+report.PathRevisions, c.recorder.serveRevisions)
}

var errRead = errors.New("all is read")

// readTo calls fn for every record that a stream holds up to a sequence, and returns how far it came: what is damaged
// there is not delivered, and nobody would say so.
func readTo(ctx context.Context, records *bus.Records, last uint64, fn func(bus.Entry) error) (reached uint64, err error) {
	if last == 0 {
		return 0, nil
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	stalled := time.AfterFunc(readStall, func() { stop(errDamaged) })
	defer stalled.Stop()
	err = records.Follow(reading, 1, func(e bus.Entry) error {
		stalled.Reset(readStall)
		if e.Sequence > last {
			return errRead
		}
		if err := fn(e); err != nil {
			return err
		}
		if reached = e.Sequence; reached == last {
			return errRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errRead), ctx.Err() == nil && errors.Is(context.Cause(reading), errDamaged):
		return reached, nil
	case err == nil:
		return reached, context.Cause(ctx)
	}
	return reached, err
}

// A wish is which events somebody wants to see.
type wish struct {
	since, until    time.Time // zero: no bound
	who, kind, name string    // "": all
	documents       bool
	watch           bool
}

func parseWish(q url.Values) (wish, error) {
	w := wish{who: q.Get("who"), kind: q.Get("kind"), name: q.Get("name"), documents: q.Get("documents") == "1", watch: q.Get("watch") == "1"}
	for key, into := range map[string]*time.Time{"since": &w.since, "until": &w.until} {
		if text := q.Get(key); text != "" {
			t, err := time.Parse(time.RFC3339Nano, text)
			if err != nil {
				return w, fmt.Errorf("%s must be a time as 2026-01-02T15:04:05Z, is %q", key, text)
			}
			*into = t
		}
	}
	return w, nil
}

func (w wish) wants(e report.AuditEvent) bool {
	resource, _, _ := strings.Cut(e.Resource, ".")
	return (w.since.IsZero() || !e.Time.Before(w.since)) && (w.until.IsZero() || !e.Time.After(w.until)) &&
		(w.who == "" || w.who == e.Who) && (w.kind == "" || w.kind == e.Kind || w.kind == e.Resource || w.kind == resource) &&
		(w.name == "" || w.name == e.Name || w.name == e.Namespace+"/"+e.Name)
}

// serveLog answers the events that are wanted, in the order in which they were stored. An act that was begun is shown
// with how it ended, or at the end where that is not known.
func (r *recorder) serveLog(w http.ResponseWriter, q *http.Request) {
	wanted, err := parseWish(q.URL.Query())
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	ctx := q.Context()
	last, err := r.records.Last(ctx)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	show := func(entry *audit.Entry) error {
		event := shownEvent(entry, r.authority.Epoch())
		if !wanted.wants(event) {
			return nil
		}
		if wanted.documents {
			if err := r.addDocuments(ctx, &event); err != nil {
				return err
			}
		}
		return out.Encode(event)
	}
	type place struct {
		writer string
		number uint64
	}
	begun := map[place]*audit.Entry{}
	var order []place
	ended := func() error { // all that is stored now was read
		for _, at := range order {
			if entry := begun[at]; entry != nil {
				if err := show(entry); err != nil {
					return err
				}
			}
		}
		clear(begun)
		order = nil
		if !wanted.watch {
			return errRead
		}
		return http.NewResponseController(w).Flush()
	}
	if last == 0 {
		if ended() != nil {
			return
		}
	}
	err = r.records.Follow(ctx, 1, func(e bus.Entry) error {
		entry, err := audit.Open(e.Data)
		if err != nil { // verifying says so; the rest is worth to be seen
			r.log.Error("a record of the audit cannot be read", "sequence", e.Sequence, "err", err)
		}
		event := entry.GetEvent()
		switch at := (place{entry.GetWriter(), entry.GetNumber()}); {
		case event == nil:
		case event.GetResult() == audit.Result_RESULT_BEGUN:
			begun[at] = entry
			order = append(order, at)
		default:
			if event.GetBegun() > 0 {
				delete(begun, place{entry.GetWriter(), event.GetBegun()})
			}
			if err := show(entry); err != nil {
				return err
			}
		}
		if e.Sequence == last {
			return ended()
		}
		if e.Sequence > last {
			return http.NewResponseController(w).Flush()
		}
		return nil
	})
	if err != nil && !errors.Is(err, errRead) && ctx.Err() == nil {
		r.log.Warn("showing the audit broke off", "err", err)
		panic(http.ErrAbortHandler) // the caller must not take it for whole
	}
}

// shownEvent shows an event. Revisions are numbered as the API does it in this epoch.
func shownEvent(entry *audit.Entry, epoch uint64) report.AuditEvent {
	e := entry.GetEvent()
	number := func(r *audit.Revision) uint64 {
		if r == nil {
			return 0
		}
		return apiserver.Version(epoch, r.GetSequence())
	}
	shown := report.AuditEvent{
		Time: time.Unix(0, entry.GetUnixNs()).UTC(), Controller: entry.GetWriter(), Number: entry.GetNumber(), Kind: e.GetKind(), Who: e.GetActor(),
		From: e.GetFrom(), Verb: e.GetVerb(), Resource: e.GetResource(), Namespace: e.GetNamespace(), Name: e.GetName(), Result: report.Done,
		Detail: e.GetDetail(), Revision: number(e.GetAfter()), Was: number(e.GetBefore()), Unrecorded: e.GetUnrecorded(),
	}
	if e.GetAfter() != nil { // it may be recorded later, at the next start
		shown.Time = time.Unix(0, e.GetAfter().GetUnixNs()).UTC()
	}
	switch {
	case e.GetKind() == audit.Refusal:
		shown.Result = report.Refused
	case e.GetResult() == audit.Result_RESULT_BEGUN:
		shown.Result = report.Begun
	case e.GetResult() == audit.Result_RESULT_FAILED:
		shown.Result = report.Failed
	}
	for _, one := range e.GetCertificates() {
		shown.Certificates = append(shown.Certificates, report.IssuedCertificate{
			Serial: one.GetSerial(), SPIFFEID: one.GetSpiffeId(), NotAfter: time.UnixMilli(one.GetNotAfterUnixMs()).UTC(),
		})
	}
	return shown
}

// addDocuments adds what a document was and is.
func (r *recorder) addDocuments(ctx context.Context, event *report.AuditEvent) error {
	for version, into := range map[uint64]*json.RawMessage{event.Was: &event.Before, event.Revision: &event.After} {
		sequence, _ := apiserver.Sequence(r.authority.Epoch(), version)
		if sequence == 0 {
			continue
		}
		e, err := r.documents.At(ctx, sequence)
		if errors.Is(err, bus.ErrNotFound) {
			continue // verifying says so
		}
		if err != nil {
			return err
		}
		if written, err := apiserver.ReadWritten(e); err == nil && !written.Deleted {
			if *into, err = json.Marshal(written.Document.Object); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyAudit reads both logs from their beginnings. Where the audit ends is looked up first: a record refers to no
// document that is stored later.
func (c *Controller) verifyAudit(ctx context.Context, expect *audit.Head) (report.Verification, error) {
	var found report.Verification
	roster, err := snapshot.OpenRoster(c.cfg.Cluster, c.authority.RootHash(), c.authority.Roster())
	if err != nil {
		return found, err
	}
	data, err := c.authority.Secret(checkpointSecret)
	if err != nil {
		return found, err
	}
	kept, _, err := audit.Kept(data)
	if err != nil {
		return found, err
	}
	end, err := c.recorder.records.Last(ctx)
	if err != nil {
		return found, err
	}
	documentsEnd, err := c.recorder.documents.Last(ctx)
	if err != nil {
		return found, err
	}
	v := audit.NewVerifier(c.cfg.Cluster, roster.SigningKeys(), kept, expect)
	var unread []string
	for _, log := range []struct {
		name    string
		records *bus.Records
		end     uint64
		take    func(bus.Entry)
	}{{"log of documents", c.recorder.documents, documentsEnd, v.Document}, {"audit", c.recorder.records, end, v.Record}} {
		reached, err := readTo(ctx, log.records, log.end, func(e bus.Entry) error {
			log.take(e)
			return nil
		})
		if err != nil {
			return found, fmt.Errorf("read the %s: %w", log.name, err)
		}
		if reached < log.end {
			unread = append(unread, fmt.Sprintf("the %s holds %d records, and those behind %d cannot be read", log.name, log.end, reached))
		}
	}
	f := v.Findings()
	found = report.Verification{
		Records: f.Records, Checkpoints: f.Checkpoints, Revisions: f.Documents, Uncovered: f.Uncovered,
		Problems: append([]string{}, append(unread, f.Problems...)...), More: f.More,
	}
	if kept != nil {
		found.Kept = headText(kept)
	}
	if f.Newest != nil {
		found.Checkpoint = headText(f.Newest)
	}
	return found, nil
}

// headText names a record, parseHead reads it; nil where the text is empty.
func headText(h *audit.Head) string {
	return fmt.Sprintf("%s:%d:%x", h.GetWriter(), h.GetNumber(), h.GetHash())
}

func parseHead(text string) (*audit.Head, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, ":")
	if len(parts) == 3 {
		number, err := strconv.ParseUint(parts[1], 10, 64)
		hash, herr := hex.DecodeString(parts[2])
		if errors.Join(err, herr) == nil && len(hash) == sha256.Size {
			return &audit.Head{Writer: parts[0], Number: number, Hash: hash}, nil
		}
	}
	return nil, fmt.Errorf("%q is no checkpoint; it looks like c1:4711:5f3a…, as `sennit audit verify` prints it", text)
}

// serveRevisions says which revision was the last at a time.
func (r *recorder) serveRevisions(w http.ResponseWriter, q *http.Request) {
	at, err := time.Parse(time.RFC3339Nano, q.URL.Query().Get("at"))
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("at must be a time as 2026-01-02T15:04:05Z, is %q", q.URL.Query().Get("at")))
		return
	}
	var point report.PointInTime
	last, err := r.documents.Last(q.Context())
	if err == nil {
		_, err = readTo(q.Context(), r.documents, last, func(e bus.Entry) error {
			if e.Time.After(at) {
				return errRead
			}
			point = report.PointInTime{Revision: apiserver.Version(r.authority.Epoch(), e.Sequence), Time: e.Time}
			return nil
		})
	}
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	socket.WriteJSON(w, point)
}
