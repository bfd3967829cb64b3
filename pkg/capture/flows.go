package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sennit-mesh/sennit/internal/rawsock"
)

// flows are those of one listener of UDP. One goroutine receives for all of them, and it alone knows them by their
// sources, so that no lock is taken for a datagram.
type flows struct {
	ls      *Listeners
	s       *socket
	conn    *net.UDPConn
	raw     syscall.RawConn
	owners  *owners
	address netip.AddrPort // of the listener
	outside bool           // of a gateway: nobody knows its sources
	six     bool
	mostOf  int // of one source outside
	tick    atomic.Uint32
	active  atomic.Int64
	queued  atomic.Int64 // bytes of memory that wait in the flows' queues
	dropped atomic.Uint64

	// The receiver's:
	open     map[netip.AddrPort]*Flow
	in       incoming
	batch    uint32
	lastFull uint32 // tick when silent flows were last looked for, to make place
}

const (
	// sweepFlows is how often sources are looked at that send nothing, and the unit of the following two.
	sweepFlows = time.Second
	// silentFlow is after how long without a datagram either way a flow ends: RFC 4787 §4.3 asks for two minutes.
	silentFlow = 120
	// quietFlow is after how long a flow makes place where there are too many, and askedOnce the same of one that had one
	// datagram: clients of DNS have a socket for each question.
	quietFlow = 10
	askedOnce = 2
	// flowQueue is how many datagrams of a flow wait to be taken, and listenerQueue how many bytes of memory those of all
	// of a listener's flows may take. What comes then is dropped.
	flowQueue     = 64
	listenerQueue = 8 << 20
)

// listenUDP opens one address of UDP. One that is for local processes takes what comes by the loopback interface and
// nothing else, whatever the host lets in (route_localnet).
func (ls *Listeners) listenUDP(ctx context.Context, l Listener, s *socket) (*flows, error) {
	if ls.cfg.HandleFlow == nil || !l.Gateway && !l.Address.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %s over UDP: it must be of 127.0.0.0/8 or ::1", l.Address)
	}
	config := net.ListenConfig{}
	if !l.Gateway {
		config.Control = func(_, _ string, c syscall.RawConn) error {
			var bound error
			if err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), "lo") }); err != nil {
				return err
			}
			if bound != nil {
				return fmt.Errorf("take datagrams from the loopback interface alone: %w (Linux 5.7 lets everybody ask for that)", bound)
			}
			return nil
		}
	}
	network := "udp4"
	if l.Address.Addr().Is6() {
		network = "udp6"
		if l.Gateway && l.Address.Addr().IsUnspecified() {
			network = "udp" // both
		}
	}
	owners, err := newOwners(unix.IPPROTO_UDP)
	if err != nil {
		return nil, err
	}
	opened, err := config.ListenPacket(ctx, network, l.Address.String())
	if err != nil {
		err = unopened(err, l.Address, owners)
		owners.close()
		return nil, err
	}
	fs := &flows{ls: ls, s: s, outside: l.Gateway, conn: opened.(*net.UDPConn), owners: owners, open: map[netip.AddrPort]*Flow{}}
	fs.mostOf = min(ls.cfg.MaxOfSource, ls.cfg.MaxFlows)
	fs.address = fs.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	fs.in.call = fs.in.receive
	fs.raw, err = fs.conn.SyscallConn()
	if err == nil {
		err = fs.raw.Control(func(fd uintptr) {
			domain, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN) // known since Linux 2.6.32
			fs.six = domain == unix.AF_INET6
		})
	}
	if err != nil {
		fs.conn.Close()
		owners.close()
		return nil, err
	}
	return fs, nil
}

// Close ends the listener and its flows.
func (fs *flows) Close() error { return fs.conn.Close() }

// Addr is net.Listener's.
func (fs *flows) Addr() net.Addr { return fs.conn.LocalAddr() }

