package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

const (
	maxLine = 16 << 20         // of a wait, which names the nodes that have not applied
	maxWait = 10 * time.Minute // that one request asks for
)

// Wait returns when all nodes that use what changed up to a resourceVersion have applied it, or the timeout is over;
// the last Progress says which. fn is called for each step.
func (c *Client) Wait(ctx context.Context, version uint64, timeout time.Duration, fn func(report.Progress)) (report.Progress, error) {
	var last report.Progress
	for end := time.Now().Add(timeout); ; { // a controller may bound how long one answer lasts
		left := time.Until(end)
		if left <= 0 || last.Done {
			return last, nil
		}
		before := last
		err := c.waitOnce(ctx, version, min(left, maxWait), func(p report.Progress) {
			last = p
			fn(p)
		})
		if err != nil {
			return last, err
		}
		if same(last, before) { // an answer without news must not make this a busy loop
			select {
			case <-ctx.Done():
				return last, ctx.Err()
			case <-time.After(min(left, 200*time.Millisecond)):
			}
		}
	}
}

func same(a, b report.Progress) bool {
	return a.Done == b.Done && a.Applied == b.Applied && a.Interested == b.Interested
}

func (c *Client) waitOnce(ctx context.Context, version uint64, left time.Duration, fn func(report.Progress)) error {
	ctx, cancel := context.WithTimeout(ctx, left+requestTimeout)
	defer cancel()
	res, err := c.conn.do(ctx, request{method: http.MethodGet, path: report.PathWait, query: url.Values{
		"resourceVersion": {strconv.FormatUint(version, 10)}, "timeout": {left.Round(time.Millisecond).String()},
	}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var p report.Progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			return fmt.Errorf("%s answers what is no progress: %w", c.conn.where, err)
		}
		fn(p)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("waiting at %s broke off: %w", c.conn.where, err)
	}
	return nil
}

// Edges returns who calls whom; by is report.ByService, ByVersion or ByNode.
func (c *Client) Edges(ctx context.Context, by string) (edges []telemetry.GraphEdge, err error) {
	return edges, c.conn.read(ctx, report.PathEdges+"?by="+url.QueryEscape(by), &edges)
}

// Cluster returns what the controller knows of its cluster.
func (c *Client) Cluster(ctx context.Context) (*report.Cluster, error) {
	var out report.Cluster
	return &out, c.conn.read(ctx, report.PathStatus, &out)
}

// Quota tells what is used of each limit.
func (c *Client) Quota(ctx context.Context) (used []report.Quota, err error) {
	return used, c.conn.read(ctx, report.PathQuota, &used)
}

// Allow lets a node run one more service ("namespace/name").
func (c *Client) Allow(ctx context.Context, node, service string) error {
	body, err := json.Marshal(report.Allow{Service: service})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return c.post(ctx, report.PathNodes+url.PathEscape(node)+"/allow", body)
}

// Accept lets a node go on whose identity was frozen because two hosts showed it.
// key is the fingerprint of the one host that goes on; empty means the one that the registry has.
func (c *Client) Accept(ctx context.Context, node, key string) error {
	body, err := json.Marshal(report.Accept{Key: key})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	return c.post(ctx, report.PathNodes+url.PathEscape(node)+"/accept", body)
}

// Remove ends a node: it renews nothing more, and its name can be given to another host.
func (c *Client) Remove(ctx context.Context, node string) error {
	return c.post(ctx, report.PathNodes+url.PathEscape(node)+"/remove", nil)
}

func (c *Client) post(ctx context.Context, path string, body []byte) error {
	r := request{method: http.MethodPost, path: path, body: body}
	if body != nil {
		r.contentType = "application/json"
	}
	_, err := c.send(ctx, r)
	return err
}

// Kubeconfig returns a configuration for kubectl and for this command. It holds a secret, and only the controller's
// unix socket answers it. Its token is good for as long as expires says.
func (c *Client) Kubeconfig(ctx context.Context, expires time.Duration) ([]byte, error) {
	q := url.Values{"expires": {expires.String()}}
	a, err := c.send(ctx, request{method: http.MethodGet, path: report.PathKubeconfig, query: q, accept: "application/yaml, */*"})
	if err != nil {
		return nil, err
	}
	return a.body, nil
}

// Bundle returns the bundle of the cluster's trust domain, as JSON in SPIFFE's format.
func (c *Client) Bundle(ctx context.Context) ([]byte, error) {
	a, err := c.send(ctx, request{method: http.MethodGet, path: report.PathBundle})
	if err != nil {
		return nil, err
	}
	return a.body, nil
}

// read gets a JSON answer.
func (c *conn) read(ctx context.Context, path string, into any) error {
	a, err := c.whole(ctx, request{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return fmt.Errorf("%s answers what cannot be read: %w (are this program and the %s of one version?)", c.where, err, c.who)
	}
	return nil
}
