package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/test/hosts"
)

// onHosts is the page that takes two hosts of its own. The word `on` says where each of its blocks is typed:
// on a host, on several one behind the other, or where the program is built.
const onHosts = "how-to/install-on-hosts.md"

const (
	buildPlace = "build"
	// buildTime bounds a command where the program is built; with an empty cache that is a compilation of everything.
	buildTime = 15 * time.Minute
)

// TestHosts types what the page shows on two hosts that have systemd as their first process.
func TestHosts(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program a second time, and starts two hosts")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("the page is not run: there is no curl here")
	}
	places := map[string]place{}
	all := hosts.Start(t, "host1", "host2")
	for _, h := range all {
		places[h.Name] = host{h}
	}
	places[buildPlace] = newBuilder(t, all)
	blocks, _ := read(t, onHosts)
	for _, b := range blocks {
		on, ok := b.value("on")
		if !ok {
			t.Errorf("%s:%d: the block does not say where it is typed: on=host1", b.page, b.line)
			continue
		}
		for name := range strings.SplitSeq(on, ",") {
			p := places[name]
			if p == nil {
				t.Fatalf("%s:%d: there is no host %q", b.page, b.line, name)
			}
			if file, ok := b.value("file"); ok {
				if err := p.write(file, b.text); err != nil {
					t.Fatalf("%s:%d: %v", b.page, b.line, err)
				}
				continue
			}
			for _, s := range steps(b.text) {
				typed(t, p, b, s)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// A place is where commands are typed.
type place interface {
	run(ctx context.Context, line string) ([]byte, error)
	write(file, text string) error
	within() time.Duration
}

// typed runs one command and looks for what is shown.
func typed(t *testing.T, p place, b block, s step) {
	t.Helper()
	for deadline := time.Now().Add(p.within()); ; {
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		out, err := p.run(ctx, strings.TrimSpace(s.command))
		cancel()
		var exit *exec.ExitError
		switch {
		case err != nil && !errors.As(err, &exit):
		case err == nil && b.has("fails"):
			err = errors.New("exit code 0, and the page says that it fails")
		case err == nil || b.has("fails"):
			err = compare(s.shown, string(out))
		}
		if err == nil {
			t.Logf("%s:%d: %s%s", b.page, b.line, s.command, out)
			return
		}
		if !b.has("eventually") || time.Now().After(deadline) {
			t.Fatalf("%s:%d: %s%v\nit said:\n%s", b.page, b.line, s.command, err, out)
		}
		<-time.After(again)
	}
}

// A host types as its operator, and as root where the line has sudo: there is no sudo that asks for a password.
type host struct{ *hosts.Host }

func (h host) within() time.Duration { return 2 * commandTime }

func (h host) run(ctx context.Context, line string) ([]byte, error) {
	uid := hosts.Operator
	if strings.Contains(line, "sudo ") {
		uid = 0
	}
	return h.Shell(ctx, uid, line).CombinedOutput()
}

func (h host) write(file, text string) error {
	if err := os.WriteFile(h.Path(file+".new"), []byte(text), 0o644); err != nil { //nolint:gosec // the node's user reads it
		return err
	}
	return os.Rename(h.Path(file+".new"), h.Path(file))
}

// A builder types in the root of the repository. Its scp copies to the homes of the hosts.
type builder struct{ bin string }

func newBuilder(t *testing.T, all []*hosts.Host) builder {
	t.Helper()
	dir := t.TempDir()
	var known strings.Builder
	for _, h := range all {
		fmt.Fprintf(&known, "%s:*) echo \"%s/${1#*:}\" ;;\n", h.Name, h.Path("/home/operator"))
	}
	script := fmt.Sprintf(`#!/bin/sh
set -eu
at() { case $1 in
%s*) echo "$1" ;;
esac; }
[ "$1" = -r ] && shift
to=$(at "$2")
cp -r "$(at "$1")" "$to"
chown -R %d "$to"
`, known.String(), hosts.Operator)
	if err := os.WriteFile(filepath.Join(dir, "scp"), []byte(script), 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	program := filepath.Join("..", "deploy", "vm", "sennit")
	if _, err := os.Stat(program); os.IsNotExist(err) {
		t.Cleanup(func() { os.Remove(program) })
	}
	return builder{bin: dir}
}

func (b builder) within() time.Duration { return buildTime }

func (b builder) run(ctx context.Context, line string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "PATH="+b.bin+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

func (b builder) write(file, _ string) error {
	return fmt.Errorf("%s belongs on a host", file)
}
