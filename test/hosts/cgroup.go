package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// cgroupRoot is the folder of this process's own cgroup of version 2, below which hosts have theirs.
func cgroupRoot(t testing.TB) string {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skipf("needs cgroups: %v", err)
	}
	for line := range strings.Lines(string(own)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} { // the latter beside version 1
			if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
				return filepath.Join(root, path)
			}
		}
	}
	t.Skip("needs cgroups of version 2")
	return ""
}

// removeCgroup removes a cgroup and those below it. It fails while processes are in one.
func removeCgroup(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	for i := len(all) - 1; i >= 0; i-- { // what is deeper comes first
		err = errors.Join(err, os.Remove(all[i]))
	}
	return err
}

// childOf is the one child of a process, 0 before it is there.
func childOf(pid int) int {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		return 0
	}
	return child
}
