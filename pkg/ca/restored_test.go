package ca

import (
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A taken is a backup of an authority.
type taken struct {
	cfg AuthorityConfig
	dir string
}

func (c *cluster) backUp() taken {
	c.t.Helper()
	dir := c.t.TempDir()
	file, err := os.OpenFile(filepath.Join(dir, dbFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	err = c.authority.Backup(func(_ int64, write func(io.Writer) error) error { return write(file) })
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(c.authority.cfg.Dir, keyFile))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), key, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return taken{c.authority.cfg, dir}
}

// restore goes on from a backup, in a new epoch. The registry stays as it is.
func (c *cluster) restore(from taken, epoch uint64) {
	c.t.Helper()
	if err := c.authority.Close(); err != nil {
		c.t.Fatal(err)
	}
	cfg := from.cfg
	cfg.Dir = from.dir
	c.authority = openAuthority(c.t, cfg)
	c.registrar.cfg.Authority = c.authority
	if err := c.authority.BeginEpoch(epoch); err != nil {
		c.t.Fatal(err)
	}
}

// reaches says why a node does not come to the controller, and renew.
func (c *cluster) reaches(i *Identity) error {
	c.t.Helper()
	if err := shake(c.t.(*testing.T), c.authority.ServerCertificate(nil), i.busTLS(c.clock.Now)); err != nil {
		return err
	}
	if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
		return err
	}
	return i.request(c.t.Context(), c.wire(i.Node()), false)
}

// walk takes a rotation that was announced to its end, with a node, and adds a backup of each step.
func (m *move) walk(i *Identity, backups map[string]taken, activate func(time.Duration) error) {
	m.t.Helper()
	backups["announced"] = m.backUp()
	if err := activate(0); err != nil {
		m.t.Fatal(err)
	}
	backups["renewing"] = m.backUp()
	m.clock.advance(time.Second)
	if err := errors.Join(m.reaches(i), m.authority.Withdraw(true)); err != nil {
		m.t.Fatal(err)
	}
	backups["withdrawn"] = m.backUp()
	if err := m.reaches(i); err != nil {
		m.t.Fatal(err)
	}
	m.clock.advance(time.Hour)
}

