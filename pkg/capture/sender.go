package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSharers bounds how many sockets of one port are looked at.
const maxSharers = 64

// sender returns the owner of the UDP socket that answers from listener to source go to: the one that sent from there, as
// far as nobody forged the address (see sharers).
func (o *owners) sender(source, listener netip.AddrPort) (Owner, error) {
	s, err := o.ask(source, listener)
	if err == nil && (s.inode == 0 || s.cookie == 0 || s.local.Port() != source.Port()) {
		err = ErrNoOwner // closed, and root's by name
	}
	if err != nil {
		return Owner{}, err
	}
	return s.Owner, nil
}

// sharers calls visit with the owner of every UDP socket of this network namespace that is bound to a port, on whatever
// address, until one fails. Each of them can send from any address of this host (IP_PKTINFO), and so in the place of
// another one; and only they can, but for who may send raw packets.
func (o *owners) sharers(port uint16, visit func(Owner) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := 0
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} { // a socket of IPv6 may send by IPv4
		binary.BigEndian.PutUint16(o.question(family, unix.NLM_F_DUMP)[24:], port)
		err := o.each(func(s found) error {
			if s.local.Port() != port {
				return nil
			}
			if seen++; seen > maxSharers {
				return fmt.Errorf("%w: more than %d sockets have port %d", ErrNoOwner, maxSharers, port)
			}
			return visit(s.Owner)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// each reads the answer to a question for many sockets. It reads all of it, whatever visit returns.
func (o *owners) each(visit func(found) error) (failed error) {
	answer, err := o.answered(netip.AddrPort{})
	host := binary.NativeEndian
	for ; err == nil; answer, err = o.next(netip.AddrPort{}) {
		for len(answer) >= headerLen {
			size := int(host.Uint32(answer))
			if size < headerLen || size > len(answer) {
				return errors.New("ask the kernel who holds a port: an answer that is not understood")
			}
			switch kind := host.Uint16(answer[4:]); {
			case kind == unix.NLMSG_DONE:
				return failed
			case kind == unix.NLMSG_ERROR && size >= headerLen+4:
				return fmt.Errorf("ask the kernel who holds a port: %w", syscall.Errno(-int32(host.Uint32(answer[headerLen:]))))
			case kind == sockDiagByFamily && size >= headerLen+messageLen && failed == nil:
				failed = visit(decode(answer[headerLen:size]))
			}
			answer = answer[min((size+3)&^3, len(answer)):]
		}
	}
	return err
}

// sent returns the owner of the socket that sends from source to a listener, where nobody who may not use the listener can
// have sent in its place.
func (ls *Listeners) sent(o *owners, source, listener netip.AddrPort, rule Listener) (Owner, error) {
	owner, err := o.sender(source, listener)
	if err != nil {
		return Owner{}, fmt.Errorf("find out who sends from %s: %w", source, err)
	}
	if err := ls.permits(owner, source, rule); err != nil {
		return Owner{}, err
	}
	if err := o.sharers(source.Port(), func(other Owner) error {
		if other.cookie == owner.cookie {
			return nil
		}
		return ls.permits(other, source, rule)
	}); err != nil {
		return Owner{}, fmt.Errorf("another socket has port %d too and can send in the place of %s: %w", source.Port(), source, err)
	}
	return owner, nil
}
