package peer

import (
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

func start(t *testing.T, name string, argv ...string) *launch.Process {
	t.Helper()
	p, err := launch.Start(t.TempDir(), name, argv, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

// A peer that dies is told by name, with what its log says last, whichever of its processes it was.
func TestASystemThatLostAProcessSaysSo(t *testing.T) {
	t.Parallel()
	s := &System{Name: "envoy", Front: start(t, "envoy-front", "sleep", "600")}
	if err := s.Err(); err != nil {
		t.Fatalf("all runs: %v", err)
	}
	s.Back = start(t, "envoy-back", "sh", "-c", "echo first; echo no such cluster >&2; exit 3")
	select {
	case <-s.Back.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	err := s.Err()
	if err == nil {
		t.Fatal("a process has ended, and nothing is said")
	}
	for _, want := range []string{"envoy-back has ended", "exit status 3", "first | no such cluster"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if _, err := s.CPU(); err == nil {
		t.Error("it still has CPU time")
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	select {
	case <-s.Front.Done():
	default:
		t.Error("the process that was left runs on")
	}
}

func TestZtunnelVersion(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		`version.BuildInfo{Version:"62d826530e5ce85764e309170205b293efcbc80b-dirty", GitRevision:"62d8", IstioVersion:"unknown"}`: "62d826530e5c",
		`version.BuildInfo{Version:"unknown", GitRevision:"62d8"}`:                                                                "62d8",
		`something else`: "unknown",
	} {
		if got := ztunnelVersion(output); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
