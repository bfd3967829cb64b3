package mesh

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Recording reads what crosses the wire of a mesh in namespaces: every frame once, as it enters the switch.
// Two sockets share the work. What goes between ports of lanes is a lot, and some may be missed on a busy
// machine; of everything else nothing is: a frame that was missed is a fault of its own.
type Recording struct {
	stop  atomic.Bool
	group sync.WaitGroup
	once  sync.Once

	mu      sync.Mutex
	traffic *Traffic
}

// record starts a recording on the switch.
func (n *network) record(busPort int) (*Recording, error) {
	r := &Recording{traffic: newTraffic(uint16(busPort))}
	for _, lanes := range []bool{true, false} {
		var socket int
		if err := n.on(switchHost, func() (err error) { socket, err = packetSocket(lanes); return err }); err != nil {
			return nil, fmt.Errorf("record packets: %w", err)
		}
		r.group.Go(func() { r.read(socket, lanes) })
	}
	return r, nil
}

// packetSocket opens a packet socket on all ports for either the lanes' datagrams or all else.
func packetSocket(lanes bool) (int, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // 0: deaf until it is bound
	if err != nil {
		return 0, err
	}
	program := lanesFilter(lanes)
	for _, set := range []func() error{
		func() error {
			return unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
		},
		func() error { return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20) },
		func() error { return unix.SetsockoptInt(socket, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1) },
		func() error {
			return unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
		},
		func() error {
			everything := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)
			return unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(everything)})
		},
	} {
		if err := set(); err != nil {
			unix.Close(socket)
			return 0, err
		}
	}
	return socket, nil
}

// lanesFilter takes unfragmented IPv4 UDP from or to the lanes' port, or everything else.
func lanesFilter(lanes bool) unix.SockFprog {
	const all = 1 << 18
	yes, no := uint32(all), uint32(0)
	if !lanes {
		yes, no = no, yes
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 9},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 23},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jf: 7},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 20},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x3fff, Jt: 5},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 14},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 14},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: lanesPort, Jt: 3},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 16},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: lanesPort, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: no},
		{Code: unix.BPF_RET | unix.BPF_K, K: yes},
	}
	return unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}

// read hands frames on until the recording is stopped and no more wait.
func (r *Recording) read(socket int, lanes bool) {
	defer unix.Close(socket)
	frame := make([]byte, 1<<18)
	for {
		n, _, err := unix.Recvfrom(socket, frame, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && r.stop.Load():
			missed, err := unix.GetsockoptTpacketStats(socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			r.mu.Lock()
			switch {
			case err != nil:
				r.traffic.fault("statistics of the recording: %v", err)
			case lanes:
				r.traffic.Missed = int(missed.Drops)
			case missed.Drops > 0:
				r.traffic.fault("%d frames that are not of lanes were missed", missed.Drops)
			}
			r.mu.Unlock()
			return
		case err == unix.EAGAIN:
			continue
		}
		r.mu.Lock()
		if err != nil {
			r.traffic.fault("record: %v", err)
			r.mu.Unlock()
			return
		}
		r.traffic.frame(frame[:min(n, len(frame))])
		r.mu.Unlock()
	}
}

// Stop ends the recording and returns what was on the wire.
func (r *Recording) Stop() *Traffic {
	r.once.Do(func() {
		r.stop.Store(true)
		r.group.Wait()
		r.traffic.finish()
	})
	return r.traffic
}
