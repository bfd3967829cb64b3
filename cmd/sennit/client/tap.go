package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// Tap calls fn for each exchange that the filter wants, as nodes see them end, until ctx ends or fn fails. node is the
// only one that is asked; "": all.
func (c *Client) Tap(ctx context.Context, filter *telemetry.TapFilter, node string, fn func(telemetry.TapLine) error) error {
	q := filter.Values()
	if node != "" {
		q.Set("node", node)
	}
	return c.conn.tap(ctx, request{method: http.MethodGet, path: report.PathTap, query: q}, fn)
}

// Tap calls fn for each exchange of this host's callers that the filter wants, until ctx ends or fn fails.
func (n *Node) Tap(ctx context.Context, filter *telemetry.TapFilter, fn func(telemetry.TapLine) error) error {
	return n.conn.tap(ctx, request{method: http.MethodGet, path: report.PathNodeTap, query: filter.Values()}, fn)
}

func (c *conn) tap(ctx context.Context, r request, fn func(telemetry.TapLine) error) error {
	res, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	for in := json.NewDecoder(res.Body); ; {
		var line telemetry.TapLine
		if err := in.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("the %s at %s ended the tap (begin it again)", c.who, c.where)
			}
			return fmt.Errorf("the tap of the %s at %s broke off: %w (begin it again)", c.who, c.where, err)
		}
		if line.Ended != "" {
			return errors.New(line.Ended)
		}
		if err := fn(line); err != nil {
			return err
		}
	}
}
