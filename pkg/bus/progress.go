package bus

import (
	"context"
	"sync"
)

// A Progress says how far the records of a stream were taken in, and wakes who waits for more. The zero value has read
// nothing. It is safe for concurrent use.
type Progress struct {
	mu    sync.Mutex
	at    uint64
	moved chan struct{} // closed and replaced when at grows; nil: nobody has looked yet
}

// At returns the sequence of the newest record that was taken in.
func (p *Progress) At() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// Reach says that all records up to a sequence were taken in. It never goes back.
func (p *Progress) Reach(at uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at <= p.at {
		return
	}
	p.at = at
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// Wait returns once all records up to a sequence were taken in, or the error of ctx.
func (p *Progress) Wait(ctx context.Context, at uint64) error {
	for {
		have, moved := p.look()
		if have >= at {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Moved returns a channel that is closed with the next record.
func (p *Progress) Moved() <-chan struct{} {
	_, moved := p.look()
	return moved
}

func (p *Progress) look() (at uint64, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moved == nil {
		p.moved = make(chan struct{})
	}
	return p.at, p.moved
}
