// Package ci tests what decides whether a change lands: the scripts of .ci.
package ci

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A failing test is asked again alone, and nothing else is: whatever else fails ends the run at once.
func TestAFailedTestIsAskedAgainAlone(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("needs bash: ", err)
	}
	// once fails the first time that it runs, and whenever another test runs with it.
	const once = `func TestOnce(t *testing.T) {
		if _, err := os.Stat("ran"); err != nil {
			os.WriteFile("ran", nil, 0o600)
			t.Fatal("the machine was slow")
		}
	}
	func TestOther(t *testing.T) {
		if _, err := os.Stat("other"); err == nil { t.Fatal("run again") }
		os.WriteFile("other", nil, 0o600)
	}`
	tests := []struct {
		name, tests string
		passes      bool
		unsteady    string // what is in the file of unsteady tests
		runs        int    // how often the tests ran that leave a line in "runs"
	}{
		{"all pass", counted("A", ""), true, "", 1},
		{"once", once, true, "TestOnce of x/p failed once beside the others, and passed three times alone\n", 0},
		{"always", counted("A", `t.Fatal("broken")`), false, "", 2},
		{"every third time", counted("A", `if ran(t) != 2 { t.Fatal("broken") }`), false, "", 3},
		{"a subtest", counted("A", `t.Run("s", func(t *testing.T) { if ran(t) == 1 { t.Fatal("slow") } })`), true,
			"TestA of x/p failed once beside the others, and passed three times alone\n", 4},
		{"two", counted("A", `if ran(t) == 1 { t.Fatal("slow") }`) + counted("B", `if ran(t) == 2 { t.Fatal("slow") }`), true,
			"TestA of x/p failed once beside the others, and passed three times alone\n" +
				"TestB of x/p failed once beside the others, and passed three times alone\n", 8},
		{"three", counted("A", `t.Fatal("x")`) + counted("B", `t.Fatal("x")`) + counted("C", `t.Fatal("x")`), false, "", 3},
		{"a panic", counted("A", `if ran(t) == 1 { panic("nil map") }`), false, "", 1},
		{"a race that was found", counted("A", `if ran(t) == 1 { t.Fatal("race detected during execution of test") }`), false, "", 1},
		{"a panic of a process that is tested", counted("A", `if ran(t) == 1 { t.Fatal("log:\n  panic: nil map") }`), false, "", 1},
		{"what a process keeps", "\nvar before bool\n" + counted("A", `if before || ran(t) == 1 { t.Fatal("slow") }; before = true`), true,
			"TestA of x/p failed once beside the others, and passed three times alone\n", 4},
		{"the process ends before its tests do", counted("A", `if ran(t) == 1 { t.Fatal("slow") }`) + counted("B", `if ran(t) == 2 { os.Exit(3) }`), false, "", 2},
		{"no test failed, but the package did", `func TestMain(m *testing.M) { m.Run(); os.Exit(1) }` + counted("A", ""), false, "", 1},
		{"it does not build", `func TestA(t *testing.T) { undefined() }`, false, "", 0},
	}
	script, err := filepath.Abs("../../.ci/tests")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(script); err != nil { // and so go's cache of results knows that it was used
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "go.mod", "module x\n\ngo 1.26\n")
			write(t, dir, "p/p_test.go", "package p\n\n"+`import ("os"; "testing")`+"\n\n"+helper+tt.tests)
			write(t, dir, "q/q_test.go", "package q\n\n"+`import "testing"`+"\n\nfunc TestPasses(t *testing.T) {}\n")
			unsteady := filepath.Join(dir, "unsteady")

			cmd := exec.CommandContext(t.Context(), script, "-vet=off", "./...")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "UNSTEADY="+unsteady, "GOWORK=off", "GOFLAGS=")
			out, err := cmd.CombinedOutput()
			if (err == nil) != tt.passes {
				t.Errorf("passed: %v, want %v", err == nil, tt.passes)
			}
			if got := read(t, unsteady); got != tt.unsteady {
				t.Errorf("unsteady: %q, want %q", got, tt.unsteady)
			}
			if got := strings.Count(read(t, filepath.Join(dir, "p", "runs")), "\n"); got != tt.runs {
				t.Errorf("tests ran %d times, want %d", got, tt.runs)
			}
			if t.Failed() {
				t.Logf("it printed:\n%s", out)
			}
		})
	}
}

// helper is code of the tests' tests: ran says how many lines the file "runs" has.
const helper = `
var _ = os.Stat

func ran(t *testing.T) int {
	b, _ := os.ReadFile("runs")
	n := 0
	for _, c := range b { if c == '\n' { n++ } }
	return n
}

func count(t *testing.T) {
	f, err := os.OpenFile("runs", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil { t.Fatal(err) }
	f.WriteString("run\n")
	f.Close()
}
`

// counted is a test that adds a line to the file "runs", and then does what body has.
func counted(name, body string) string {
	return "\nfunc Test" + name + "(t *testing.T) {\n\tcount(t)\n\t" + body + "\n}\n"
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read is the content of a file; one that is not there is empty.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(content)
}
