package proc

import (
	"os"
	"os/exec"
	"testing"
)

func TestCPUTimeGoesOn(t *testing.T) {
	t.Parallel()
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for after := before; after == before; { // busy until the clock of /proc has moved
		if after, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMemoryHasAPeak(t *testing.T) {
	t.Parallel()
	if now, most, err := Resident(os.Getpid()); err != nil || now < 1 || most < now {
		t.Errorf("%v MB now, %v at most, %v", now, most, err)
	}
}

func TestOpenFilesAreCounted(t *testing.T) {
	t.Parallel()
	child := exec.Command("sleep", "600") // its files are nobody else's to open and close
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = child.Process.Kill(), child.Wait() })
	if n, err := Files(child.Process.Pid); err != nil || n < 3 {
		t.Errorf("%d files, %v: there are at least the three standard ones", n, err)
	}
}

func TestNobodyUsesNothing(t *testing.T) {
	t.Parallel()
	const nobody = -1
	if _, err := CPU(nobody); err == nil {
		t.Error("a process that does not exist has no CPU time")
	}
	if _, _, err := Resident(nobody); err == nil {
		t.Error("a process that does not exist has no memory")
	}
	if _, err := Files(nobody); err == nil {
		t.Error("a process that does not exist has no files")
	}
}
