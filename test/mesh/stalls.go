package mesh

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// stalls are measured while something is timed: how long the machine keeps a process from running that could, and a write
// from the disk. Whoever bounds a time leaves room for them (room).
type stalls struct {
	stop         context.CancelFunc
	group        sync.WaitGroup
	kept, synced time.Duration // at the longest; to be read when it has ended
}

func (m *Mesh) watchStalls() *stalls {
	m.t.Helper()
	ctx, stop := context.WithCancel(m.t.Context())
	s := &stalls{stop: stop}
	file, err := os.Create(filepath.Join(m.Dir, "stalls"))
	m.must("watch the disk", err)
	s.group.Go(func() {
		const every = 2 * time.Millisecond
		for began := time.Now(); ctx.Err() == nil; {
			time.Sleep(every)
			now := time.Now()
			s.kept = max(s.kept, now.Sub(began)-every)
			began = now
		}
	})
	s.group.Go(func() {
		defer file.Close()
		const pause = 5 * time.Millisecond // so that it does not keep others from the disk itself
		for ; ctx.Err() == nil; time.Sleep(pause) {
			began := time.Now()
			_, err := file.WriteAt([]byte("a few bytes"), 0)
			if err == nil {
				err = file.Sync()
			}
			if err != nil {
				m.t.Errorf("watch the disk: %v", err)
				return
			}
			s.synced = max(s.synced, time.Since(began))
		}
	})
	return s
}

// room ends the watch. It returns how much longer than usual that may take for which several processes run and write in turn.
func (s *stalls) room() time.Duration {
	s.stop()
	s.group.Wait()
	return 4*s.kept + 3*s.synced
}
