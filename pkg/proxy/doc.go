// Package proxy drives exchanges: what an application sends to a listener goes to the node of the called
// service (outbound.go), and what a peer's node sends goes to the process (inbound.go).
//
// It is the one place of the data path that knows the others: capture hands it connections, http1 reads
// them, routing says whom to ask, transport carries it, telemetry hears how it ended. One goroutine drives
// one exchange at each node; a second one exists only while a body is sent that was not there at once.
//
// A request is sent again, to another instance, where it certainly was not processed, or where it is
// idempotent (RFC 9110 §9.2.2) and its body can be repeated, and never once a byte of the response was
// passed on. What the proxy itself answers says why in the field sennit-reason.
//
// Start reading at Outbound.Serve and Inbound.Serve.
package proxy
