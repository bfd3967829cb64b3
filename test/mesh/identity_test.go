package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// shortTTL is how long certificates live here: they are rotated from ten to sixteen seconds after they were made.
const shortTTL = 20 * time.Second

// identities starts a mesh in which host one calls default/orders on two, with certificates that end soon.
func identities(t *testing.T, ttl time.Duration) (m *Mesh, address string) {
	if testing.Short() {
		t.Skip("waits until certificates end")
	}
	return startOrders(t, Config{Waits: true, CertificateTTL: ttl})
}

// A registered node is as much of a Node document as these tests look at.
type registered struct {
	Spec struct {
		Services []string `json:"services"`
	} `json:"spec"`
	Status struct {
		Generation int64  `json:"generation"`
		Liveness   string `json:"liveness"`
		Message    string `json:"message"`
	} `json:"status"`
}

func (m *Mesh) registered(ctx context.Context, node string) (r registered, err error) {
	return r, launch.Call(ctx, m.Socket(), http.MethodGet, "/apis/sennit.dev/v1alpha1/nodes/"+node, nil, &r)
}

func (m *Mesh) awaitGeneration(node string, from int64) int64 {
	m.t.Helper()
	var last registered
	m.Eventually(fmt.Sprintf("%s has generation %d", node, from), func(ctx context.Context) (err error) {
		if last, err = m.registered(ctx, node); err == nil && last.Status.Generation < from {
			err = fmt.Errorf("%+v", last.Status)
		}
		return err
	})
	return last.Status.Generation
}

// image copies the disk of a node that is stopped.
func (m *Mesh) image(node, to string) {
	m.t.Helper()
	m.must("copy the disk of "+node, os.CopyFS(filepath.Join(m.Dir, to), os.DirFS(filepath.Join(m.Dir, node))))
	files, err := filepath.Glob(filepath.Join(m.Dir, to, "state", "*"))
	m.must("copied files", err)
	for _, file := range files { // CopyFS adds to the mode
		m.must("chmod", os.Chmod(file, 0o600))
	}
}

// startImage starts a node from a copied disk, on a host of its own.
func (m *Mesh) startImage(image string) *launch.Process {
	m.t.Helper()
	p, err := m.StartNode(m.t.Context(), image, fmt.Sprintf("127.0.0.1:%d", m.port()))
	m.must("start "+image, err)
	return p
}

// say returns an error where messages do not have all of these words.
func say(messages, words []string) error {
	said := strings.Join(messages, "\n")
	for _, word := range words {
		if !strings.Contains(said, word) {
			return fmt.Errorf("said is %q", said)
		}
	}
	return nil
}

// awaitProblem waits until a host says what is wrong, in these words.
func (m *Mesh) awaitProblem(host string, words ...string) {
	m.t.Helper()
	m.Eventually(fmt.Sprintf("%s says %q", host, words), func(ctx context.Context) error {
		status, err := m.NodeStatus(ctx, host)
		if err != nil {
			return err
		}
		return say(status.Problems, words)
	})
}

// ends is when the certificates of a host end; zero where it has none.
func ends(s report.Node) (first time.Time) {
	for _, c := range s.Certificates {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// awaitRenewed waits until a host's certificates end later than they did.
func (m *Mesh) awaitRenewed(host string, than time.Time) {
	m.t.Helper()
	m.Eventually(host+" renews", func(ctx context.Context) error {
		status, err := m.NodeStatus(ctx, host)
		if err == nil && (!ends(status).After(than) || len(status.Problems) > 0) {
			err = fmt.Errorf("certificates end %s, problems %q", ends(status), status.Problems)
		}
		return err
	})
}

// TestStaleNode brings hosts back that were off for an hour, and then for longer than their certificates, and their users
// of the bus, live. They catch up with what changed meanwhile, renew with their own keys where that is due, and are
// called again. Lifetimes are those that the product has, and the time is the hosts' clocks', which are set.
func TestStaleNode(t *testing.T) {
	t.Parallel()
	m, address := startOrders(t, Config{})
	for _, tt := range []struct {
		name  string
		clock time.Duration // on which the hosts come back
		ended bool          // what they hold
	}{
		{"an hour later", time.Hour, false},
		{"when everything has ended", time.Hour + ca.DefaultTTL + time.Minute, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := m.In(t)
			status, err := m.Status("two")
			m.must("status", err)
			before, was := ends(status), m.awaitGeneration("two", 1)
			m.Kill(m.Node("two"))
			m.Kill(m.Node("one"))
			m.StopPart(m.Controller())
			if time.Now().Add(tt.clock).After(before) != tt.ended {
				t.Fatalf("it is %s, and certificates end %s", time.Now().Add(tt.clock), before)
			}
			m.SetClock(theController, tt.clock)
			m.RestartController()
			_, err = m.StoreOnly(fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: orders, labels: {changed: "%t"}}, spec: {ports: [{port: 80, appProtocol: http}]}}`, tt.ended))
			m.must("change what runs there", err)
			version, err := m.StoreOnly(fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: other-%t}, spec: {ports: [{port: 80, appProtocol: http}]}}`, tt.ended))
			m.must("add another", err)
			for _, node := range []string{"two", "one"} {
				m.SetClock(node, tt.clock)
				m.RestartNode(node)
			}
			m.AwaitAnswer("one", address, "v1")
			m.must("what changed meanwhile", m.Wait(t.Context(), version))
			if !tt.ended {
				return
			}
			m.awaitRenewed("two", before)
			if now := m.awaitGeneration("two", was+1); now <= was {
				t.Errorf("generation %d, and %d before", now, was)
			}
		})
	}
}