// receive takes datagrams in until the listener is closed.
func (fs *flows) receive(ctx context.Context, running *sync.WaitGroup) {
	defer func() {
		for _, f := range fs.open {
			f.end()
		}
		fs.owners.close()
	}()
	var next time.Time // of the sweep; zero: there is no flow
	for {
		err := fs.raw.Read(fs.in.call)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		if err != nil {
			return
		}
		fs.batch++
		for i := range fs.in.n {
			fs.take(ctx, &fs.in.from[i], fs.in.got[i], running)
			fs.in.got[i] = nil
		}
		fs.in.n = 0
		next = fs.sweepAt(next, time.Now())
	}
}

// sweepAt sweeps where that is due, and says when it is due again.
func (fs *flows) sweepAt(due, now time.Time) time.Time {
	again := due
	switch {
	case !due.IsZero() && now.Before(due):
	case due.IsZero() && len(fs.open) == 0:
	case due.IsZero():
		again = now.Add(sweepFlows)
	default:
		fs.sweep()
		if again = now.Add(sweepFlows); len(fs.open) == 0 {
			again = time.Time{}
		}
	}
	if again != due {
		_ = fs.conn.SetReadDeadline(again) // fails where it is closed, which Read tells
	}
	return again
}

// take gives a datagram to its flow.
func (fs *flows) take(ctx context.Context, from *netip.AddrPort, d *Datagram, running *sync.WaitGroup) {
	f := fs.open[*from]
	if f != nil && fs.sent(f) {
		fs.enqueue(f, d)
		return
	}
	if f = fs.begin(*from); f == nil {
		fs.s.refused.Add(1)
		d.Release()
		return
	}
	fs.enqueue(f, d)
	if fs.outside {
		ctx = fs.s.ctx
	}
	running.Go(func() {
		defer f.drain()
		defer f.end()
		fs.ls.cfg.HandleFlow(ctx, f)
	})
}

// sent reports whether the flow's source sent what came in this batch: the very socket that began the flow is still there
// behind its arrival.
func (fs *flows) sent(f *Flow) bool {
	if f.ended.Load() {
		return false
	}
	if f.checked != fs.batch {
		f.checked, f.sends = fs.batch, f.socket == 0
		if f.socket != 0 {
			owner, err := fs.owners.sender(f.Source, fs.address)
			f.sends = err == nil && owner.cookie == f.socket
		}
		if !f.sends {
			f.end()
		}
	}
	return f.sends
}

// begin begins a flow, or returns nil where its source may not have one.
func (fs *flows) begin(from netip.AddrPort) *Flow {
	rule := *fs.s.rule.Load()
	if f := fs.open[from]; f != nil { // it has ended
		fs.remove(f)
	}
	if len(fs.open) >= fs.ls.cfg.MaxFlows && !fs.makePlace() {
		fs.ls.refusedUDP(rule, fmt.Errorf("%s: the listener has %d flows already", from, fs.ls.cfg.MaxFlows))
		return nil
	}
	f := &Flow{
		Listener: rule, Source: from, of: fs, queue: make(chan *Datagram, flowQueue), over: make(chan struct{}), checked: fs.batch, sends: true,
	}
	if fs.outside {
		source := sourceOf(from.Addr())
		if !fs.s.sources.enter(source, fs.mostOf) && (!fs.makePlace() || !fs.s.sources.enter(source, fs.mostOf)) {
			fs.ls.refusedUDP(rule, fmt.Errorf("%s has %d flows already", source, fs.mostOf))
			return nil
		}
	} else {
		owner, err := fs.ls.sent(fs.owners, from, fs.address, rule)
		if err != nil {
			fs.ls.refusedUDP(rule, err)
			return nil
		}
		f.socket = owner.cookie
	}
	f.used.Store(fs.tick.Load())
	f.address(fs.six)
	fs.open[from] = f
	fs.active.Add(1)
	fs.s.accepted.Add(1)
	return f
}

func (ls *Listeners) refusedUDP(rule Listener, err error) {
	if ls.refusal.Allow() {
		ls.cfg.Log.Warn("datagram refused", "service", rule.As.String(), "peer", rule.To.String(), "err", err)
	}
}

