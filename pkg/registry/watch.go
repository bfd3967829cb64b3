package registry

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Editors and copies write a file in several steps: it is read when nothing has happened for quiet, or when
// something has gone on for patience. Some file systems tell of no changes, hence readAnyway.
const (
	quiet      = 100 * time.Millisecond
	patience   = 400 * time.Millisecond
	readAnyway = 30 * time.Second
)

// Run follows the directory and checks health until ctx ends, and returns when every check has ended.
func (l *Local) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w (the limit fs.inotify.max_user_instances may be reached)", l.cfg.Dir, err)
	}
	defer watcher.Close()
	var checks sync.WaitGroup
	defer checks.Wait()
	running := map[Key]*runningCheck{}
	defer func() {
		for _, r := range running {
			r.stop()
		}
	}()

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var due <-chan time.Time // when to read the directory
	var deadline, read time.Time
	l.watch(watcher)
	l.reread() // what changed before the directory was watched
	for {
		l.adjustChecks(ctx, running, &checks)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.wake:
		case now := <-tick.C:
			l.forgetLeft(now)
			if now.Sub(read) >= readAnyway {
				read = now
				l.reread()
			}
		case _, ok := <-watcher.Events:
			if !ok {
				return fmt.Errorf("watch %s: the watcher ended", l.cfg.Dir)
			}
			now := time.Now()
			if due == nil {
				deadline = now.Add(patience)
			}
			due = time.After(min(quiet, max(0, deadline.Sub(now))))
		case err := <-watcher.Errors: // events were lost
			l.cfg.Log.Warn("watching services.d", "err", err)
			due = time.After(quiet)
		case <-due:
			due = nil
			l.watch(watcher)
			l.reread()
		}
	}
}

func (l *Local) reread() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.readFiles() {
		l.publish()
	}
}

// watch makes sure that the directory is watched, or the nearest above it while it is not there.
func (l *Local) watch(watcher *fsnotify.Watcher) {
	if l.cfg.Dir == "" {
		return
	}
	for dir := filepath.Clean(l.cfg.Dir); ; dir = filepath.Dir(dir) {
		if watcher.Add(dir) == nil || dir == filepath.Dir(dir) {
			return
		}
	}
}

// A runningCheck is one goroutine that checks one instance.
type runningCheck struct {
	check *Check
	stop  context.CancelFunc
}

// adjustChecks starts and ends checks until there is one for each instance that wants one.
func (l *Local) adjustChecks(ctx context.Context, running map[Key]*runningCheck, all *sync.WaitGroup) {
	wanted := map[Key]*Check{}
	for _, in := range l.Instances() {
		if in.Health != nil {
			wanted[in.Key()] = in.Health
		}
	}
	for key, r := range running {
		if c := wanted[key]; c == nil || *c != *r.check {
			r.stop()
			delete(running, key)
		}
	}
	for key, c := range wanted {
		if running[key] != nil {
			continue
		}
		checked, stop := context.WithCancel(ctx)
		running[key] = &runningCheck{c, stop}
		all.Go(func() {
			watchHealth(checked, c, l.probe, func(err error) { l.observe(checked, key, c, err) })
		})
	}
}

// observe takes in the result of a check that was not ended meanwhile.
func (l *Local) observe(ctx context.Context, key Key, c *Check, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.health[key]
	if ctx.Err() != nil || h == nil || !h.observe(c, err) {
		return
	}
	if h.well {
		l.cfg.Log.Info("instance is healthy", "service", key.Service.String(), "instance", key.Name)
	} else {
		l.cfg.Log.Warn("instance is not healthy", "service", key.Service.String(), "instance", key.Name, "err", err)
	}
	l.publish()
}

// forgetLeft ends the time in which calls still reach what is no longer declared.
func (l *Local) forgetLeft(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := false
	for key, going := range l.leaving {
		if now.After(going.until) {
			delete(l.leaving, key)
			changed = true
		}
	}
	if changed {
		l.publish()
	}
}
