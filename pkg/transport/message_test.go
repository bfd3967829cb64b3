package transport

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Datagrams go to and come from the same addresses as through the net package, whichever family the sockets have.
func TestAddressFamilies(t *testing.T) {
	for _, tt := range []struct {
		name, network, listen, from, other string // other is what the socket writes to
	}{
		{"IPv4", "udp4", "127.0.0.1:0", "udp4", "127.0.0.1"},
		{"IPv6", "udp6", "[::1]:0", "udp6", "::1"},
		{"IPv4 to a socket of both", "udp", "[::]:0", "udp4", "127.0.0.1"},
		{"IPv6 to a socket of both", "udp", "[::]:0", "udp6", "::1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.ListenUDP(tt.network, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tt.listen)))
			if err != nil {
				t.Skipf("no socket of this family here: %v", err)
			}
			defer conn.Close()
			peer, err := net.ListenUDP(tt.from, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(tt.other), 0)))
			if err != nil {
				t.Skipf("no socket of this family here: %v", err)
			}
			defer peer.Close()
			prepared, err := prepareSocket(conn, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			batch, ok := prepared.(*batchSocket)
			if !ok {
				t.Skip("this kernel has no UDP GRO")
			}
			deadline := time.Now().Add(10 * time.Second)
			conn.SetDeadline(deadline)
			peer.SetDeadline(deadline)

			to := peer.LocalAddr().(*net.UDPAddr)
			if _, _, err := batch.WriteMsgUDP([]byte("there"), nil, to); err != nil {
				t.Fatal(err)
			}
			var p [16]byte
			n, from, err := peer.ReadFromUDPAddrPort(p[:])
			if err != nil || string(p[:n]) != "there" || from.Port() != batch.LocalAddr().(*net.UDPAddr).AddrPort().Port() {
				t.Fatalf("%q from %s, %v", p[:n], from, err)
			}
			if _, err := peer.WriteToUDPAddrPort([]byte("back"), from); err != nil {
				t.Fatal(err)
			}
			messages := []ipv4.Message{{Buffers: [][]byte{p[:]}}}
			if _, err := batch.ReadBatch(messages, 0); err != nil || string(p[:messages[0].N]) != "back" {
				t.Fatalf("%q, %v", p[:messages[0].N], err)
			}
			if got := messages[0].Addr.(*net.UDPAddr); !got.IP.Equal(to.IP) || got.Port != to.Port {
				t.Errorf("from %s, want %s", got, to)
			}
		})
	}
}

// quic-go and Run tell by these errors what to do.
func TestMessageErrors(t *testing.T) {
	batch, other := newBatch(t)
	to := other.LocalAddr().(*net.UDPAddr)
	_, _, err := batch.WriteMsgUDP(make([]byte, 70_000), nil, to)
	var call *os.SyscallError
	if !errors.Is(err, unix.EMSGSIZE) || !errors.As(err, &call) {
		t.Errorf("too large a datagram: %v", err)
	}
	if _, _, err := batch.WriteMsgUDP([]byte("x"), nil, &net.UDPAddr{IP: net.IPv6loopback, Port: 1}); !errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Errorf("an IPv6 address through a socket of IPv4: %v", err)
	}
	messages := []ipv4.Message{{Buffers: [][]byte{make([]byte, 16)}}}
	batch.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := batch.ReadBatch(messages, 0); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("behind the deadline: %v", err)
	}
	batch.Close()
	if _, err := batch.ReadBatch(messages, 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from a closed socket: %v", err)
	}
	if _, _, err := batch.WriteMsgUDP([]byte("x"), nil, to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write to a closed socket: %v", err)
	}
}
