package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// AuditOptions say which events to show. The zero value is all that there are.
type AuditOptions struct {
	Since, Until    time.Time // zero: no bound
	Who, Kind, Name string
	Documents       bool // what documents were and are
	Watch           bool // go on with those that come
}

// Audit calls fn for each event, in the order in which they were stored.
func (c *Client) Audit(ctx context.Context, o AuditOptions, fn func(report.AuditEvent) error) error {
	q := url.Values{}
	for key, t := range map[string]time.Time{"since": o.Since, "until": o.Until} {
		if !t.IsZero() {
			q.Set(key, t.UTC().Format(time.RFC3339Nano))
		}
	}
	for key, text := range map[string]string{"who": o.Who, "kind": o.Kind, "name": o.Name} {
		if text != "" {
			q.Set(key, text)
		}
	}
	for key, on := range map[string]bool{"documents": o.Documents, "watch": o.Watch} {
		if on {
			q.Set(key, "1")
		}
	}
	res, err := c.conn.do(ctx, request{method: http.MethodGet, path: report.PathAudit, query: q})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for in := json.NewDecoder(res.Body); ; {
		var e report.AuditEvent
		err := in.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the audit of %s broke off: %w (try again)", c.conn.where, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// VerifyAudit has the controller verify its audit, and find a checkpoint of before; "" is none. How long that takes
// grows with the audit.
func (c *Client) VerifyAudit(ctx context.Context, expect string) (*report.Verification, error) {
	q := url.Values{}
	if expect != "" {
		q.Set("expect", expect)
	}
	res, err := c.conn.do(ctx, request{method: http.MethodGet, path: report.PathAuditVerify, query: q})
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var out report.Verification
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("%s answers what is no verification: %w", c.conn.where, err)
	}
	return &out, nil
}

// RevisionAt returns the last revision of the documents up to a time.
func (c *Client) RevisionAt(ctx context.Context, at time.Time) (report.PointInTime, error) {
	var out report.PointInTime
	a, err := c.conn.whole(ctx, request{method: http.MethodGet, path: report.PathRevisions, query: url.Values{"at": {at.UTC().Format(time.RFC3339Nano)}}})
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(a.body, &out); err != nil {
		return out, fmt.Errorf("%s answers what is no revision: %w", c.conn.where, err)
	}
	return out, nil
}
