// Package http2 is the HTTP/2 codec (RFC 9113) for exchanges: ServerConn for applications that call, ClientConn
// for services that are called.
//
// A connection has one goroutine that reads, one that writes while there is something to write, and one for each
// stream, which belongs to the handler or the caller. Nobody waits for a stream but its own: bytes that its goroutine
// does not take stay in a buffer that its window bounds, and what the peer does not take stops its own writer.
//
// It is as strict as http1: what RFC 9113 forbids, or what a reader of HTTP/1.1 would understand in another way, is
// refused and never handed on. Whatever a peer can make grow, or make happen for nothing, has a limit (Limits,
// patience). It uses the Framer and the HPACK of golang.org/x/net and neither its server nor its client, and knows
// nothing about routing.
//
// An extended CONNECT (RFC 8441) is handed on as what HTTP/1.1 has for it, a GET with an Upgrade, and answered with a 101.
// There is no server push and no priority.
//
// Start reading at ServerConn.Serve and stream.
package http2
