package launch

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPortsOfProcesses asks for ports in several processes, of which none listens on what it got: no port is
// handed out twice all the same.
func TestPortsOfProcesses(t *testing.T) {
	const processes, each = 8, 100
	if os.Getenv("SENNIT_TEST_PORTS") != "" {
		ports, err := FreePorts(each)
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range ports {
			fmt.Println("port", port)
		}
		fmt.Println("done")
		_, _ = os.Stdin.Read(make([]byte, 1)) // holds its blocks until the parent has all answers
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range processes {
		child := exec.CommandContext(t.Context(), program, "-test.run", "^TestPortsOfProcesses$")
		child.Env = append(os.Environ(), "SENNIT_TEST_PORTS=1")
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer child.Wait() //nolint:errcheck // its answer is what counts
		defer in.Close()
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "done" {
			if port, ok := strings.CutPrefix(lines.Text(), "port "); ok && seen[port] {
				t.Errorf("port %s was handed out twice", port)
			} else if ok {
				seen[port] = true
			}
		}
	}
	if len(seen) != processes*each {
		t.Errorf("%d ports from %d processes, want %d", len(seen), processes, processes*each)
	}
}
