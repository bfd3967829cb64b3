package docs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// inOrder are the pages whose commands are run, one behind the other on the same mesh: the tutorial starts it.
var inOrder = []string{
	"tutorial/first-mesh.md",
	"how-to/join-a-host.md",
	"how-to/split-traffic.md",
	"how-to/let-outside-in.md",
	"how-to/call-outside.md",
	"how-to/call-a-service-in-tls.md",
	"how-to/limit-requests.md",
	"how-to/bear-failures.md",
	"how-to/test-faults.md",
	"how-to/restrict-callers.md",
	"how-to/know-end-users.md",
	"how-to/introduce-the-mesh.md",
	"how-to/balance-load.md",
	"how-to/use-svids.md",
	"how-to/debug-a-request.md",
	"how-to/watch-the-mesh.md",
	"how-to/find-out-who-changed-what.md",
	"how-to/revoke.md",
	"how-to/give-operators-roles.md",
	"how-to/use-kubectl.md",
	"how-to/use-helm.md",
	"../README.md",
	"how-to/rotate-the-authority.md",
	"how-to/back-up-and-restore.md",
	"how-to/keep-the-root-offline.md",
	"how-to/seal-keys.md",
	"how-to/use-an-external-authority.md",
}

// needed are programs without which a page's commands cannot be run. All pages need curl.
var needed = map[string]string{"how-to/use-kubectl.md": "kubectl", "how-to/use-helm.md": "helm", "how-to/know-end-users.md": "openssl"}

const (
	commandTime = 2 * time.Minute
	again       = 100 * time.Millisecond
)

// TestCommands types what the pages show.
func TestCommands(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no page is run: there is no curl here")
	}
	r := newReader(t)
	for _, page := range inOrder {
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			if program := needed[page]; program != "" {
				if _, err := exec.LookPath(program); err != nil {
					t.Skipf("%s is not run: there is no %s here", page, program)
				}
			}
			blocks, _ := read(t, page)
			for _, b := range blocks {
				r.follow(t, b)
			}
		})
		if t.Failed() {
			r.logs(t)
			return
		}
	}
}

// TestEveryCommandIsRunOrSaysWhyNot keeps pages honest: no command escapes the test above in silence.
func TestEveryCommandIsRunOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	all := pages(t)
	for _, page := range all {
		dir := filepath.Dir(page)
		if dir != "tutorial" && dir != "how-to" {
			continue
		}
		listed := page == onHosts
		for _, p := range inOrder {
			listed = listed || p == page
		}
		if !listed {
			t.Errorf("%s: its commands are not run: add it to inOrder", page)
		}
		blocks, _ := read(t, page)
		for _, b := range blocks {
			if _, elsewhere := b.value("on"); elsewhere && page != onHosts {
				t.Errorf("%s:%d: only %s is run on hosts", b.page, b.line, onHosts)
			}
			switch {
			case b.lang != "sh" && b.lang != "bash" && b.lang != "shell" && b.lang != "console":
			case b.has("not-run"):
				why, ok := strings.CutPrefix(b.before, "*Not run by the tests: ")
				if !ok {
					t.Errorf("%s:%d: the line above must tell readers why, as *Not run by the tests: …*", b.page, b.line)
				}
				t.Logf("%s:%d is not run: %s", b.page, b.line, strings.TrimRight(why, "*"))
			case b.lang != "console":
				t.Errorf("%s:%d: a block of %s is not run: make it console, or not-run with the reason above it", b.page, b.line, b.lang)
			}
		}
	}
}

// A reader is somebody at a prompt who follows the pages: a folder, an environment, and the processes that run in
// other terminals.
type reader struct {
	dir     string // holds everything; its short name leaves room for unix sockets
	ports   map[string]string
	others  []*launch.Process
	started int
}

func newReader(t *testing.T) *reader {
	t.Helper()
	dir, err := os.MkdirTemp("", "sennit-docs-") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{dir: dir, ports: map[string]string{}}
	t.Cleanup(func() {
		for i := len(r.others) - 1; i >= 0; i-- {
			if err := r.others[i].Stop(20 * time.Second); err != nil {
				t.Error(err)
			}
		}
		os.RemoveAll(dir)
	})
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "sennit"), "../cmd/sennit")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build sennit: %v\n%s", err, out)
	}
	environment := fmt.Sprintf("export PATH='%s':\"$PATH\" HOME='%s'\nunset SENNIT_SERVER SENNIT_TOKEN_FILE SENNIT_CA_FILE SENNIT_NODE_SOCKET KUBECONFIG\n", filepath.Join(dir, "bin"), dir)
	for name, text := range map[string]string{"env": environment, "cwd": dir} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// follow does what a block asks for.
func (r *reader) follow(t *testing.T, b block) {
	t.Helper()
	file, isFile := b.value("file")
	switch {
	case isFile:
		cwd, err := os.ReadFile(filepath.Join(r.dir, "bin", "cwd"))
		if err != nil {
			t.Fatal(err)
		}
		// As editors do it that leave no half a file.
		path := filepath.Join(strings.TrimSpace(string(cwd)), file)
		if err := errors.Join(os.WriteFile(path+".new", []byte(r.mapped(t, b.text)), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatalf("%s:%d: %v", b.page, b.line, err)
		}
	case b.lang != "console" || b.has("not-run"):
	default:
		for _, step := range steps(r.mapped(t, b.text)) {
			r.run(t, b, step)
		}
	}
}

// A step is one command and the lines that are shown below it.
type step struct{ command, shown string }

func steps(text string) []step {
	var all []step
	more := false // the command goes on in the next line
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case isCommand:
			all = append(all, step{command: command})
		case more:
			all[len(all)-1].command += strings.TrimPrefix(line, "> ")
		case len(all) > 0:
			all[len(all)-1].shown += line
		}
		more = (isCommand || more) && strings.HasSuffix(line, "\\\n")
	}
	return all
}

