package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoOwner is returned for a connection whose other end no process of this network namespace holds: it
// comes from elsewhere, or was closed in the meantime.
var ErrNoOwner = errors.New("no process of this host holds the other end")

// An Owner is who holds a local socket.
type Owner struct {
	UID    uint32
	Cgroup uint64 // the cgroup's id; 0 where the kernel does not say (before Linux 5.9)
	inode  uint32
	cookie uint64 // of the socket: no other one has the same
}

// A found socket is what the kernel says of it.
type found struct {
	Owner
	state         uint8
	local, remote netip.AddrPort // as far as it is bound and connected
}

// sock_diag(7): the request is a netlink header and inet_diag_req_v2, the answer a netlink header and
// inet_diag_msg, then attributes. Ports and addresses stand in network order, all else in the host's.
//
//	inet_diag_req_v2: family 1, protocol 1, ext 1, pad 1, states 4, sockid 48
//	inet_diag_msg:    family 1, state 1, timer 1, retrans 1, sockid 48, expires 4, rqueue 4, wqueue 4, uid 4, inode 4
//	sockid:           sport 2, dport 2, src 16, dst 16, interface 4, cookie 8
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	attrCgroupID     = 21 // INET_DIAG_CGROUP_ID

	headerLen  = 16
	requestLen = headerLen + 56
	messageLen = 72

	stateTimeWait = 6  // TCP_TIME_WAIT and
	stateListen   = 10 // TCP_LISTEN of the kernel's net/tcp_states.h
)

// owners asks the kernel who owns sockets of one protocol, over one netlink socket that it keeps. It is safe for concurrent
// use; one question takes some microseconds and allocates nothing.
type owners struct {
	protocol uint8 // unix.IPPROTO_TCP or IPPROTO_UDP
	mu       sync.Mutex
	fd       int
	sequence uint32
	request  [requestLen]byte
	answer   [32 << 10]byte // the most that the kernel gives at once
}

func newOwners(protocol uint8) (*owners, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket to find out who connects: %w (the kernel needs CONFIG_INET_DIAG, and a sandbox must allow AF_NETLINK)", err)
	}
	// The kernel answers within the call that asks, so this only keeps a lost answer from blocking for ever.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bound the wait for netlink: %w", err)
	}
	return &owners{protocol: protocol, fd: fd}, nil
}

func (o *owners) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	fd := o.fd
	o.fd = -1
	return unix.Close(fd)
}

// of returns the owner of the socket that is bound to local and connected to remote.
func (o *owners) of(local, remote netip.AddrPort) (Owner, error) {
	s, err := o.ask(local, remote)
	// A socket that its process closed lives on for a while, and the kernel calls root its owner then; it
	// has no inode any more.
	if err == nil && (s.state == stateListen || s.state == stateTimeWait || s.inode == 0) {
		err = ErrNoOwner
	}
	if err != nil {
		return Owner{}, err
	}
	return s.Owner, nil
}

// listening returns the owner of the socket that listens where local is taken.
func (o *owners) listening(local netip.AddrPort) (Owner, error) {
	none := netip.IPv4Unspecified()
	if local.Addr().Is6() && !local.Addr().Is4In6() {
		none = netip.IPv6Unspecified()
	}
	s, err := o.ask(local, netip.AddrPortFrom(none, 0))
	if err == nil && o.protocol == unix.IPPROTO_TCP && s.state != stateListen {
		err = ErrNoOwner
	}
	return s.Owner, err
}

