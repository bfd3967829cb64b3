package mesh

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Way is a direction of a host's wire.
type Way int

// The ways.
const (
	Both Way = iota
	Out      // what the host sends
	In       // what it receives
)

// A Path is a part of the traffic of one host.
type Path struct {
	Host string // a node, or Controller
	Way  Way
	Peer string // the host at the other end; "": all that have no path of their own
}

// Controller is the controller's host, as a Path names it.
const Controller = theController

// Wire has a path behave as a fault says, from now on and in place of what was said of it before. The mesh must have
// been started with Config.Wires.
func (m *Mesh) Wire(path Path, fault Fault) {
	m.t.Helper()
	wire := m.wires[path.Host]
	if wire == nil {
		m.t.Fatalf("host %q has no wire: Config.Wires is not set, or there is no such host", path.Host)
	}
	peer := netip.Addr{}
	if path.Peer != "" {
		peer = netip.MustParseAddr(m.network.address(path.Peer))
	}
	for _, way := range []Way{Out, In} {
		if path.Way == Both || path.Way == way {
			wire.ways[way].set(peer, fault)
		}
	}
}

// Mend takes all faults off a host's wire.
func (m *Mesh) Mend(hosts ...string) {
	for _, host := range hosts {
		for _, way := range []Way{Out, In} {
			m.wires[host].ways[way].clear()
		}
	}
}

// Carried is how many packets a host's wire has let pass and lost on one way.
func (m *Mesh) Carried(host string, way Way) (passed, lost int64) {
	w := m.wires[host].ways[way]
	return w.passed.Load(), w.lost.Load()
}

// Translated is how many packets a host's wire has translated on one way.
func (m *Mesh) Translated(host string, way Way) int64 {
	return m.wires[host].ways[way].translated.Load()
}

// A wire is between a host's port and the bridge: what comes out of one goes into the other, as the faults say. It
// stands for what netem does in kernels that have it.
type wire struct{ ways map[Way]*way }

// A way forwards frames in one direction.
type way struct {
	peerAt   int // where the address of the other end is in a frame
	from, to int // packet sockets
	stop     atomic.Bool
	wake     chan struct{}

	passed, lost, translated atomic.Int64
	failed                   atomic.Pointer[error]

	mu     sync.Mutex
	faults map[netip.Addr]Fault // by peer; the zero address: all others
	plan   *schedule
	queue  dueQueue
	order  uint64
}

// layWires puts a wire between the port and the bridge of each host. Wires end with the test.
func (n *network) layWires(t testing.TB, hosts []string, seed uint64) map[string]*wire {
	t.Helper()
	wires := map[string]*wire{}
	for i, host := range hosts {
		w, group, err := n.layWire(host, seed, uint64(2*i))
		if err != nil {
			t.Fatalf("wire of %s: %v", host, err)
		}
		wires[host] = w
		t.Cleanup(func() {
			for _, one := range w.ways {
				one.stop.Store(true)
			}
			group.Wait()
			for _, one := range w.ways {
				unix.Close(one.from)
				if err := one.failed.Load(); err != nil {
					t.Errorf("wire of %s: %v", host, *err)
				}
			}
		})
	}
	return wires
}

func (n *network) layWire(host string, seed, stream uint64) (*wire, *sync.WaitGroup, error) {
	last := strconv.Itoa(n.hosts[host])
	port, near, far := "port"+last, "near"+last, "far"+last
	where := n.namespace(switchHost)
	for _, command := range [][]string{
		{"-n", where, "link", "set", port, "nomaster"},
		{"-n", where, "link", "add", near, "type", "veth", "peer", "name", far},
		{"-n", where, "link", "set", near, "addrgenmode", "none", "up"},
		{"-n", where, "link", "set", far, "addrgenmode", "none", "master", "bridge", "up"},
	} {
		if err := ip(command...); err != nil {
			return nil, nil, err
		}
	}
	var sockets [2]int
	err := n.on(switchHost, func() error {
		for i, name := range []string{port, near} {
			socket, err := frameSocket(name)
			if err != nil {
				return fmt.Errorf("packet socket on %s: %w", name, err)
			}
			sockets[i] = socket
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	w := &wire{ways: map[Way]*way{
		Out: {peerAt: targetAt, from: sockets[0], to: sockets[1], plan: newSchedule(seed, stream)},
		In:  {peerAt: sourceAt, from: sockets[1], to: sockets[0], plan: newSchedule(seed, stream+1)},
	}}
	group := new(sync.WaitGroup)
	for direction, one := range w.ways {
		one.faults, one.wake = map[netip.Addr]Fault{}, make(chan struct{}, 1)
		group.Go(func() { one.read(direction) })
		group.Go(one.deliver)
	}
	return w, group, nil
}

// frameSocket opens a packet socket on one interface of this thread's namespace. What it reads has a header that
// says what checksum the sender's kernel left out (virtio_net_hdr).
func frameSocket(name string) (int, error) {
	link, err := interfaceIndex(name)
	if err != nil {
		return 0, err
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: deaf until it is bound
	if err != nil {
		return 0, err
	}
	for _, set := range []func() error{
		func() error { return unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1) },
		func() error { return unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) },
		func() error { return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) },
		func() error { return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 16<<20) },
		func() error {
			return unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		},
		func() error {
			everything := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)
			return unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(everything), Ifindex: link})
		},
	} {
		if err := set(); err != nil {
			unix.Close(socket)
			return 0, err
		}
	}
	return socket, nil
}

