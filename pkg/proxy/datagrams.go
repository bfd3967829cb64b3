package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/internal/rawsock"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// silentProcess is how often a flow to a process is looked at; one of which nothing went either way since the time before
// ends. Callers' nodes end theirs earlier.
const silentProcess = 150 * time.Second

// serveUDP carries one flow to a process. Each flow has a socket of its own, and so a port by which the process knows it.
func (in *Inbound) serveUDP(ctx context.Context, stream *transport.Stream, place Place) {
	p, err := dialProcess(ctx, place)
	if err == nil {
		err = stream.AcceptFlow(p.write)
	}
	if err != nil {
		in.log.Debug("flow to a process does not begin", "service", stream.Local().String(), "peer", stream.Peer().String(), "address", place.String(), "err", err)
		stream.Reset(exchange.ServiceRefused)
		if p != nil {
			p.conn.Close()
		}
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() { p.answer(stream) })
	if stream.RunFlow() == nil {
		p.leave()
	} else {
		p.conn.Close()
	}
	answers.Wait()
	p.conn.Close()
}

// A processFlow is the socket of one flow to a process.
type processFlow struct {
	conn    *net.UDPConn
	raw     syscall.RawConn
	moved   atomic.Uint64 // datagrams, either way
	left    atomic.Bool   // the caller sends no more
	refused atomic.Bool   // nobody has the process's port

	// Those of write, of which one runs at a time:
	out   []byte
	sent  syscall.Errno
	sends func(uintptr) // send, bound once

	// Those of answer:
	in       *[bulkBuffer]byte
	n        int
	received syscall.Errno
	receives func(uintptr) bool // receive, bound once
}

func dialProcess(ctx context.Context, place Place) (*processFlow, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", place.Process.String())
	if err != nil {
		return nil, err
	}
	p := &processFlow{conn: conn.(*net.UDPConn)}
	p.sends, p.receives = p.send, p.receive
	if p.raw, err = p.conn.SyscallConn(); err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// write gives a datagram to the process. It does not wait, since others' datagrams are behind it: what the socket does not
// take is lost.
func (p *processFlow) write(b []byte) {
	p.moved.Add(1)
	p.out = b
	if p.raw.Control(p.sends) == nil && p.sent == syscall.ECONNREFUSED {
		p.refused.Store(true)
		p.wake(time.Unix(1, 0))
	}
	p.out = nil
}

func (p *processFlow) send(fd uintptr) { _, p.sent = rawsock.Write(fd, p.out) }

// leave has answer wait for what is still on its way, and no longer.
func (p *processFlow) leave() {
	p.left.Store(true)
	p.wake(time.Now().Add(lingerFlow))
}

func (p *processFlow) wake(at time.Time) { _ = p.conn.SetReadDeadline(at) } // fails where it is closed, which wakes too

// answer passes on what the process sends, until the flow has ended. It holds no memory while it waits.
func (p *processFlow) answer(stream *transport.Stream) {
	moved := uint64(0)
	p.watch()
	for {
		err := p.raw.Read(p.receives)
		switch {
		case p.refused.Load(), err == nil && p.received == syscall.ECONNREFUSED:
			stream.Reset(exchange.ServiceRefused)
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			now := p.moved.Load()
			if p.left.Load() || now == moved {
				_ = stream.End() // fails where it has ended otherwise
				return
			}
			moved = now
			p.watch()
			continue
		case err != nil: // it was closed: the flow broke
			return
		case p.received != 0:
			continue // an error that says nothing about the process
		}
		p.moved.Add(1)
		err = stream.SendDatagram(p.in[:p.n])
		bulkBuffers.Put(p.in)
		p.in = nil
		if err != nil {
			stream.Reset(exchange.CallerGone)
			return
		}
	}
}

// watch has answer look at the flow again in a while, or at once where there is a reason by now.
func (p *processFlow) watch() {
	p.wake(time.Now().Add(silentProcess))
	switch {
	case p.refused.Load():
		p.wake(time.Unix(1, 0))
	case p.left.Load():
		p.wake(time.Now().Add(lingerFlow))
	}
}

// receive is for syscall.RawConn's Read: false where there is nothing yet.
func (p *processFlow) receive(fd uintptr) bool {
	p.in = bulkBuffers.Get().(*[bulkBuffer]byte)
	if p.n, p.received = rawsock.Read(fd, p.in[:]); p.received == 0 {
		return true
	}
	bulkBuffers.Put(p.in)
	p.in = nil
	return p.received != syscall.EAGAIN
}
