package ca

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// fullDiskVariable makes the test a child of its own, which alone has the limit.
const fullDiskVariable = "CA_TEST_FULL_DISK"

// A disk takes no byte of a file behind a limit. The kernel holds it, for all files of the process: writes before it
// succeed, those across it are cut off in the middle, and the file does not grow. So a limit in each page lets every write
// of a transaction fail in turn, but for that of bbolt's first two pages, which come last and need no more room.
type disk struct {
	t    *testing.T
	room syscall.Rlimit
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t}
	signal.Ignore(syscall.SIGXFSZ) // a write behind the limit fails, as on a full disk
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &d.room); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.clear)
	return d
}

func (d *disk) fill(from uint64) { d.set(syscall.Rlimit{Cur: from, Max: d.room.Max}) }
func (d *disk) clear()           { d.set(d.room) }

func (d *disk) set(limit syscall.Rlimit) {
	d.t.Helper()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		d.t.Fatal(err)
	}
}

// elsewhere has a controller answer that has room on its own disk, and fills the node's where the test says: before the
// request is sent, or when the answer is there.
type elsewhere struct {
	*wire
	disk *disk
	from uint64
	late bool // the disk is full from the answer on
}

func (e *elsewhere) Request(ctx context.Context, verb string, payload []byte) ([]byte, error) {
	e.disk.clear()
	reply, err := e.wire.Request(ctx, verb, payload)
	e.disk.fill(e.from)
	return reply, err
}

func (e *elsewhere) dial(context.Context, bus.ConnConfig) (Requester, func(), error) {
	return e, func() {}, nil
}

// do runs a step of a node on the disk that is full from some byte on, and makes room again.
func (e *elsewhere) do(step func(*Identity, *elsewhere) error, i *Identity) error {
	if !e.late {
		e.disk.fill(e.from)
	}
	defer e.disk.clear()
	return step(i, e)
}

// TestIdentityOnAFullDisk lets every write of identity.db fail, in every step that stores something: before a key is sent,
// when its certificate has come, when a certificate more has. What the node had it has still, in this process
// and in the next, and a controller honours it; once there is room the step is made, and the node is one host with one
// generation more.
func TestIdentityOnAFullDisk(t *testing.T) {
	if os.Getenv(fullDiskVariable) == "" {
		t.Parallel()
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), program, "-test.run=^TestIdentityOnAFullDisk$", "-test.v")
		child.Env = append(os.Environ(), fullDiskVariable+"=1")
		out, err := child.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Fatal(err)
		}
		return
	}
	d, c := newDisk(t), newCluster(t)
	t.Run("a roster", func(t *testing.T) { rosterOnAFullDisk(t, d, c) })
	join := func(token *Token) func(*Identity, *elsewhere) error {
		return func(i *Identity, e *elsewhere) error { return i.Join(t.Context(), token, e.dial) }
	}
	for _, tt := range []struct {
		name       string
		late       bool
		step       func(*Identity, *elsewhere) error // nil: it joins
		generation uint64                            // afterwards
	}{
		{"joining, the key", false, nil, 1},
		{"joining, the certificate", true, nil, 1},
		{"renewing, the key", false, func(i *Identity, e *elsewhere) error { return i.Renew(t.Context(), e) }, 2},
		{"renewing, the certificate", true, func(i *Identity, e *elsewhere) error { return i.Renew(t.Context(), e) }, 2},
		{"a service more", true, func(i *Identity, e *elsewhere) error {
			return errors.Join(c.registrar.Allow(t.Context(), i.Node(), billing), i.Want(t.Context(), e, billing))
		}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failures := 0
			page := uint64(os.Getpagesize())
			for from := uint64(0); ; from += page - from%page + page/2 { // nothing, then up to the middle of each page
				for _, restarted := range []bool{false, true} {
					node := fmt.Sprintf("web-%s-%d-%t", strings.ReplaceAll(strings.ReplaceAll(tt.name, ",", ""), " ", "-"), from, restarted)
					n := fullNode{t: t, c: c, d: d, node: node, dir: t.TempDir()}
					token := c.token(node, orders)
					step := tt.step
					n.i = c.identity(n.dir)
					if step == nil {
						step = join(token)
					} else {
						n.joined(token)
					}
					e := &elsewhere{wire: c.wire(node), disk: d, from: from, late: tt.late}
					err := e.do(step, n.i)
					if err != nil {
						failures++
						n.survives(err, from, restarted)
						if err := step(n.i, &elsewhere{wire: c.wire(node), disk: d, from: d.room.Cur}); err != nil {
							t.Fatalf("full from %d, once there is room: %v", from, err)
						}
					}
					n.isOne(tt.generation)
					if err == nil && restarted {
						if failures == 0 {
							t.Fatal("nothing ever failed")
						}
						t.Logf("%d writes failed, up to byte %d", failures, from)
						return
					}
				}
			}
		})
	}
}

