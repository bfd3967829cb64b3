package capture

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrGone is returned for a process that has ended.
	ErrGone = errors.New("the process has ended")
	// ErrOldKernel is returned where the kernel cannot name the process at the other end of a unix socket in a way that
	// another process cannot take over. Its user can be told nevertheless.
	ErrOldKernel = errors.New("this kernel does not say for certain which process connected (Linux 6.5 does)")
)

// Processes tell who connects to unix sockets of this host, by the same cgroups as Listeners.
type Processes struct{ cgroups *cgroups }

// NewProcesses returns what finds units below cgroupRoot; empty: found below /sys/fs/cgroup.
func NewProcesses(cgroupRoot string) *Processes { return &Processes{newCgroups(cgroupRoot)} }

// A Process is who called connect(2) on the other end of a unix socket. Who holds that end now may be others: whoever the
// process gave it to speaks as the process, until it ends. The caller closes it.
type Process struct {
	UID   uint32   // the effective one as it connected
	PID   int32    // for people: another process may have the number once this one has ended
	pidfd *os.File // nil: the kernel gives none
}

// Of returns the process that connected conn.
func (*Processes) Of(conn *net.UnixConn) (*Process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find out who connected: %w", err)
	}
	p := &Process{}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed != nil {
			return
		}
		p.UID, p.PID = cred.Uid, cred.Pid
		var pidfd int
		switch pidfd, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); {
		case errors.Is(failed, unix.ENOPROTOOPT):
			failed = nil // p.pidfd says so
		case failed == nil:
			// Of a descriptor that does not block the runtime waits without a thread.
			if failed = unix.SetNonblock(pidfd, true); failed != nil {
				unix.Close(pidfd)
				return
			}
			p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("find out who connected: %w", err) // ESRCH: it has ended and is forgotten
	}
	return p, nil
}

// Close gives up what names the process.
func (p *Process) Close() error {
	if p.pidfd == nil {
		return nil
	}
	return p.pidfd.Close()
}

// Ended waits until the process has ended, and returns nil then. It fails where p is closed, and at once with
// ErrOldKernel.
func (p *Process) Ended() error {
	if p.pidfd == nil {
		return ErrOldKernel
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(hasEnded)
}

// hasEnded reports whether a pidfd's process has: it can be read then.
func hasEnded(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := ignoringInterrupts(func() (int, error) { return unix.Poll(fds, 0) })
	return err != nil || n > 0
}

// Which returns the place in ws of the workload that a process is at this moment: of several, the one that describes it
// most closely, and of those the first. It fails with ErrNotAllowed where the process is none of them, and with another
// error where that cannot be found out: a process that could be in a unit is not taken for its user's.
func (ps *Processes) Which(p *Process, ws []Workload) (int, error) {
	who, err := ps.look(p, slices.ContainsFunc(ws, func(w Workload) bool { return w.Unit != "" }))
	if err != nil {
		return -1, fmt.Errorf("find out who process %d is: %w", p.PID, err)
	}
	found := -1
	for i, w := range ws {
		if who.is(w) && (found < 0 || w.specific() > ws[found].specific()) {
			found = i
		}
	}
	if found < 0 {
		return -1, fmt.Errorf("%w: process %d of uid %d in cgroup %q", ErrNotAllowed, p.PID, who.effective, who.cgroup)
	}
	return found, nil
}

// identity is what the kernel says of a process at one moment.
type identity struct {
	connected, real, effective, saved uint32 // uids
	cgroup                            string
}

// is compares with what a workload asks for. Where that is a uid, it is all four of them: a process that another user
// started, of a program with the setuid bit, does what that user wants.
func (who identity) is(w Workload) bool {
	if w.Unit != "" {
		return inUnit(who.cgroup, w.Unit)
	}
	return w.HasUID && who.connected == w.UID && who.real == w.UID && who.effective == w.UID && who.saved == w.UID
}

// look asks the kernel by the pidfd, so that the answer is of this process and of none that came after it; older kernels
// than 6.13 by /proc, while the pidfd says that the number is still this process's.
func (ps *Processes) look(p *Process, cgroup bool) (who identity, err error) {
	defer func() { who.connected = p.UID }()
	if p.pidfd == nil {
		if cgroup {
			return identity{}, fmt.Errorf("%w; name a uid in the place of the unit", ErrOldKernel)
		}
		return identity{real: p.UID, effective: p.UID, saved: p.UID}, nil
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return identity{}, err
	}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CREDS | unix.PIDFD_INFO_CGROUPID}
	var failed error
	ended := false
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlPidfdInfo(int(fd), &info)
		ended = hasEnded(fd)
	})
	switch {
	case err != nil:
		return identity{}, err
	case ended, errors.Is(failed, unix.ESRCH):
		return identity{}, ErrGone
	case failed == nil && info.Mask&unix.PIDFD_INFO_CREDS != 0 && (info.Mask&unix.PIDFD_INFO_CGROUPID != 0 || !cgroup):
		who = identity{real: info.Ruid, effective: info.Euid, saved: info.Suid}
		if cgroup {
			who.cgroup, err = ps.cgroups.path(info.Cgroupid)
		}
		return who, err
	case failed != nil && !errors.Is(failed, unix.ENOTTY) && !errors.Is(failed, unix.EINVAL):
		return identity{}, failed
	}
	if who, err = procIdentity(p.PID); err != nil {
		return identity{}, err
	}
	if err := raw.Control(func(fd uintptr) { ended = hasEnded(fd) }); err != nil || ended {
		return identity{}, errors.Join(ErrGone, err)
	}
	return who, nil
}

// procIdentity reads what /proc says of the process that has a number now.
func procIdentity(pid int32) (identity, error) {
	const remedy = "a unit with ProtectProc= hides other processes from the node; set it to default, or use Linux 6.13"
	dir := "/proc/" + strconv.Itoa(int(pid))
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return identity{}, fmt.Errorf("%w (%s)", err, remedy)
	}
	groups, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return identity{}, fmt.Errorf("%w (%s)", err, remedy)
	}
	return parseProc(status, groups)
}

// parseProc reads proc_pid_status(5) and proc_pid_cgroup(5). A process chooses its name, which is in the first line of
// its status, where the kernel escapes line feeds.
func parseProc(status, groups []byte) (who identity, err error) {
	found := false
	for line := range bytes.Lines(status) {
		rest, ok := strings.CutPrefix(string(line), "Uid:")
		if !ok || found {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) != 4 {
			break
		}
		for i, into := range []*uint32{&who.real, &who.effective, &who.saved} {
			uid, err := strconv.ParseUint(fields[i], 10, 32)
			if err != nil {
				return identity{}, fmt.Errorf("uid in its status: %w", err)
			}
			*into = uint32(uid)
		}
		found = true
	}
	if !found {
		return identity{}, errors.New("its status says no uid")
	}
	for line := range bytes.Lines(groups) { // a name holds no line feed: the kernel refuses to make one
		path, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "0::")
		if ok && strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/..") {
			who.cgroup = path
			return who, nil
		}
	}
	return identity{}, fmt.Errorf("%w: it is not below the root of this process's cgroups, or the host has none of version 2", ErrNoCgroup)
}
