package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A file is one file of services.d.
type file struct {
	content []byte      // as it was read last
	parsed  []*Instance // what the content declares; nil where it has a mistake
	good    []*Instance // what counts: the last content without mistake or conflict
	problem error
}

// A Problem is a file that does not count as it stands.
type Problem struct {
	File string
	Err  error
}

// Problems returns the files whose last version is not in force, and why, ordered by name.
func (l *Local) Problems() []Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Problem
	if l.dirErr != nil {
		out = append(out, Problem{l.cfg.Dir, l.dirErr})
	}
	for _, name := range slices.Sorted(maps.Keys(l.files)) {
		if f := l.files[name]; f.problem != nil {
			out = append(out, Problem{name, f.problem})
		}
	}
	return out
}

// Reload reads all files again, as at SIGHUP, and returns what is wrong with them.
func (l *Local) Reload() error {
	l.mu.Lock()
	if l.readFiles() {
		l.publish()
	}
	l.mu.Unlock()
	var all []error
	for _, p := range l.Problems() {
		all = append(all, p.Err)
	}
	return errors.Join(all...)
}

// readFiles reads the directory and reports whether what is declared changed. The lock is held.
func (l *Local) readFiles() bool {
	if l.cfg.Dir == "" {
		return false
	}
	entries, err := os.ReadDir(l.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read %s: %w (what was declared stays in force; the node's user needs to read it)", l.cfg.Dir, err)
		l.complain(&l.dirErr, err)
		return false
	}
	l.dirErr = nil
	there := map[string]bool{}
	for _, entry := range entries {
		if name := entry.Name(); filepath.Ext(name) == ".yaml" && !strings.HasPrefix(name, ".") && !entry.IsDir() {
			there[filepath.Join(l.cfg.Dir, name)] = true
		}
	}
	changed := false
	for name, f := range l.files {
		if !there[name] {
			changed = changed || len(f.good) > 0
			delete(l.files, name)
			l.cfg.Log.Info("file of services.d removed", "file", name)
		}
	}
	for name := range there {
		l.readFile(name)
	}
	return l.settle() || changed
}

// readFile takes in one file's content where it is not the one that is known.
func (l *Local) readFile(name string) {
	content, err := readBounded(name)
	if errors.Is(err, fs.ErrNotExist) {
		return // just removed; the next reading finds it gone
	}
	f := l.files[name]
	if f == nil {
		f = &file{}
		l.files[name] = f
	}
	if err != nil {
		f.content = nil
		l.complain(&f.problem, fmt.Errorf("%w (what it declared before stays in force; the node's user needs to read it)", err))
		return
	}
	if f.content != nil && bytes.Equal(f.content, content) {
		return
	}
	f.content = content
	parsed, err := Parse(name, content, l.cfg.Node)
	f.parsed = nil
	if err != nil {
		l.complain(&f.problem, err)
		return
	}
	f.parsed, f.problem = append([]*Instance{}, parsed...), nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if content == nil {
		content = []byte{}
	}
	return content, err
}

// settle puts what was parsed into force, file by file in the order of names, where nobody else holds the
// same instance or listener. What one file gives up another may take, so it goes on while anything moves.
func (l *Local) settle() (changed bool) {
	for moved := true; moved; {
		moved = false
		for _, name := range slices.Sorted(maps.Keys(l.files)) {
			f := l.files[name]
			if f.parsed == nil {
				continue
			}
			own := func(other *Instance) bool { return slices.Contains(f.good, other) }
			if err := l.conflict(name, f.parsed, own); err != nil {
				l.complain(&f.problem, err)
				continue
			}
			f.good, f.parsed, f.problem = f.parsed, nil, nil
			moved, changed = true, true
			l.cfg.Log.Info("file of services.d read", "file", name, "instances", len(f.good))
		}
	}
	return changed
}

// complain keeps a problem, and logs it where it is a new one.
func (l *Local) complain(where *error, err error) {
	if *where == nil || (*where).Error() != err.Error() {
		l.cfg.Log.Error("services.d not read", "err", err)
	}
	*where = err
}
