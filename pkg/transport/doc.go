// Package transport carries exchanges between nodes: lanes of mutually authenticated connections, and on them
// streams that are used for one exchange after another. A lane runs over QUIC, or over TCP where UDP does not get
// through.
//
// A caller opens a Stream on the lane of a Key (its own service, the other node, the called service); the
// lane is dialled when it is first needed, replaced when its certificate rotates, and closed when nobody
// used it for a minute. The other node's Transport hands each exchange to Config.Serve, one goroutine a
// stream. Both ends are verified through Credentials in every handshake, resumed ones too, so that
// Stream.Peer is who sent the request and never what a header says.
//
// Guaranteed: a stream that was cancelled or broke is never used again; a slow reader stops its own sender
// and nobody else; every length that a peer sends is bounded; an exchange of ours allocates nothing in
// steady state. Not here: choosing an instance, retries, HTTP on the wire of applications.
//
// Start reading at Transport and Stream; frame.go and head.go hold the format, which docs/reference/wire.md specifies
// to the byte. link.go says what a carrier is, dial.go which is chosen, tcplink.go what stands for QUIC over TCP.
package transport
