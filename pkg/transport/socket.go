package transport

import (
	"fmt"
	"log/slog"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketBuffer is how much the kernel should hold for the node's one socket in each direction: 7 MB is what
// quic-go asks for, about a 5 ms burst at 10 Gbit/s.
const socketBuffer = 7 << 20

// prepareSocket sizes the socket's buffers and makes it read several datagrams at once where the kernel can.
// quic-go writes with segmentation offload by itself.
func prepareSocket(conn *net.UDPConn, log *slog.Logger) (net.PacketConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	for _, b := range []struct {
		name, sysctl  string
		option, force int
		set           func(int) error
	}{
		{"receive", "net.core.rmem_max", unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, conn.SetReadBuffer},
		{"send", "net.core.wmem_max", unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, conn.SetWriteBuffer},
	} {
		_ = b.set(socketBuffer) // the kernel takes less without an error
		got, err := bufferSize(raw, b.option, b.force)
		if err != nil {
			return nil, fmt.Errorf("size of the %s buffer: %w", b.name, err)
		}
		if got < socketBuffer {
			log.Warn("kernel allows too small a UDP buffer: bursts may be lost; raise it with sysctl -w "+
				fmt.Sprintf("%s=%d", b.sysctl, socketBuffer), "buffer", b.name, "bytes", got, "wanted", socketBuffer)
		}
	}
	return newBatchSocket(conn, raw)
}

// bufferSize returns what the kernel gave, after asking once more with the right to exceed its limit. The
// kernel doubles what it is asked for, for its own bookkeeping; got is without that.
func bufferSize(raw syscall.RawConn, option, force int) (got int, err error) {
	controlErr := raw.Control(func(fd uintptr) {
		if got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option); err != nil || got/2 >= socketBuffer {
			return
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, force, socketBuffer) == nil { // needs CAP_NET_ADMIN
			got, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, option)
		}
	})
	if controlErr != nil {
		return 0, controlErr
	}
	return got / 2, err
}
