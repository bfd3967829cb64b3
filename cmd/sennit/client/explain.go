package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/analyze"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// Explain tells what nodes do with a request, by what the controller compiled.
func (c *Client) Explain(ctx context.Context, q *routing.Question) (*routing.Explanation, error) {
	var e routing.Explanation
	return &e, c.conn.ask(ctx, report.PathExplain, q, &e)
}

// Explain tells what this node does with a request now.
func (n *Node) Explain(ctx context.Context, q *routing.Question) (*routing.Explanation, error) {
	var e routing.Explanation
	return &e, n.conn.ask(ctx, report.PathNodeExplain, q, &e)
}

// CheckAccess tells whether a service may call another, by what the controller compiled.
func (c *Client) CheckAccess(ctx context.Context, q *authz.Question) (*authz.Answer, error) {
	var a authz.Answer
	return &a, c.conn.ask(ctx, report.PathAuthzCheck, q, &a)
}

// Plaintext tells which services take callers without an identity, and who these are.
func (c *Client) Plaintext(ctx context.Context) (all []report.Plaintext, err error) {
	return all, c.conn.read(ctx, report.PathPlaintext, &all)
}

// AccessDenials tells what was refused of late, and what would have been, the newest first.
func (c *Client) AccessDenials(ctx context.Context) (seen []telemetry.SeenDenial, err error) {
	return seen, c.conn.read(ctx, report.PathAuthzDenials, &seen)
}

// Analyze tells what is wrong with the documents of the controller, or would be with those in data applied (a file of
// them in YAML or JSON; nil: none).
func (c *Client) Analyze(ctx context.Context, data []byte) (*report.Analysis[analyze.Finding], error) {
	var out report.Analysis[analyze.Finding]
	return &out, c.conn.send(ctx, report.PathAnalyze, data, "application/yaml", &out)
}

// ask posts a question as JSON, and reads the answer.
func (c *conn) ask(ctx context.Context, path string, question, into any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	return c.send(ctx, path, body, "application/json", into)
}

// send posts a body, and reads the answer.
func (c *conn) send(ctx context.Context, path string, body []byte, contentType string, into any) error {
	a, err := c.whole(ctx, request{method: http.MethodPost, path: path, body: body, contentType: contentType})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("%s answers what cannot be read: %w (are this program and the %s of one version?)", c.where, err, c.who)
	}
	return nil
}
