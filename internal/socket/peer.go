package socket

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// A Peer is the process at the other end of a unix socket, as it was when it connected.
type Peer struct {
	UID, PID int
}

type peerKey struct{}

// withPeer notes who connected, as the kernel knows it.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return ctx
	}
	var credentials *unix.Ucred
	if raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, Peer{UID: int(credentials.Uid), PID: int(credentials.Pid)})
}

// PeerOf returns who sent the request with this context; false where it did not come over a unix socket.
func PeerOf(ctx context.Context) (Peer, bool) {
	peer, ok := ctx.Value(peerKey{}).(Peer)
	return peer, ok
}
