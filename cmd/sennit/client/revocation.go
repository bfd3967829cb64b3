package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// Revoke revokes a certificate, a service or a node. What it says holds from the answer on: nodes learn it within a
// second.
func (c *Client) Revoke(ctx context.Context, what report.Revoke) (*report.Revoked, error) {
	var done report.Revoked
	return &done, c.postFor(ctx, report.PathRevocations, what, &done)
}

// Undo lets the nodes run a service again that it was taken away from by revoking it everywhere.
func (c *Client) Undo(ctx context.Context, what report.Undo) (*report.Undone, error) {
	var done report.Undone
	return &done, c.postFor(ctx, report.PathUndo, what, &done)
}

// postFor sends what is asked for, and reads the answer into done.
func (c *Client) postFor(ctx context.Context, path string, what, done any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	a, err := c.send(ctx, request{method: http.MethodPost, path: path, body: body, contentType: "application/json"})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, done); err != nil {
		return fmt.Errorf("%s answers what cannot be read: %w", c.conn.where, err)
	}
	return nil
}

// Revocations lists those that are in force.
func (c *Client) Revocations(ctx context.Context) (all []report.Revocation, err error) {
	return all, c.conn.read(ctx, report.PathRevocations, &all)
}

// Certificates lists those that the controller issued; empty filters let all through.
func (c *Client) Certificates(ctx context.Context, node, service, serial, state string) (all []report.HeldCertificate, err error) {
	q := url.Values{}
	for key, value := range map[string]string{"node": node, "service": service, "serial": serial, "state": state} {
		if value != "" {
			q.Set(key, value)
		}
	}
	return all, c.conn.read(ctx, report.PathCertificates+"?"+q.Encode(), &all)
}