// TestRestoredAcrossARotation restores a backup of each phase of a root's rotation once all nodes believe the next root
// alone. Only one of before the next root's key was there has nothing that nodes believe; where that is kept elsewhere, the
// roots are asked again.
func TestRestoredAcrossARotation(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		offline, follows bool
	}{
		{"both here", false, false}, {"from here to elsewhere", false, true}, {"from elsewhere to here", true, false}, {"both elsewhere", true, true},
	} {
		for _, phase := range []string{"before", "announced", "renewing", "withdrawn"} {
			t.Run(tt.name+", "+phase, func(t *testing.T) {
				t.Parallel()
				m := newMove(t, tt.offline, tt.follows)
				i := m.joined("web1", orders)
				backups := map[string]taken{"before": m.backUp()}
				m.announce(func() {})
				m.walk(i, backups, m.authority.ActivateRoot)

				m.restore(backups[phase], uint64(m.clock.Now().Unix()))
				switch phase {
				case "before":
					if err := m.reaches(i); !errors.Is(err, ErrPeer) {
						t.Errorf("a controller of a root that was withdrawn: %v", err)
					}
					if !tt.follows {
						return // the next root is gone: nothing leads to what nodes believe
					}
					m.announce(func() {}) // the same root as before
					fallthrough
				case "announced": // the controller takes the step by itself
					if err := m.authority.ActivateRoot(0); err != nil {
						t.Fatal(err)
					}
				}
				if withdrawn, number := m.authority.Shown(i.Roster()); withdrawn { // the controller takes the step by itself
					if err := m.authority.Withdraw(true); err != nil {
						t.Fatal(err)
					}
				} else if number > 0 || tt.follows && phase != "before" && phase != "withdrawn" {
					t.Errorf("the node's roster proves %d", number)
				}
				if err := m.reaches(i); err != nil {
					t.Errorf("the node is stranded: %v", err)
				}
				if err := believes(t, i, i, orders); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestRestoredAcrossASigningKey restores a backup of each phase of a signing key's rotation, with a root that is kept elsewhere,
// once all nodes believe the next key alone. One of before the root has answered needs another word of the root, and no more.
func TestRestoredAcrossASigningKey(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"before", "asked", "announced", "renewing", "withdrawn"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			m := newMove(t, true, false)
			i := m.joined("web1", orders)
			backups := map[string]taken{"before": m.backUp()}
			answer := m.askSigning()
			backups["asked"] = m.backUp()
			if err := m.authority.Accept(answer); err != nil {
				t.Fatal(err)
			}
			m.walk(i, backups, m.authority.ActivateSigning)

			m.restore(backups[phase], uint64(m.clock.Now().Unix()))
			switch phase {
			case "before", "asked":
				if err := m.reaches(i); !errors.Is(err, snapshot.ErrDelegation) {
					t.Errorf("by a delegation that was ended: %v", err)
				}
				if phase == "asked" { // the answer is there still, and older than what nodes have seen afterwards
					if err := m.authority.Accept(answer); err != nil {
						t.Fatal(err)
					}
					break
				}
				request, err := m.authority.Request()
				if err != nil {
					t.Fatal(err)
				}
				if err := m.authority.Accept(m.agreed(m.root, request)); err != nil {
					t.Fatal(err)
				}
			}
			if m.authority.Rotation().Phase == Announced { // the controller takes the step by itself
				if err := m.authority.ActivateSigning(0); err != nil {
					t.Fatal(err)
				}
			}
			withdrawn, number := m.authority.Shown(i.Roster())
			if withdrawn != (phase == "asked" || phase == "announced" || phase == "renewing") {
				t.Errorf("the node's roster proves %d, %v", number, withdrawn)
			}
			if withdrawn { // the controller takes the step by itself
				if err := m.authority.Withdraw(true); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.reaches(i); err != nil {
				t.Errorf("the node is stranded: %v", err)
			}
		})
	}
}

// TestRestoredAcrossACancel: what was taken back is announced again in a controller that is restored from a backup of meanwhile, and
// strands nobody, whether it is taken back once more or goes on. Where the root has given another word since, it gives one more.
func TestRestoredAcrossACancel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		offline, follows bool
		signing          bool
	}{
		{"both roots here", false, false, false}, {"a root from here to elsewhere", false, true, false},
		{"a root from elsewhere to here", true, false, false}, {"both roots elsewhere", true, true, false},
		{"a signing key", false, false, true}, {"a signing key, the root elsewhere", true, false, true},
	} {
		for _, then := range []string{"taken back once more", "goes on", "another word since"} {
			if then == "another word since" && !tt.offline {
				continue
			}
			t.Run(tt.name+", "+then, func(t *testing.T) {
				t.Parallel()
				m := newMove(t, tt.offline, tt.follows)
				i := m.joined("web1", orders)
				if tt.signing {
					if err := m.announceSigning(func() {}); err != nil {
						t.Fatal(err)
					}
				} else {
					m.announce(func() {})
				}
				backup := m.backUp()
				if err := m.reaches(i); err != nil {
					t.Fatal(err)
				}
				if err := m.authority.Cancel(); err != nil {
					t.Fatal(err)
				}
				if then == "another word since" {
					m.allow()
				}
				if err := m.reaches(i); err != nil {
					t.Fatal(err)
				}
				m.clock.advance(time.Hour)

				m.restore(backup, uint64(m.clock.Now().Unix()))
				if r := m.authority.Rotation(); r.Phase != Announced {
					t.Fatalf("restored: %+v", r)
				}
				if then == "goes on" {
					activate := m.authority.ActivateRoot
					if tt.signing {
						activate = m.authority.ActivateSigning
					}
					if err := m.reaches(i); err != nil {
						t.Errorf("announced again: %v", err)
					}
					if err := activate(0); err != nil {
						t.Fatal(err)
					}
					m.clock.advance(time.Second)
					if err := m.reaches(i); err != nil {
						t.Errorf("active: %v", err)
					}
					if err := m.authority.Withdraw(true); err != nil {
						t.Fatal(err)
					}
				} else if err := m.authority.Cancel(); err != nil {
					t.Fatal(err)
				}
				if then == "another word since" {
					if err := m.reaches(i); !errors.Is(err, snapshot.ErrDelegation) {
						t.Errorf("by a delegation that was ended: %v", err)
					}
					m.allow()
				}
				if err := m.reaches(i); err != nil {
					t.Errorf("the node is stranded: %v", err)
				}
				if n, keys := len(i.believed.Load().certificates), len(i.believed.Load().roster.GetKeys()); n != 1 || keys != 1 {
					t.Errorf("%d roots and %d signing keys are believed", n, keys)
				}
			})
		}
	}
}

