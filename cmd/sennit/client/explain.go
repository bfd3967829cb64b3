package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/routing"
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

// ask posts a question as JSON, and reads the answer.
func (c *conn) ask(ctx context.Context, path string, question, into any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	a, err := c.whole(ctx, request{method: http.MethodPost, path: path, body: body, contentType: "application/json"})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("%s answers what cannot be read: %w (are this program and the %s of one version?)", c.where, err, c.who)
	}
	return nil
}
