package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens one address; its errors name the cause and the remedy.
func (ls *Listeners) listen(ctx context.Context, address netip.AddrPort) (net.Listener, error) {
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", address.String())
	if err != nil {
		return nil, unopened(err, address, ls.owners)
	}
	return l, nil
}

// unopened says what to do about an address that could not be opened.
func unopened(err error, address netip.AddrPort, owners *owners) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w, held by %s (stop it, or give the listener in services.d another address)", err, owners.holder(address))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w (this host has no such address; listeners are best on 127.0.0.1 or ::1)", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w (ports below 1024 need CAP_NET_BIND_SERVICE; take a higher port)", err)
	}
	return err
}

// holder says who listens on an address already, as far as this process may know.
func (o *owners) holder(address netip.AddrPort) string {
	owner, err := o.listening(address)
	if err != nil {
		return "a process that cannot be found out"
	}
	who := "uid " + strconv.FormatUint(uint64(owner.UID), 10)
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return who
	}
	want := fmt.Sprintf("socket:[%d]", owner.inode)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == want {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm") // without it the number must do
			return fmt.Sprintf("process %s (%s), %s", pid, strings.TrimSpace(string(name)), who)
		}
	}
	return who
}