// interfaceIndex is the number of an interface of this thread's namespace.
func interfaceIndex(name string) (int, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, request); err != nil {
		return 0, err
	}
	return int(request.Uint32()), nil
}

// vnetLen is the length of the header in front of each frame: flags, kind of bundle, length of headers, length of a
// part, where the checksum begins, where it is put.
const vnetLen = 10

// read takes frames until the way is stopped.
func (w *way) read(direction Way) {
	buffer := make([]byte, 1<<17)
	for !w.stop.Load() {
		n, _, err := unix.Recvfrom(w.from, buffer, 0)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENETDOWN:
			continue
		case err != nil:
			w.fail(fmt.Errorf("read: %w", err))
			return
		case n < vnetLen:
			continue
		}
		head, frame := buffer[:vnetLen], buffer[vnetLen:n]
		if kind := head[1]; kind != unix.VIRTIO_NET_HDR_GSO_NONE {
			w.fail(fmt.Errorf("%d bytes came in one bundle", len(frame)))
			continue
		}
		if head[0]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			complete(frame, int(binary.NativeEndian.Uint16(head[6:])), int(binary.NativeEndian.Uint16(head[8:])))
		}
		w.take(frame, direction)
	}
}

// take lets a frame pass, now or later, or loses it.
func (w *way) take(frame []byte, direction Way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var fault Fault
	if isIP(frame) {
		var ok bool
		if fault, ok = w.faults[netip.AddrFrom4([addressLen]byte(frame[w.peerAt:]))]; !ok {
			fault = w.faults[netip.Addr{}]
		}
	}
	due, n := w.plan.next(&fault, len(frame)-ethernet)
	outside := direction == In && fault.Port != 0 && comesTo(frame, lanesPort)
	if n == 0 || outside {
		w.lost.Add(1)
		return
	}
	w.passed.Add(1)
	if fault.Port != 0 {
		translated := false
		if direction == Out {
			translated = translate(frame, 0, lanesPort, fault.Port)
		} else {
			translated = translate(frame, 2, fault.Port, lanesPort)
		}
		if translated {
			w.translated.Add(1)
		}
	}
	now := time.Now()
	for _, later := range due[:n] {
		if later == 0 && (len(w.queue) == 0 || w.queue[0].at.After(now)) {
			w.send(frame)
			continue
		}
		w.order++
		heap.Push(&w.queue, duePacket{now.Add(later), w.order, append([]byte(nil), frame...)})
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// deliver sends what is due until the way is stopped.
func (w *way) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for !w.stop.Load() {
		w.mu.Lock()
		wait := 100 * time.Millisecond // looks whether it is stopped
		for len(w.queue) > 0 {
			if left := time.Until(w.queue[0].at); left > 0 {
				wait = min(wait, left)
				break
			}
			w.send(heap.Pop(&w.queue).(duePacket).frame)
		}
		w.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.wake:
		}
	}
}

// send puts a frame on the other end. What does not fit into the queues there is lost, as on any wire.
func (w *way) send(frame []byte) {
	vector := [][]byte{make([]byte, vnetLen), frame}
	for {
		_, err := unix.SendmsgBuffers(w.to, vector, nil, nil, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.EAGAIN):
			w.fail(fmt.Errorf("send %d bytes: %w", len(frame), err))
		}
		return
	}
}

func (w *way) fail(err error) { w.failed.CompareAndSwap(nil, &err) }

// set replaces the fault of a peer.
func (w *way) set(peer netip.Addr, fault Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[peer] = fault
}

func (w *way) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.faults)
}
