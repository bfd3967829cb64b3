package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrNoCgroup is returned for a cgroup that is not below the root that this node sees.
var ErrNoCgroup = errors.New("cgroup not found")

// maxCgroups bounds how many cgroups are remembered; a host has some thousands at most.
const maxCgroups = 1 << 16

// cgroups finds the path of a cgroup by its id, which is the inode of its directory. An id is never given
// again to another cgroup, and cgroups are not renamed, so what was found stays right.
type cgroups struct {
	root  string // of the unified hierarchy
	known atomic.Pointer[map[uint64]string]

	mu     sync.Mutex
	walked time.Time // when reading the tree last began, with an error or without
}

// walkAgain is how long after reading the tree an unknown id may lead to reading it again: a walk takes
// milliseconds, and who connects decides how often one is asked for.
const walkAgain = 200 * time.Millisecond

func newCgroups(root string) *cgroups {
	if root == "" {
		root = "/sys/fs/cgroup"
		// Hosts with the hybrid layout have the unified hierarchy one level down.
		if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
			if _, err := os.Stat(root + "/unified/cgroup.controllers"); err == nil {
				root += "/unified"
			}
		}
	}
	c := &cgroups{root: root}
	c.known.Store(&map[uint64]string{})
	return c
}

// path returns the path below the root, as "/system.slice/orders.service". It reads the tree where the id
// is not known yet.
func (c *cgroups) path(id uint64) (string, error) {
	if path, ok := (*c.known.Load())[id]; ok {
		return path, nil
	}
	if id == 0 {
		return "", fmt.Errorf("%w: the kernel does not say which (Linux 5.9 does; a listener can name a uid instead)", ErrNoCgroup)
	}
	asked := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	// All who came before a reading of the tree began share it, so that many unknown ids cost each of them
	// one pause and not one for each.
	if _, ok := (*c.known.Load())[id]; !ok && !c.walked.After(asked) {
		time.Sleep(walkAgain - time.Since(c.walked))
		c.walked = time.Now()
		found, err := c.walk()
		if err != nil {
			return "", err
		}
		c.known.Store(&found)
	}
	if path, ok := (*c.known.Load())[id]; ok {
		return path, nil
	}
	return "", fmt.Errorf("%w: %d is not below %s", ErrNoCgroup, id, c.root)
}

func (c *cgroups) walk() (map[uint64]string, error) {
	found := map[uint64]string{}
	err := filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if path == c.root {
				return err
			}
			return nil // a cgroup that ended while we read
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && len(found) < maxCgroups {
			found[stat.Ino] = "/" + strings.TrimPrefix(strings.TrimPrefix(path, c.root), "/")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the cgroups below %s: %w", c.root, err)
	}
	return found, nil
}
