package transport

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// ways remembers to which nodes UDP does not get through, for all lanes to a node together. The zero value knows of
// none.
type ways struct {
	mu      sync.Mutex
	without map[netip.AddrPort]*way
}

// A way is to an address that UDP does not reach.
type way struct {
	since time.Time // when that was found first
	again time.Time // when QUIC is tried again
	err   error     // of the last try
}

const (
	// retryUDP is how often QUIC is tried again where UDP did not get through.
	retryUDP = 5 * time.Minute
	// knownWays bounds the memory of ways; a node that is forgotten costs its next lane the head start of QUIC.
	knownWays = 4096
)

// block remembers that a dial over QUIC failed where one over TCP did not.
func (w *ways) block(addr netip.AddrPort, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if to := w.without[addr]; to != nil {
		to.again, to.err = now.Add(retryUDP), err
		return
	}
	if w.without == nil || len(w.without) >= knownWays {
		w.without = make(map[netip.AddrPort]*way)
	}
	w.without[addr] = &way{since: now, again: now.Add(retryUDP), err: err}
}

// open forgets that.
func (w *ways) open(addr netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.without, addr)
}

// blocked reports whether UDP is not known to get through to an address.
func (w *ways) blocked(addr netip.AddrPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.without[addr] != nil
}

// due reports whether it is time to try QUIC again in place of TCP; where another lane has found that it works, it is.
func (w *ways) due(addr netip.AddrPort, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	to := w.without[addr]
	return to == nil || !now.Before(to.again)
}

// find returns what is known of an address.
func (w *ways) find(addr netip.AddrPort) (to way, blocked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if found := w.without[addr]; found != nil {
		return *found, true
	}
	return way{}, false
}

// ended looks at how a connection ended: one that fell silent may have lost UDP on its way, and the next dial does not
// wait for QUIC.
func (w *ways) ended(c *conn, cause error) {
	var silent *quic.IdleTimeoutError
	if errors.As(cause, &silent) && c.t.carrier(c.lane.key) == Auto {
		w.block(c.addr, cause)
	}
}
