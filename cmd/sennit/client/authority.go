package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// Authority tells what signs certificates, and how far a rotation of it has come.
func (c *Client) Authority(ctx context.Context) (*report.Authority, error) {
	var out report.Authority
	return &out, c.conn.read(ctx, report.PathAuthority, &out)
}

// Rotate begins a rotation of the "root" or the "intermediate".
func (c *Client) Rotate(ctx context.Context, what report.Rotate) error {
	return c.actOnAuthority(ctx, "/rotate", what)
}

// Withdraw ends the trust in what was replaced; with force also where certificates hang on it that have not ended.
func (c *Client) Withdraw(ctx context.Context, force bool) error {
	return c.actOnAuthority(ctx, "/withdraw", report.Withdraw{Force: force})
}

// CancelRotation takes back a root that was announced and has issued nothing.
func (c *Client) CancelRotation(ctx context.Context) error {
	return c.post(ctx, report.PathAuthority+"/cancel", nil)
}

// RootRequest asks for what the controller asks a root that is kept elsewhere, PEM.
func (c *Client) RootRequest(ctx context.Context, of report.RootRequest) ([]byte, error) {
	body, err := json.Marshal(of)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	a, err := c.send(ctx, request{method: http.MethodPost, path: report.PathAuthority + "/request", body: body})
	if err != nil {
		return nil, err
	}
	var out report.RootFile
	if err := json.Unmarshal(a.body, &out); err != nil {
		return nil, fmt.Errorf("read the controller's answer: %w", err)
	}
	return []byte(out.PEM), nil
}

// RootAnswer gives the controller what the root signed, PEM.
func (c *Client) RootAnswer(ctx context.Context, answer []byte) error {
	return c.actOnAuthority(ctx, "/accept", report.RootFile{PEM: string(answer)})
}

func (c *Client) actOnAuthority(ctx context.Context, act string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return c.post(ctx, report.PathAuthority+act, data)
}