// rosterOnAFullDisk revokes something: that must end now, whether the roster can be stored or not.
func rosterOnAFullDisk(t *testing.T, d *disk, c *cluster) {
	n := fullNode{t: t, c: c, d: d, node: "web", dir: t.TempDir()}
	n.i = c.identity(n.dir)
	n.joined(c.token("web", orders))
	believes := func(when string) {
		t.Helper()
		if revoked := n.i.believed.Load().roster.GetRevokedSerials(); !slices.Contains(revoked, "5f") {
			t.Errorf("%s it believes a roster that revokes %v", when, revoked)
		}
	}
	raw, err := c.authority.UpdateRoster(func(r *snapshot.Roster) { r.RevokedSerials = []string{"5f"} })
	if err != nil {
		t.Fatal(err)
	}
	d.fill(0)
	taken, err := n.i.UpdateRoster(raw)
	d.clear()
	if err != nil || !taken {
		t.Fatalf("taken %t, %v", taken, err)
	}
	believes("on the full disk")
	if err := n.i.store(n.i.current()); err != nil { // as with any step that comes
		t.Fatal(err)
	}
	if err := n.i.Close(); err != nil {
		t.Fatal(err)
	}
	n.i = c.identity(n.dir)
	believes("started anew")
	n.isOne(1)
}

// fullNode is a node on the full disk.
type fullNode struct {
	t    *testing.T
	c    *cluster
	d    *disk
	node string
	dir  string
	i    *Identity
	had  IdentityStatus // before the step
}

func (n *fullNode) joined(token *Token) {
	n.t.Helper()
	if err := n.i.Join(n.t.Context(), token, n.c.wire(n.node).dial); err != nil {
		n.t.Fatal(err)
	}
	n.had = n.i.Status()
}

// survives checks what a node is after a step failed on the full disk, or after it was started anew on it.
func (n *fullNode) survives(err error, from uint64, restarted bool) {
	n.t.Helper()
	if !errors.Is(err, syscall.EFBIG) && !strings.Contains(err.Error(), "file too large") || !strings.Contains(err.Error(), "is the disk full?") {
		n.t.Fatalf("full from %d: %v", from, err)
	}
	if restarted {
		if err := n.i.Close(); err != nil {
			n.t.Fatal(err)
		}
		n.d.fill(from)
		n.i, err = NewIdentity(n.i.cfg)
		n.d.clear()
		if err != nil {
			n.t.Fatalf("full from %d, started anew: %v", from, err)
		}
		n.t.Cleanup(func() { _ = n.i.Close() })
	}
	if n.had.Key == "" {
		return // it is about to join
	}
	if status := n.i.Status(); status.Key != n.had.Key || status.Generation != n.had.Generation {
		n.t.Fatalf("full from %d: it was %+v, and is %+v", from, n.had, status)
	}
	if _, err := n.i.Certificate(orders); err != nil {
		n.t.Fatalf("full from %d: %v", from, err)
	}
	payload := []byte("registration")
	signature, err := n.i.Sign(payload)
	if err := errors.Join(err, n.c.registrar.VerifyNode(n.t.Context(), n.node, payload, signature)); err != nil {
		n.t.Fatalf("full from %d, registrations fail: %v", from, err)
	}
}

// isOne checks that the node is what the registry says, renews, and is the same when it starts anew.
func (n *fullNode) isOne(generation uint64) {
	n.t.Helper()
	if got := n.c.node(n.node); got.State != "active" || got.Generation != generation || got.Key != n.i.Status().Key {
		n.t.Fatalf("registered as %+v, and it is %+v", got, n.i.Status())
	}
	if err := errors.Join(n.i.Renew(n.t.Context(), n.c.wire(n.node)), n.i.Close()); err != nil {
		n.t.Fatal(err)
	}
	i := n.c.identity(n.dir)
	status := i.Status()
	if got := n.c.node(n.node); got.State != "active" || got.Generation != generation+1 || got.Key != status.Key || status.Pending {
		n.t.Fatalf("registered as %+v, and started anew it is %+v", got, status)
	}
	if _, err := i.Certificate(orders); err != nil {
		n.t.Fatal(err)
	}
	_ = i.Close()
}

// TestIdentityAfterATornWrite spoils the page that makes a transaction count, as power that fails does: the transaction
// before counts. The node is what it was before its answer was stored, with the key that it had asked for, and asks again.
func TestIdentityAfterATornWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var generations []uint64
	for page := range int64(2) {
		node, dir := fmt.Sprint("web", page), t.TempDir()
		i := c.identity(dir)
		if err := i.Join(t.Context(), c.token(node, orders), c.wire(node).dial); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(i.Renew(t.Context(), c.wire(node)), i.Close()); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(filepath.Join(dir, identityFile), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.WriteAt(make([]byte, 512), page*int64(os.Getpagesize()))
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		i = c.identity(dir)
		generations = append(generations, i.Status().Generation)
		if _, err := i.Certificate(orders); err != nil {
			t.Error(err)
		}
		if err := i.Renew(t.Context(), c.wire(node)); err != nil {
			t.Fatal(err)
		}
		if got := c.node(node); got.State != "active" || got.Key != i.Status().Key || got.Generation != i.Status().Generation {
			t.Errorf("registered as %+v, and it is %+v", got, i.Status())
		}
	}
	slices.Sort(generations)
	if !slices.Equal(generations, []uint64{1, 2}) {
		t.Errorf("generations %v: one of the two pages is that of the last transaction", generations)
	}
}
