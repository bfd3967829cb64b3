package controller

import (
	"sync"
	"time"
)

// A bell wakes everyone who waits for it. The zero value is ready; it is safe for concurrent use.
type bell struct {
	mu    sync.Mutex
	next  chan struct{} // nil: nobody waits
	rang  time.Time
	after *time.Timer // rings later; nil: none does
}

// bellPause is the least time between two rings: who listens reads everything anew.
const bellPause = 200 * time.Millisecond

// Changed returns a channel that is closed at the next ring.
func (b *bell) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

// ring rings at once, or where it has just rung a little later, once for all calls until then.
func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch since := time.Since(b.rang); {
	case b.after != nil:
	case since < bellPause:
		b.after = time.AfterFunc(bellPause-since, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.after = nil
			b.wake()
		})
	default:
		b.wake()
	}
}

func (b *bell) wake() {
	b.rang = time.Now()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// changed takes in that nodes or instances have changed: those who watch them are told, and snapshots are
// compiled anew, soon.
func (c *Controller) changed() {
	c.bell.ring()
	select {
	case c.rebuild <- struct{}{}:
	default: // it will be
	}
}
