// Package rawsock makes system calls on sockets that do not block, without telling Go's scheduler.
//
// The scheduler takes note of every call of package syscall, since it might block, and wakes its monitor thread
// when it does: that thread then looks for blocked calls every 20 µs, which cost a node under light load more
// than an eighth of its processor time (docs/decisions/0025). A socket that the runtime polls never blocks, so
// these calls need no such watch; they keep the processor for as long as the kernel works, some microseconds.
//
// The functions are for the callbacks of syscall.RawConn's Read and Write, which wait where errno is EAGAIN. They
// allocate nothing. Not for files, pipes or anything else that may block.
package rawsock

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads into p, which is not empty; 0 without an error is the end.
func Read(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	return again(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0)
}

// Write writes some of p, which is not empty. A peer that is gone is EPIPE, and no signal.
func Write(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	return again(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL)
}

// Peek reads what Read would, and leaves it there.
func Peek(fd uintptr, p []byte) (n int, errno syscall.Errno) {
	return again(unix.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_PEEK|unix.MSG_DONTWAIT)
}

// Recvmsg receives one message. What m points to must not move: it is on the heap.
func Recvmsg(fd uintptr, m *unix.Msghdr) (n int, errno syscall.Errno) {
	return again(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(m)), 0, 0)
}

// Sendmsg sends one message; the same holds for m.
func Sendmsg(fd uintptr, m *unix.Msghdr) (n int, errno syscall.Errno) {
	return again(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(m)), unix.MSG_NOSIGNAL, 0)
}

// again makes the call until no signal interrupts it.
//
//go:uintptrescapes
func again(trap, fd, a, b, c uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, a, b, c, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
