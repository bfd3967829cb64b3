package bus

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// A store that failed to write once takes nothing more until its files are opened again: that is the embedded
// server's rule, and it answers nobody meanwhile. storeFault is how those who write hear of it at once.
type storeFault struct {
	mu   sync.Mutex
	ctx  context.Context // ends with the cause when a write fails; never nil
	end  context.CancelCauseFunc
	told chan struct{} // holds one where heal has something to do
}

func newStoreFault() *storeFault {
	f := &storeFault{told: make(chan struct{}, 1)}
	f.clear()
	return f
}

// set takes in what the server says of a write that failed.
func (f *storeFault) set(said string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end(fmt.Errorf("%w: %s (free disk space where the controller keeps its state; it goes on by itself then)", ErrFull, said))
	select {
	case f.told <- struct{}{}:
	default:
	}
}

func (f *storeFault) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx, f.end = context.WithCancelCause(context.Background())
}

func (f *storeFault) cause() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return context.Cause(f.ctx)
}

// bound returns ctx, ended with the cause as well when the store cannot write. done is to be called.
func (f *storeFault) bound(ctx context.Context) (_ context.Context, done func()) {
	f.mu.Lock()
	fault := f.ctx
	f.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(fault, func() { cancel(context.Cause(fault)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

const (
	healEvery = time.Second
	healRoom  = 4 << 20 // bytes that must be free before the streams are opened again
)

// heal opens the streams anew when there is room again, until ctx ends.
func (s *Server) heal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fault.told:
		}
		s.cfg.Log.Error("nothing can be stored", "dir", s.cfg.StateDir, "err", s.fault.cause())
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(healEvery):
			}
			if s.room() != nil {
				continue
			}
			if err := s.reopen(); err != nil {
				s.cfg.Log.Error("streams could not be opened again", "dir", s.cfg.StateDir, "err", err)
				continue
			}
			s.cfg.Log.Info("there is room again: the streams are open", "dir", s.cfg.StateDir)
			break
		}
	}
}

// room tries whether there is some.
func (s *Server) room() error {
	file, err := os.CreateTemp(s.cfg.StateDir, "room-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(make([]byte, healRoom)); err != nil {
		return err
	}
	return file.Sync()
}

func (s *Server) reopen() error {
	held, err := storedStreams(s.cfg.StateDir)
	if err != nil {
		return err
	}
	if config := s.nats.JetStreamConfig(); config != nil {
		s.settings = *config
		s.settings.StoreDir = s.cfg.StateDir
	}
	if err := s.nats.ShutdownJetStream(); err != nil {
		return err
	}
	s.fault.clear() // what fails from here on is a new fault
	settings := s.settings
	if err := s.nats.EnableJetStream(&settings); err != nil {
		s.fault.set(err.Error())
		return err
	}
	return s.checkRecovered(held)
}
