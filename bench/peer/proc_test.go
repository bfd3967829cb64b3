package peer

import (
	"os"
	"testing"
)

func TestProcessFigures(t *testing.T) {
	t.Parallel()
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for after := before; after == before; { // busy until the clock of /proc has moved
		if after, err = cpuTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if mb, err := ResidentMB(os.Getpid()); err != nil || mb < 1 {
		t.Errorf("%v MB, %v", mb, err)
	}
	if _, err := cpuTime(-1); err == nil {
		t.Error("a process that does not exist has no CPU time")
	}
}
