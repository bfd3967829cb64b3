package transport

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// newBatch makes a batch socket, and one that sends to it, or skips where the kernel joins no datagrams.
func newBatch(t *testing.T) (*batchSocket, *net.UDPConn) {
	t.Helper()
	loopback := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	receiver, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { receiver.Close() })
	sender, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sender.Close() })
	socket, err := prepareSocket(receiver, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	batch, ok := socket.(*batchSocket)
	if !ok {
		t.Skip("this kernel has no UDP GRO")
	}
	if err := receiver.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return batch, sender
}

// segmented is the control message that has the kernel cut what is written into datagrams of a size.
func segmented(size uint16) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], size)
	return b
}

// TestJoinedDatagramsAreTakenApart sends bursts as quic-go does, with segmentation offload, and wants each datagram
// as it was.
func TestJoinedDatagramsAreTakenApart(t *testing.T) {
	for _, tt := range []struct {
		name         string
		bytes        int // of the burst
		size         int // of a datagram; 0: the burst is one
		room         int // datagrams that are asked for at once
		want         int
		wantAtOnce   bool // more than one in the first batch
		wantLastSize int
	}{
		{"one alone", 700, 0, 8, 1, false, 700},
		{"all of one size", 8 * 1200, 1200, 8, 8, true, 1200},
		{"the last is shorter", 7*1200 + 100, 1200, 8, 8, true, 100},
		{"more than are asked for", 20*1200 + 1, 1200, 8, 21, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			batch, sender := newBatch(t)
			sent := make([]byte, tt.bytes)
			for i := range sent {
				sent[i] = byte(i / 97)
			}
			to := batch.LocalAddr().(*net.UDPAddr).AddrPort()
			var oob []byte
			if tt.size > 0 {
				oob = segmented(uint16(tt.size))
			}
			if _, _, err := sender.WriteMsgUDPAddrPort(sent, oob, to); err != nil {
				t.Fatal(err)
			}
			messages := make([]ipv4.Message, tt.room)
			for i := range messages {
				messages[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 1500)}, OOB: make([]byte, 128)}
			}
			var got []byte
			count, last, first := 0, 0, 0
			for len(got) < len(sent) {
				n, err := batch.ReadBatch(messages, 0)
				if err != nil {
					t.Fatalf("after %d datagrams: %v", count, err)
				}
				if first == 0 {
					first = n
				}
				for _, m := range messages[:n] {
					got = append(got, m.Buffers[0][:m.N]...)
					count, last = count+1, m.N
					if m.Addr.String() != sender.LocalAddr().String() {
						t.Errorf("datagram from %s", m.Addr)
					}
				}
			}
			if !bytes.Equal(got, sent) {
				t.Error("the bytes changed on the way")
			}
			if count != tt.want || last != tt.wantLastSize || (first > 1) != tt.wantAtOnce {
				t.Errorf("%d datagrams, the first %d at once, the last of %d bytes; want %d, several at once: %v, the last of %d",
					count, first, last, tt.want, tt.wantAtOnce, tt.wantLastSize)
			}
			if received, reads := batch.received.Load(), batch.reads.Load(); received != int64(tt.want) || (reads < received) != tt.wantAtOnce {
				t.Errorf("counted %d datagrams in %d reads", received, reads)
			}
		})
	}
}

// TestWritesAreCounted: what the kernel cuts is one write, and each of its parts a datagram.
func TestWritesAreCounted(t *testing.T) {
	batch, other := newBatch(t)
	to := other.LocalAddr().(*net.UDPAddr)
	var sent, writes int64
	for _, tt := range []struct {
		name    string
		bytes   int
		oob     []byte
		want    int64
		refused bool
	}{
		{"one alone", 700, nil, 1, false},
		{"cut into equal ones", 8 * 1200, segmented(1200), 8, false},
		{"the last is shorter", 7*1200 + 1, segmented(1200), 8, false},
		{"less than a segment", 100, segmented(1200), 1, false},
		{"nothing was sent", 70_000, nil, 0, true},
	} {
		if _, _, err := batch.WriteMsgUDP(make([]byte, tt.bytes), tt.oob, to); (err != nil) != tt.refused {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if sent += tt.want; !tt.refused {
			writes++
		}
		if batch.sent.Load() != sent || batch.writes.Load() != writes {
			t.Errorf("%s: counted %d datagrams in %d writes, want %d in %d", tt.name, batch.sent.Load(), batch.writes.Load(), sent, writes)
		}
	}
}

// TestAddressesAreBounded: anybody can send a datagram from any port.
func TestAddressesAreBounded(t *testing.T) {
	batch, sender := newBatch(t)
	from := sender.LocalAddr().(*net.UDPAddr).AddrPort()
	if first := batch.address(from); batch.address(from) != first {
		t.Error("an address is not remembered")
	}
	for port := range 3 * knownAddresses {
		batch.address(netip.AddrPortFrom(from.Addr(), uint16(port)))
	}
	if n := len(batch.known); n > knownAddresses {
		t.Errorf("%d addresses are remembered, at most %d", n, knownAddresses)
	}
}
