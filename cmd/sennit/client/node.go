package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// A Node speaks to the node of this host. It is safe for concurrent use.
type Node struct{ conn conn }

// NewNode returns a client of the node whose unix socket this is. It connects to nothing.
func NewNode(socket string) *Node {
	return &Node{unixConn(socket, "node", "start one with `sennit node`, or name its socket with --node-socket")}
}

// Register declares the instance that a document of services.d describes.
func (n *Node) Register(ctx context.Context, document []byte) (*report.Declared, error) {
	a, err := n.conn.whole(ctx, request{method: http.MethodPut, path: report.PathServices, body: document, contentType: "application/yaml"})
	if err != nil {
		return nil, err
	}
	var out report.Declared
	if err := json.Unmarshal(a.body, &out); err != nil {
		return nil, fmt.Errorf("%s answers what cannot be read: %w", n.conn.where, err)
	}
	return &out, nil
}

// Deregister withdraws what Register declared.
func (n *Node) Deregister(ctx context.Context, namespace, name, instance string) error {
	path := report.PathServices + "/" + url.PathEscape(namespace) + "/" + url.PathEscape(name) + "/" + url.PathEscape(instance)
	_, err := n.conn.whole(ctx, request{method: http.MethodDelete, path: path})
	return err
}

// Services lists what the node runs.
func (n *Node) Services(ctx context.Context) ([]report.Registered, error) {
	var out []report.Registered
	err := n.conn.read(ctx, report.PathServices, &out)
	return out, err
}

// Status returns what the node knows of itself.
func (n *Node) Status(ctx context.Context) (*report.Node, error) {
	var out report.Node
	return &out, n.conn.read(ctx, report.PathNodeStatus, &out)
}
