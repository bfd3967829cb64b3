package transport

import "time"

const (
	maxHead  = 64 << 10 // the largest head that a node may be set to accept
	maxData  = 64 << 10 // payload of one data frame
	maxSkips = 16       // frames of unknown types that are skipped within one exchange
)

// Limits bound everything that a peer can make grow. A zero value stands for the default.
type Limits struct {
	Head   int // bytes of one head or of trailers; default and most 64 KB
	Fields int // fields of one head; default 256

	Streams      int // exchanges at once on one connection that a peer opened; default 1,024
	StreamWindow int // most bytes that a peer may have in flight to a reader, in bytes; default 256 KB
	BulkWindow   int // the same on Bulk connections; default 2 MB
	// Buffered is the node's budget, in bytes, for what peers may have sent and nobody reads. When the
	// windows of stalled readers add up to more, the ones that have not read for longest are reset.
	// Default 128 MB.
	Buffered int64

	Lanes       int // outgoing lanes; the one that was not used for longest makes place; default 1,024
	Inbound     int // connections that peers opened; default 8,192
	PeerInbound int // of them, those of one service at one address; default 512
	// InboundStreams are those that peers have open, which cost this node a goroutine each, and PeerStreams those of
	// one service at one address. More are refused as if they had never been sent. Default 65,536 and 8,192.
	InboundStreams int
	PeerStreams    int
	Connections    int           // connections of one class in one lane; default 4
	IdleStreams    int           // idle streams that a connection keeps for the next exchange; default 256
	Idle           time.Duration // an unused lane is closed after this; default a minute
	Silence        time.Duration // a peer that sends nothing for so long is lost; default 10 s
	Handshake      time.Duration // a dial takes at most this; default 5 s
}

func (l Limits) withDefaults() Limits {
	l.Head = min(defaulted(l.Head, maxHead), maxHead)
	l.Fields = defaulted(l.Fields, 256)
	l.Streams = defaulted(l.Streams, 1024)
	l.StreamWindow = defaulted(l.StreamWindow, 256<<10)
	l.BulkWindow = defaulted(l.BulkWindow, 2<<20)
	l.Buffered = defaulted(l.Buffered, 128<<20)
	l.Lanes = defaulted(l.Lanes, 1024)
	l.Inbound = defaulted(l.Inbound, 8192)
	l.PeerInbound = defaulted(l.PeerInbound, 512)
	l.InboundStreams = defaulted(l.InboundStreams, 65536)
	l.PeerStreams = defaulted(l.PeerStreams, 8192)
	l.Connections = defaulted(l.Connections, 4)
	l.IdleStreams = defaulted(l.IdleStreams, 256)
	l.Idle = defaulted(l.Idle, time.Minute)
	l.Silence = defaulted(l.Silence, 10*time.Second)
	l.Handshake = defaulted(l.Handshake, 5*time.Second)
	return l
}

func defaulted[T int | int64 | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
