package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
)

// ErrNotAllowed is returned for a connection of a process that may not use the listener.
var ErrNotAllowed = errors.New("this process may not use the listener")

func processUID() uint32 { return uint32(os.Geteuid()) }

// allowed returns nil where the process at the other end of conn is the one that the rule names.
func (ls *Listeners) allowed(conn *net.TCPConn, rule Listener) error {
	far, okFar := conn.RemoteAddr().(*net.TCPAddr)
	near, okNear := conn.LocalAddr().(*net.TCPAddr)
	if !okFar || !okNear {
		return ErrNoOwner
	}
	owner, err := ls.owners.of(far.AddrPort(), near.AddrPort())
	if err != nil {
		return fmt.Errorf("find out who connected from %s: %w", far, err)
	}
	return ls.permits(owner, far.AddrPort(), rule)
}

// permits returns nil where the owner of the socket at far is the one that the rule names.
func (ls *Listeners) permits(owner Owner, far netip.AddrPort, rule Listener) error {
	switch {
	case rule.HasUID && owner.UID != rule.UID:
		return fmt.Errorf("%w: %s is uid %d, the listener is for uid %d", ErrNotAllowed, far, owner.UID, rule.UID)
	case rule.Unit != "":
		path, err := ls.cgroups.path(owner.Cgroup)
		if err != nil {
			return fmt.Errorf("find out which unit connected from %s: %w", far, err)
		}
		if !inUnit(path, rule.Unit) {
			return fmt.Errorf("%w: %s is in cgroup %s, the listener is for %s", ErrNotAllowed, far, path, rule.Unit)
		}
	case !rule.HasUID && owner.UID != ls.uid:
		return fmt.Errorf("%w: %s is uid %d, and the listener, which names neither uid nor unit, is for the node's own uid %d", ErrNotAllowed, far, owner.UID, ls.uid)
	}
	return nil
}