// run types one command.
func (r *reader) run(t *testing.T, b block, s step) {
	t.Helper()
	where := fmt.Sprintf("%s:%d: %s", b.page, b.line, s.command)
	if b.has("background") {
		r.leaveRunning(t, where, s)
		return
	}
	deadline := time.Now().Add(commandTime)
	for {
		out, err := r.shell(t, s.command)
		var exit *exec.ExitError
		switch {
		case err != nil && !errors.As(err, &exit):
			t.Fatalf("%s%v", where, err)
		case err == nil && b.has("fails"):
			err = errors.New("exit code 0, and the page says that it fails")
		case err != nil && !b.has("fails"):
			err = fmt.Errorf("it failed: %w", err)
		default:
			err = compare(s.shown, string(out))
		}
		if err == nil {
			return
		}
		if !b.has("eventually") || time.Now().After(deadline) {
			t.Fatalf("%s%v\nit said:\n%s", where, err, out)
		}
		select {
		case <-time.After(again):
		case <-t.Context().Done():
		}
	}
}

// shell runs a command where the last one left the prompt.
func (r *reader) shell(t *testing.T, command string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), commandTime)
	defer cancel()
	bin := filepath.Join(r.dir, "bin")
	script := fmt.Sprintf("cd \"$(cat %[1]s/cwd)\"\n. %[1]s/env\n%[2]s\ncode=$?\nexport -p >%[1]s/env\npwd >%[1]s/cwd\nexit $code\n", bin, command)
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

// leaveRunning types a command in a terminal of its own, and waits until it says what is shown.
func (r *reader) leaveRunning(t *testing.T, where string, s step) {
	t.Helper()
	bin := filepath.Join(r.dir, "bin")
	r.started++
	name := fmt.Sprintf("terminal%d", r.started)
	script := fmt.Sprintf("cd \"$(cat %[1]s/cwd)\"\n. %[1]s/env\nexec %[2]s", bin, s.command)
	p, err := launch.Start(bin, name, []string{"sh", "-c", script}, nil)
	if err != nil {
		t.Fatalf("%s%v", where, err)
	}
	r.others = append(r.others, p)
	deadline := time.After(commandTime)
	for {
		err := compare(s.shown, p.Tail(1<<20))
		if err == nil {
			return
		}
		select {
		case <-time.After(again):
		case <-p.Done():
			t.Fatalf("%sit ended: %v; it said:\n%s", where, p.Err(), p.Tail(4000))
		case <-deadline:
			t.Fatalf("%s%v\nit said:\n%s", where, err, p.Tail(4000))
		}
	}
}

func (r *reader) logs(t *testing.T) {
	for _, p := range r.others {
		t.Logf("%s:\n%s", p.Name, p.Tail(3000))
	}
}

var (
	loopback = regexp.MustCompile(`127\.0\.0\.1:(\d{2,5})\b`)
	listened = regexp.MustCompile(`\bport: (\d{2,5}), protocol: HTTPS?\b`) // of a Gateway, which is reached at loopback
	// outside are the ports of ExternalServices at loopback, alone and as callers name them.
	outside = regexp.MustCompile(`((?m:^) +port: |\bdefault/bank:)(\d{4,5})\b`)
)

// mapped replaces the ports of the text by free ones, so that this runs beside whatever else there is.
func (r *reader) mapped(t *testing.T, text string) string {
	text = listened.ReplaceAllStringFunc(text, func(listener string) string {
		port := listened.FindStringSubmatch(listener)[1]
		return strings.Replace(listener, port, strings.TrimPrefix(r.mapped(t, "127.0.0.1:"+port), "127.0.0.1:"), 1)
	})
	text = outside.ReplaceAllStringFunc(text, func(port string) string {
		parts := outside.FindStringSubmatch(port)
		return parts[1] + strings.TrimPrefix(r.mapped(t, "127.0.0.1:"+parts[2]), "127.0.0.1:")
	})
	return loopback.ReplaceAllStringFunc(text, func(address string) string {
		if r.ports[address] == "" {
			free, err := launch.FreePorts(1)
			if err != nil {
				t.Fatal(err)
			}
			r.ports[address] = fmt.Sprintf("127.0.0.1:%d", free[0])
		}
		return r.ports[address]
	})
}

// compare looks for the lines that are shown in what was said, in their order. "…" stands for anything, spaces for any
// number of them; other lines may stand between.
func compare(shown, said string) error {
	lines := strings.Split(said, "\n")
	for want := range strings.Lines(shown) {
		if want = strings.Join(strings.Fields(want), " "); want == "" || want == "…" {
			continue
		}
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		found := false
		for len(lines) > 0 && !found {
			found = pattern.MatchString(strings.Join(strings.Fields(lines[0]), " "))
			lines = lines[1:]
		}
		if !found {
			return fmt.Errorf("%q is shown, and was not said", want)
		}
	}
	return nil
}

// TestCompare shows that what is not said is noticed: a runner that passes everything keeps nothing true.
func TestCompare(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, shown, said string
		ok                bool
	}{
		{"nothing shown", "", "anything", true},
		{"the same", "a b\n", "a   b\n", true},
		{"lines between", "a\nc\n", "a\nb\nc\n", true},
		{"wildcard within a line", "node … alive\n", "node host1 is alive\n", true},
		{"another order", "c\na\n", "a\nb\nc\n", false},
		{"more in the line than shown", "a\n", "a b\n", false},
		{"missing", "d\n", "a\nb\nc\n", false},
	} {
		if err := compare(tt.shown, tt.said); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
