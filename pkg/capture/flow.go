package capture

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// A FlowHandler drives one flow. It ends soon after ctx does, or Receive returns io.EOF; the flow ends when it returns.
type FlowHandler func(ctx context.Context, f *Flow)

// A Flow is what one socket of this host, or one address outside, sends to a listener of UDP, and what it is sent. Each
// datagram that Receive returns is one of which the kernel said behind its arrival that the very socket is still there
// whose owner may use the listener.
type Flow struct {
	Listener Listener // as it was when the flow began
	Source   netip.AddrPort

	of      *flows
	socket  uint64         // the cookie of the source's; 0: it is outside
	queue   chan *Datagram // what was received and is not taken yet
	over    chan struct{}  // closed at the end
	ended   atomic.Bool
	used    atomic.Uint32 // flows.tick when something last went either way
	asked   uint64        // datagrams that came: the receiver's
	checked uint32        // the batch in which the source was last looked at: the receiver's
	sends   bool          // it was the source's in that batch: the receiver's

	mu     sync.Mutex // among those who send
	header unix.Msghdr
	vector unix.Iovec
	name   unix.RawSockaddrInet6 // has room for an Inet4 too
	call   func(uintptr)         // send, bound once
	errno  syscall.Errno
}

// ErrStopped is returned by Receive where its stop was closed.
var ErrStopped = errors.New("stopped")

// A Datagram is one that was received. Who has it releases it.
type Datagram struct {
	b    []byte
	n    int
	from *flows
}

// Bytes are the payload, often none. They are valid until Release.
func (d *Datagram) Bytes() []byte { return d.b[:d.n] }

// Release gives the memory back.
func (d *Datagram) Release() {
	if d.from != nil {
		d.from.queued.Add(-int64(len(d.b)))
		d.from = nil
	}
	if len(d.b) == smallDatagram {
		smallDatagrams.Put(d)
	} else {
		largeDatagrams.Put(d)
	}
}

const (
	smallDatagram = 2 << 10
	largeDatagram = 65535
)

var (
	smallDatagrams = sync.Pool{New: func() any { return &Datagram{b: make([]byte, smallDatagram)} }}
	largeDatagrams = sync.Pool{New: func() any { return &Datagram{b: make([]byte, largeDatagram)} }}
)

// newDatagram returns a copy of p.
func newDatagram(p []byte) *Datagram {
	pool := &smallDatagrams
	if len(p) > smallDatagram {
		pool = &largeDatagrams
	}
	d := pool.Get().(*Datagram)
	d.n = copy(d.b, p)
	return d
}

// Receive returns the next datagram. It waits for one until stop is closed, which is ErrStopped, or the flow ends: its
// source is gone, nothing went either way for long, or the listener was closed; that is io.EOF.
func (f *Flow) Receive(stop <-chan struct{}) (*Datagram, error) {
	select {
	case <-f.over: // whoever floods it must not keep it
		return nil, io.EOF
	default:
	}
	select {
	case d := <-f.queue:
		return d, nil
	case <-stop:
		return nil, ErrStopped
	case <-f.over:
		return nil, io.EOF
	}
}

// Send sends a datagram to the source, from the listener's address. It does not wait: what the socket does not take is
// dropped, and counted. It is safe for concurrent use and keeps nothing of p.
func (f *Flow) Send(p []byte) {
	f.used.Store(f.of.tick.Load())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.vector = unix.Iovec{}
	if len(p) > 0 {
		f.vector.Base = &p[0]
		f.vector.SetLen(len(p))
	}
	err := f.of.raw.Control(f.call) // a reference to the socket, and none of its locks
	f.vector = unix.Iovec{}
	if err == nil && f.errno != 0 {
		f.of.dropped.Add(1)
	}
}

func (f *Flow) send(fd uintptr) { _, f.errno = rawsock.Sendmsg(fd, &f.header) }

// end lets go of the flow: nothing is received any more. What is queued is dropped.
func (f *Flow) end() {
	if f.ended.CompareAndSwap(false, true) {
		close(f.over)
		f.of.active.Add(-1)
	}
}

// drain releases what nobody takes any more.
func (f *Flow) drain() {
	for {
		select {
		case d := <-f.queue:
			d.Release()
		default:
			return
		}
	}
}
