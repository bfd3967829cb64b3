package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// controllerArgs are the command line of a controller that keeps everything below dir.
func controllerArgs(dir string, bus, api int) []string {
	return []string{"controller", "--state-dir", filepath.Join(dir, "controller"), "--name", "controller",
		"--bus", fmt.Sprintf("127.0.0.1:%d", bus), "--api", fmt.Sprintf("127.0.0.1:%d", api),
		"--socket", filepath.Join(dir, "controller.sock")}
}

// TestControllerSaysWhatIsWrong starts controllers that cannot run.
func TestControllerSaysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string) (s refusedStart) // of a controller that ran before and was stopped
	}{
		{"the bus's port is taken", func(t *testing.T, dir string) refusedStart {
			port := occupy(t)
			return refusedStart{argv: controllerArgs(dir, port, ports(t, 1)[0]), want: []string{"controller: bus server on", fmt.Sprint(port), "in use", "choose another"}}
		}},
		{"the API's port is taken", func(t *testing.T, dir string) refusedStart {
			port := occupy(t)
			return refusedStart{argv: controllerArgs(dir, ports(t, 1)[0], port), want: []string{"API", fmt.Sprint(port), "in use", "--api"}}
		}},
		{"the authority's file is no database", func(t *testing.T, dir string) refusedStart {
			return damaged(t, dir, "controller/ca/ca.db", func([]byte) []byte { return []byte("not a database") }, "backup")
		}},
		{"the authority's file is cut off", func(t *testing.T, dir string) refusedStart {
			return damaged(t, dir, "controller/ca/ca.db", func(b []byte) []byte { return b[:5000] }, "backup")
		}},
		{"the authority's file is spoilt inside", func(t *testing.T, dir string) refusedStart {
			return damaged(t, dir, "controller/ca/ca.db", func(b []byte) []byte { return scribble(b[:len(b):len(b)], 8192) }, "backup")
		}},
		{"the authority's file is there and its key is not", func(t *testing.T, dir string) refusedStart {
			if err := os.Remove(filepath.Join(dir, "controller/ca/ca.key")); err != nil {
				t.Fatal(err)
			}
			return refusedStart{argv: freshArgs(t, dir), want: []string{"ca.key", "backup"}}
		}},
		{"a stream's description is damaged", func(t *testing.T, dir string) refusedStart {
			return damaged(t, dir, "controller/streams/jetstream/*/streams/SENNIT_RESOURCE/meta.inf", func([]byte) []byte { return []byte("{") }, "backup")
		}},
		{"a document in the middle is damaged", func(t *testing.T, dir string) refusedStart {
			s := damaged(t, dir, "controller/streams/jetstream/*/streams/SENNIT_RESOURCE/msgs/1.blk", func(b []byte) []byte {
				for i := len(b) / 2; i < len(b)/2+20; i++ {
					b[i] ^= 0x55
				}
				return b
			}, "backup")
			s.want = []string{"cannot be read any more", filepath.Join(dir, "controller/streams"), "backup"}
			return s
		}},
		{"a stream's folder is a file", func(t *testing.T, dir string) refusedStart {
			folder := one(t, dir, "controller/streams/jetstream/*/streams/SENNIT_RESOURCE")
			if err := os.RemoveAll(folder); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(folder, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return refusedStart{argv: freshArgs(t, dir), want: []string{"SENNIT_RESOURCE", "backup"}}
		}},
		{"the state directory belongs to somebody else", func(t *testing.T, dir string) refusedStart {
			needRoot(t)
			open(t, dir)
			return refusedStart{argv: freshArgs(t, dir), program: linked(t, dir), uid: 65534, want: []string{filepath.Join(dir, "controller"), "permission denied", "run as a user"}}
		}},
		{"the state directory cannot be made", func(t *testing.T, dir string) refusedStart {
			if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			args := append(freshArgs(t, dir), "--state-dir", filepath.Join(dir, "file/state"))
			return refusedStart{argv: args, want: []string{filepath.Join(dir, "file"), "not a directory", "--state-dir"}}
		}},
		{"a name that cannot be one", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "--name", "Not A Label"), want: []string{"--name", "a-z"}}
		}},
		{"a cluster's name that cannot be one", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "--cluster", "Not A Label"), want: []string{"--cluster", "a-z"}}
		}},
		{"an address to advertise that is none", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "--advertise", "mesh.example,bad host"), want: []string{"--advertise", `"bad host"`}}
		}},
		{"a word among the flags", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "start"), want: []string{`"start"`, "--help"}}
		}},
		{"a flag that there is not", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "--busses", "x"), want: []string{"busses", "--help"}}
		}},
		{"another cluster's state", func(t *testing.T, dir string) refusedStart {
			return refusedStart{argv: append(freshArgs(t, dir), "--cluster", "other"), want: []string{"other", "neither can be changed"}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := startMesh(t)
			for i := range 6 {
				if _, err := put(t.Context(), m, route(fmt.Sprint("route-", i), "1")); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Controller().Stop(stopTime); err != nil {
				t.Fatal(err)
			}
			if err := m.Controller().Err(); err != nil {
				t.Errorf("a controller that is asked to end: %v", err)
			}
			tt.spoil(t, m.Dir).check(t)
		})
	}
}

// TestSecondController starts a controller beside one that runs.
func TestSecondController(t *testing.T) {
	m := startMesh(t)
	t.Run("same state", func(t *testing.T) {
		args := append(freshArgs(t, m.Dir), "--socket", filepath.Join(t.TempDir(), "s"))
		refusedStart{argv: args, want: []string{"ca.db", "another process", "state directory of its own"}}.check(t)
	})
	t.Run("same socket", func(t *testing.T) {
		args := append(freshArgs(t, t.TempDir()), "--socket", m.Socket())
		refusedStart{argv: args, want: []string{m.Socket(), "another process", "--socket"}}.check(t)
	})
	if _, err := m.Status(t.Context()); err != nil {
		t.Errorf("the first controller was disturbed: %v", err)
	}
}

func freshArgs(t *testing.T, dir string) []string {
	free := ports(t, 2)
	return controllerArgs(dir, free[0], free[1])
}

// damaged changes the content of one file.
func damaged(t *testing.T, dir, pattern string, change func([]byte) []byte, remedy string) refusedStart {
	t.Helper()
	file := one(t, dir, pattern)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(content), 0o600); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(file)
	if name == "meta.inf" {
		name = filepath.Base(filepath.Dir(file))
	}
	return refusedStart{argv: freshArgs(t, dir), want: []string{name, remedy}}
}

func one(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v; want one", pattern, found, err)
	}
	return found[0]
}

// scribble overwrites everything from an offset on.
func scribble(b []byte, from int) []byte {
	for i := from; i < len(b); i++ {
		b[i] ^= byte(i * 7)
	}
	return b
}

// occupy listens on a port until the test ends.
func occupy(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("becoming another user needs root")
	}
}

// open lets other users pass through to a folder.
func open(t *testing.T, dir string) {
	t.Helper()
	for folder := dir; folder != os.TempDir() && folder != "/"; folder = filepath.Dir(folder) {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// linked gives this program a name that other users can reach.
func linked(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "daemon")
	if err := os.Link(program(t), name); err != nil {
		t.Skipf("another user cannot start the test's program: %v", err)
	}
	return name
}
