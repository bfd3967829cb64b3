package proxy

import (
	"crypto/rand"
	"crypto/sha1" // RFC 6455 has it, to find out that both sides speak of a WebSocket; it protects nothing
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// On a lane, a switch to another protocol is what it is in HTTP/1.1: a GET with an Upgrade, answered with 101. HTTP/2 has
// an extended CONNECT for it (RFC 8441), of which its codec makes the same. What is left to do is the handshake of
// WebSockets, which HTTP/1.1 has (RFC 6455 §4) and HTTP/2 has not (RFC 8441 §5).

const (
	websocketKey    = "sec-websocket-key"
	websocketAccept = "sec-websocket-accept"
)

// errNotSwitched is what a caller of HTTP/2 must not see: a success is a tunnel to it.
var errNotSwitched = errors.New("the service answered with success, and did not switch to the protocol that was asked for")

var errWebSocket = errors.New("the service accepted another WebSocket than was asked for (RFC 6455 §4.1)")

// newWebSocketKey is what HTTP/1.1 has a client send, so that an answer is to its own request.
func newWebSocketKey() string {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// acceptOf is what a server answers to a key.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func isWebSocket(protocol string) bool { return exchange.EqualName(protocol, "websocket") }

// asksToSwitch adds what HTTP/1.1 wants of a request for a WebSocket that came by HTTP/2.
func (c *caller) asksToSwitch() {
	if c.key = ""; c.stream != nil && isWebSocket(c.request.Upgrade) {
		c.key = newWebSocketKey()
		c.request.Fields.Set(websocketKey, c.key)
	}
}

// misled tells what is wrong with an answer to a caller that takes any success for a switch: one of HTTP/2, and one that
// asks for CONNECT.
func (c *caller) misled() error {
	switch {
	case c.stream == nil && c.request.Method != "CONNECT" || c.request.Upgrade == "" || c.response.Status > 299:
		return nil
	case c.response.Status != 101:
		return errNotSwitched
	case c.key == "":
		return nil
	}
	if accept, _ := c.response.Fields.Get(websocketAccept); accept != acceptOf(c.key) {
		return errWebSocket
	}
	c.response.Fields.Del(websocketAccept)
	return nil
}

// asksToSwitch takes from a request what a process of HTTP/2 does not get.
func (e *serving) asksToSwitch() {
	e.upgrade, e.accept = e.request.Upgrade, ""
	if isWebSocket(e.upgrade) {
		key, _ := e.request.Fields.Get(websocketKey)
		e.request.Fields.Del(websocketKey)
		e.accept = acceptOf(key)
	}
}

// switchBy asks for the upgrade where the process takes that by HTTP/2, and else for none: a server may ignore it (RFC
// 9110 §7.8).
func (e *serving) switchBy(c *http2.ClientStream) error {
	if e.request.Upgrade = e.upgrade; e.upgrade == "" || e.request.Method == "CONNECT" {
		return nil
	}
	takes, err := c.Tunnels()
	if err != nil {
		return fmt.Errorf("%w: %w", http2.ErrNotProcessed, err)
	}
	if !takes {
		e.request.Upgrade = ""
	}
	return nil
}

// switched passes bytes both ways once a process of HTTP/2 has switched, until both sides have ended.
func (e *serving) switched(c *http2.ClientStream, stream *transport.Stream) error {
	if e.accept != "" {
		e.response.Fields.Set(websocketAccept, e.accept)
	}
	if err := stream.WriteResponse(&e.response); err != nil {
		return err
	}
	if err := stream.Flush(); err != nil {
		return err
	}
	_, _, err := tunnel(tunnelled{c.Body(), c, func() { _ = c.Close() }}, stream, nil)
	return err
}

// A tunnelled is a stream of HTTP/2 behind the switch to another protocol, as tunnel wants a connection.
type tunnelled struct {
	io.Reader
	to    bodyWriter
	abort func()
}

// Write writes and sends.
func (t tunnelled) Write(p []byte) (int, error) {
	n, err := t.to.Write(p)
	if err == nil {
		err = t.to.Flush()
	}
	return n, err
}

// CloseWrite ends what is written.
func (t tunnelled) CloseWrite() error { return t.to.Finish() }

// Close breaks both directions off.
func (t tunnelled) Close() error {
	t.abort()
	return nil
}