// ask asks for the socket that what remote sends to local goes to.
func (o *owners) ask(local, remote netip.AddrPort) (found, error) {
	localIP, remoteIP := local.Addr().Unmap(), remote.Addr().Unmap()
	if localIP.Is4() != remoteIP.Is4() {
		return found{}, ErrNoOwner
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	near, far := local, remote
	if o.protocol == unix.IPPROTO_UDP {
		near, far = remote, local // udp_dump_one takes them the other way round
	}
	family := byte(unix.AF_INET6)
	if localIP.Is4() {
		family = unix.AF_INET
	}
	b := o.question(family, 0)
	binary.BigEndian.PutUint16(b[24:], near.Port())
	binary.BigEndian.PutUint16(b[26:], far.Port())
	if localIP.Is4() {
		src, dst := near.Addr().Unmap().As4(), far.Addr().Unmap().As4()
		copy(b[28:], src[:])
		copy(b[44:], dst[:])
	} else {
		src, dst := near.Addr().As16(), far.Addr().As16()
		copy(b[28:], src[:])
		copy(b[44:], dst[:])
	}
	answer, err := o.answered(local)
	if err != nil {
		return found{}, err
	}
	host := binary.NativeEndian
	if host.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		errno := syscall.Errno(-int32(host.Uint32(answer[headerLen:])))
		if errno == unix.ENOENT {
			return found{}, ErrNoOwner
		}
		return found{}, fmt.Errorf("ask the kernel who holds %s: %w", local, errno)
	}
	if host.Uint16(answer[4:]) != sockDiagByFamily || len(answer) < headerLen+messageLen {
		return found{}, fmt.Errorf("ask the kernel who holds %s: an answer that is not understood", local)
	}
	s := decode(answer[headerLen:])
	if o.protocol == unix.IPPROTO_TCP && s.state != stateListen &&
		// Where no such connection is, the kernel answers with whoever listens on the port: compare.
		(s.local != netip.AddrPortFrom(localIP, local.Port()) || s.remote != netip.AddrPortFrom(remoteIP, remote.Port())) {
		return found{}, ErrNoOwner
	}
	return s, nil
}

// question begins a question; the lock is held.
func (o *owners) question(family byte, flags uint16) *[requestLen]byte {
	o.sequence++
	b := &o.request
	host := binary.NativeEndian
	host.PutUint32(b[0:], requestLen)
	host.PutUint16(b[4:], sockDiagByFamily)
	host.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	host.PutUint32(b[8:], o.sequence)
	clear(b[16:])
	b[16], b[17] = family, o.protocol
	host.PutUint32(b[20:], ^uint32(0)) // in any state
	host.PutUint64(b[64:], ^uint64(0)) // no cookie
	return b
}

// answered asks what question began, and reads what comes first.
func (o *owners) answered(about netip.AddrPort) ([]byte, error) {
	if _, err := ignoringInterrupts(func() (int, error) { return unix.Write(o.fd, o.request[:]) }); err != nil {
		return nil, fmt.Errorf("ask the kernel who holds %s: %w", about, err)
	}
	return o.next(about)
}

// next reads more of the answer to the last question.
func (o *owners) next(about netip.AddrPort) ([]byte, error) {
	for {
		n, err := ignoringInterrupts(func() (int, error) { return unix.Read(o.fd, o.answer[:]) })
		if err != nil {
			return nil, fmt.Errorf("read who holds %s: %w", about, err)
		}
		if n < headerLen+4 || binary.NativeEndian.Uint32(o.answer[8:]) != o.sequence {
			continue // the late answer to an earlier question
		}
		return o.answer[:n], nil
	}
}

// decode reads an inet_diag_msg, of at least messageLen bytes, and what follows it. A socket of IPv6 that speaks IPv4 is
// found by its IPv4 addresses and answers with mapped ones.
func decode(m []byte) found {
	host := binary.NativeEndian
	s := found{state: m[1], local: address(m[0], m[8:], m[4:]), remote: address(m[0], m[24:], m[6:])}
	s.UID, s.inode, s.cookie = host.Uint32(m[64:]), host.Uint32(m[68:]), host.Uint64(m[44:])
	for attrs := m[messageLen:]; len(attrs) >= 4; {
		size := int(host.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			break
		}
		if host.Uint16(attrs[2:]) == attrCgroupID && size >= 12 {
			s.Cgroup = host.Uint64(attrs[4:])
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return s
}

func address(family byte, ip, port []byte) netip.AddrPort {
	a := netip.AddrFrom4([4]byte(ip))
	if family == unix.AF_INET6 {
		a = netip.AddrFrom16([16]byte(ip)).Unmap()
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

func ignoringInterrupts(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