// address prepares what Send sends to.
func (f *Flow) address(six bool) {
	f.call = f.send
	f.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&f.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &f.vector}
	f.header.SetIovlen(1)
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&f.name.Port))[:], f.Source.Port())
	if six {
		f.name.Family, f.name.Addr = unix.AF_INET6, f.Source.Addr().As16()
		return
	}
	four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&f.name))
	four.Family, four.Addr = unix.AF_INET, f.Source.Addr().Unmap().As4()
	f.header.Namelen = unix.SizeofSockaddrInet4
}

// enqueue leaves a datagram to the flow's handler, or drops it: the newest, as the kernel does where a socket is full.
func (fs *flows) enqueue(f *Flow, d *Datagram) {
	f.used.Store(fs.tick.Load())
	f.asked++
	size := int64(len(d.b))
	if fs.queued.Load()+size > listenerQueue {
		fs.dropped.Add(1)
		d.Release()
		return
	}
	d.from = fs
	fs.queued.Add(size)
	select {
	case f.queue <- d:
	default:
		fs.dropped.Add(1)
		d.Release()
	}
	if f.ended.Load() {
		f.drain() // its handler may have done so just before
	}
}

// makePlace ends flows that are silent; false where there is none. It looks once a tick.
func (fs *flows) makePlace() bool {
	if now := fs.tick.Load(); fs.lastFull != now {
		fs.lastFull = now
		for _, f := range fs.open {
			if silent := now - f.used.Load(); silent >= quietFlow || f.asked == 1 && silent >= askedOnce {
				f.end()
			}
		}
	}
	fs.forget()
	return len(fs.open) < fs.ls.cfg.MaxFlows
}

// sweep ends the flows that have been silent for long, or whose source is gone.
func (fs *flows) sweep() {
	now := fs.tick.Add(1)
	for _, f := range fs.open {
		idle := now - f.used.Load()
		switch {
		case idle > silentFlow:
			f.end()
		case f.socket == 0:
		case idle > 1:
			if owner, err := fs.owners.sender(f.Source, fs.address); err != nil || owner.cookie != f.socket {
				f.end()
			}
		default: // somebody may have come who can send in its place
			if owner, err := fs.ls.sent(fs.owners, f.Source, fs.address, f.Listener); err != nil || owner.cookie != f.socket {
				f.end()
			}
		}
	}
	fs.forget()
}

// forget lets go of flows that have ended.
func (fs *flows) forget() {
	for _, f := range fs.open {
		if f.ended.Load() {
			fs.remove(f)
		}
	}
}

func (fs *flows) remove(f *Flow) {
	delete(fs.open, f.Source)
	if fs.outside {
		fs.s.sources.leave(sourceOf(f.Source.Addr()))
	}
}

// incoming receives what is there, as much as a batch holds, and allocates nothing for it.
type incoming struct {
	call    func(uintptr) bool // receive, bound once
	header  unix.Msghdr
	vector  unix.Iovec
	name    unix.RawSockaddrInet6 // has room for an Inet4 too
	scratch [largeDatagram]byte

	n    int
	from [32]netip.AddrPort
	got  [32]*Datagram
}

// receive is for syscall.RawConn's Read: false where there is nothing yet.
func (in *incoming) receive(fd uintptr) bool {
	failed := 0
	for in.n < len(in.got) {
		in.vector.Base = &in.scratch[0]
		in.vector.SetLen(len(in.scratch))
		in.header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&in.name)), Namelen: unix.SizeofSockaddrInet6, Iov: &in.vector}
		in.header.SetIovlen(1)
		n, errno := rawsock.Recvmsg(fd, &in.header)
		if errno != 0 {
			if failed++; errno == syscall.EAGAIN || failed > len(in.got) {
				break
			}
			continue // an error that the kernel kept for the socket, of something sent before
		}
		port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&in.name.Port))[:])
		switch in.name.Family {
		case unix.AF_INET:
			four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&in.name))
			in.from[in.n] = netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
		case unix.AF_INET6:
			in.from[in.n] = netip.AddrPortFrom(netip.AddrFrom16(in.name.Addr).Unmap(), port)
		default:
			continue
		}
		in.got[in.n] = newDatagram(in.scratch[:n])
		in.n++
	}
	return in.n > 0
}