// TestRestoredAcrossAnIntermediate: one that was withdrawn since the backup stays withdrawn, as nodes remember it over
// epochs and restarts, and the restored controller, which knows no other, makes one.
func TestRestoredAcrossAnIntermediate(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir := t.TempDir()
	i, told := c.identity(dir), c.joined("web2", orders)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	stolen := shows(t, i, orders) // of the old intermediate
	backup := c.backUp()
	if err := errors.Join(c.authority.RotateIntermediate(0), c.authority.Withdraw(true)); err != nil {
		t.Fatal(err)
	}
	for _, node := range []*Identity{i, told} {
		if err := c.reaches(node); err != nil {
			t.Fatal(err)
		}
	}
	if err := believes(t, told, i, orders); err != nil {
		t.Fatal(err)
	}
	for epoch := range uint64(2) {
		c.restore(backup, 7+epoch)
		for _, node := range []*Identity{i, told} {
			if err := c.reaches(node); err != nil {
				t.Errorf("epoch %d: %v", 7+epoch, err)
			}
		}
		backup = c.backUp()
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		i = c.identity(dir)
		if _, err := i.Verify(stolen); !errors.Is(err, ErrPeer) {
			t.Errorf("epoch %d: what the withdrawn intermediate issued is believed again: %v", 7+epoch, err)
		}
		if err := believes(t, i, told, orders); err != nil {
			t.Errorf("epoch %d: what the new one issued: %v", 7+epoch, err)
		}
	}
	// A roster that came with an answer is heard of in the same way.
	other := c.joined("web3", orders)
	serial := x509.Certificate{SerialNumber: stolen.PeerCertificates[1].SerialNumber}
	c.reroster(other, func(r *snapshot.Roster) { r.RevokedSerials = append(r.RevokedSerials, serialOf(&serial)) })
	c.restore(backup, 9)
	if err := other.request(t.Context(), c.wire("web3"), false); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Verify(stolen); !errors.Is(err, ErrPeer) {
		t.Errorf("after an answer of a newer epoch: %v", err)
	}
}

// TestARestoredControllerAsksItsRootOnce for a delegation that nodes believe, however many it had since the backup.
func TestARestoredControllerAsksItsRootOnce(t *testing.T) {
	t.Parallel()
	m := newMove(t, true, false)
	i := m.joined("web1", orders)
	ask := func() {
		t.Helper()
		m.clock.advance(time.Second)
		request, err := m.authority.Request()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.authority.Accept(signed(t, m.root, request, 0, m.clock.Now())); err != nil {
			t.Fatal(err)
		}
	}
	backup := m.backUp()
	for range 4 {
		ask()
	}
	if err := m.reaches(i); err != nil {
		t.Fatal(err)
	}
	m.restore(backup, 7)
	if err := m.reaches(i); !errors.Is(err, snapshot.ErrDelegation) {
		t.Errorf("by a delegation that was ended: %v", err)
	}
	if withdrawn, number := m.authority.Shown(i.Roster()); withdrawn || number <= m.authority.Delegation() {
		t.Errorf("the node's roster proves %d, %v; this controller has %d", number, withdrawn, m.authority.Delegation())
	}
	other := newMove(t, true, false)
	other.clock.advance(time.Hour)
	request, err := other.authority.Request()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.authority.Accept(signed(t, other.root, request, 0, other.clock.Now())); err != nil {
		t.Fatal(err)
	}
	if _, number := m.authority.Shown(other.authority.Roster()); number > 0 || other.authority.Delegation() <= m.authority.Delegation() {
		t.Errorf("a roster of another root proves %d", number)
	}
	ask()
	if err := m.reaches(i); err != nil {
		t.Error(err)
	}
}