// TestCopiedDisk runs two hosts from one disk. When both renew, the identity is frozen: both go on with the
// certificates that they have, and `sennit node accept` ends it for the one that it names.
func TestCopiedDisk(t *testing.T) {
	t.Parallel()
	m, address := identities(t, 3*shortTTL/2)
	m.StopPart(m.Node("two"))
	m.image("two", "copy")
	m.RestartNode("two")
	copied := m.startImage("copy")
	m.Eventually("the identity is frozen", func(context.Context) error {
		cluster, err := m.Cluster()
		if err == nil && !strings.Contains(strings.Join(cluster.Warnings, "\n"), "two is frozen") {
			err = fmt.Errorf("warnings: %q", cluster.Warnings)
		}
		return err
	})
	r, err := m.registered(t.Context(), "two")
	if err != nil || r.Status.Liveness != "frozen" {
		t.Errorf("the node's document: %+v, %v", r.Status, err)
	}
	for range 20 { // what runs goes on, until the certificates end
		if response, body, err := m.Get(t.Context(), "one", address, "/"); err != nil || body != "v1" {
			t.Errorf("while the identity is frozen: %v %q %v", response, body, err)
			break
		}
	}
	for _, p := range []*launch.Process{m.Node("two"), copied} {
		if p.Err() != nil {
			t.Errorf("%s ended: %v", p.Name, p.Err())
		}
	}
	m.StopPart(copied)
	m.awaitProblem("two", "frozen", "sennit node accept two --key")
	status, err := m.Status("two")
	m.must("status", err)
	own := ownKey(t, status)
	m.must("accept", launch.Call(t.Context(), m.Socket(), http.MethodPost, report.PathNodes+"two/accept", report.Accept{Key: own}, nil))
	m.awaitRenewed("two", ends(status))
	m.AwaitAnswer("one", address, "v1")
	if r, err = m.registered(t.Context(), "two"); err != nil || r.Status.Liveness == "frozen" {
		t.Errorf("after it was accepted: %+v, %v", r.Status, err)
	}
	// The copy is refused from then on, and stops nobody.
	m.startImage("copy")
	m.awaitProblem("copy", "restored from an old image", "sennit node remove two")
	if r, err = m.registered(t.Context(), "two"); err != nil || r.Status.Liveness == "frozen" {
		t.Errorf("the copy came back: %+v, %v", r.Status, err)
	}
	m.AwaitAnswer("one", address, "v1")
}

// ownKey picks, of the two keys that the message about a frozen identity names, the one that the host says is its own.
func ownKey(t *testing.T, s report.Node) string {
	t.Helper()
	said, own, found := strings.Cut(strings.Join(s.Problems, "\n"), "this host's keys: ")
	if found {
		own, _, _ = strings.Cut(own, ")")
		for key := range strings.SplitSeq(own, ", ") {
			if strings.Contains(said, "--key "+key) {
				return key
			}
		}
	}
	t.Fatalf("the host does not say which key is its own: %q", s.Problems)
	return ""
}

// TestOldImage puts an old image of a host's disk back, beside the host that went on: it is refused and says why, and
// the host that is right is not stopped.
func TestOldImage(t *testing.T) {
	t.Parallel()
	m, address := identities(t, shortTTL)
	m.StopPart(m.Node("two"))
	m.image("two", "old")
	m.RestartNode("two")
	was := m.awaitGeneration("two", 1)
	m.awaitGeneration("two", was+1)
	now := m.awaitGeneration("two", was+2)
	status, err := m.Status("two")
	m.must("status", err)
	old := m.startImage("old")
	m.awaitProblem("old", "restored from an old image", "remove it, and join again after `sennit node remove two`")
	m.Eventually("the controller reports it", func(context.Context) error {
		if log := m.Controller().Tail(1 << 20); !strings.Contains(log, "a node was refused to renew") || !strings.Contains(log, "old image") {
			return errors.New("not in its log")
		}
		return nil
	})
	m.AwaitAnswer("one", address, "v1")
	m.awaitRenewed("two", ends(status))
	m.awaitGeneration("two", now+1)
	if r, err := m.registered(t.Context(), "two"); err != nil || r.Status.Liveness != "alive" {
		t.Errorf("the host that is right: %+v, %v", r.Status, err)
	}
	if old.Err() != nil {
		t.Errorf("the old image ended: %v", old.Err())
	}
}
