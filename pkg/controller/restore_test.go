package controller

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/backup"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// backUp makes a backup of a running controller, and returns its file.
func backUp(t *testing.T, c *Controller) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.writeBackup(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func restoreConfig(t *testing.T, c *Controller, file, dir string) RestoreConfig {
	return RestoreConfig{
		From: file, StateDir: filepath.Join(dir, "state"), Key: filepath.Join(c.cfg.StateDir, "ca", "ca.key"), Actor: "tester",
		Log: slog.New(slog.DiscardHandler),
	}
}

func entries(t *testing.T, c *Controller, stream bus.Stream) (all []bus.Entry) {
	t.Helper()
	records := c.conn.Records(stream)
	last, err := records.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readTo(t.Context(), records, last, func(e bus.Entry) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func same(a, b bus.Entry) bool {
	return a.Subject == b.Subject && a.Sequence == b.Sequence && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
}

// TestRestore restores a backup that was taken from a controller while it ran: all is there, in a newer epoch, and the
// audit verifies, with the restore in it.
func TestRestore(t *testing.T) {
	c, stop := start(t, t.TempDir())
	for made := 0; made < 6; { // the namespace, the class and the roles that always exist, and their records
		made = min(len(entries(t, c, bus.StreamAudit)), len(entries(t, c, bus.StreamResource)))
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the controller makes no documents")
		}
	}
	record(t, c, "default/orders", "web1")
	if _, err := c.registrar.CreateToken(t.Context(), ca.TokenRequest{Node: "web2"}); err != nil {
		t.Fatal(err)
	}
	if err := c.recorder.writer.Checkpoint(t.Context(), c.recorder.heads, c.recorder.keep); err != nil {
		t.Fatal(err)
	}
	file := backUp(t, c)
	was := map[bus.Stream][]bus.Entry{}
	for _, stream := range backedUp {
		was[stream] = entries(t, c, stream)
	}
	root := c.authority.RootHash()

	dir, before := t.TempDir(), uint64(time.Now().Unix())
	cfg := restoreConfig(t, c, file, dir)
	cfg.KeepTokens = []string{AllTokens} // so that the registry is as it was
	restored, err := Restore(t.Context(), cfg)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	if restored.NewEpoch < before || restored.Epoch != 0 {
		t.Errorf("from epoch %d into %d at %d", restored.Epoch, restored.NewEpoch, before)
	}
	again, _ := start(t, dir)
	if again.authority.RootHash() != root || again.authority.Epoch() != restored.NewEpoch {
		t.Error("another root or epoch than was restored")
	}
	for _, stream := range []bus.Stream{bus.StreamRegistry, bus.StreamInstance, bus.StreamResource} {
		if got := entries(t, again, stream); len(got) == 0 || !slices.EqualFunc(got, was[stream], same) {
			t.Errorf("%s: %d records were restored as %d others", stream, len(was[stream]), len(got))
		}
	}
	events := entries(t, again, bus.StreamAudit)
	if n := len(was[bus.StreamAudit]); len(events) < n || !slices.EqualFunc(events[:n], was[bus.StreamAudit], same) {
		t.Errorf("the audit had %d records, and has %d others", n, len(events))
	}
	told := slices.ContainsFunc(events, func(e bus.Entry) bool {
		entry, err := audit.Open(e.Data)
		return err == nil && entry.GetEvent().GetKind() == audit.Restore && entry.GetEvent().GetActor() == "tester"
	})
	found, err := again.verifyAudit(t.Context(), nil)
	if err != nil || len(found.Problems) > 0 || !told {
		t.Errorf("the audit of what was restored: %q, %v; it tells of the restore: %t", found.Problems, err, told)
	}
}

// TestRestoreRefuses takes what must not be restored, and leaves nothing behind.
func TestRestoreRefuses(t *testing.T) {
	c, _ := start(t, t.TempDir())
	file := backUp(t, c)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name  string
		ctx   context.Context
		spoil func(*RestoreConfig)
		want  error // nil: any
		left  int   // files in the state directory
	}{
		{name: "a byte in the middle", want: backup.ErrDamaged, spoil: func(r *RestoreConfig) {
			spoilt := bytes.Clone(whole)
			spoilt[len(spoilt)/2] ^= 1
			r.From = write("spoilt", spoilt)
		}},
		{name: "the last byte", want: backup.ErrDamaged, spoil: func(r *RestoreConfig) {
			spoilt := bytes.Clone(whole)
			spoilt[len(spoilt)-1] ^= 1
			r.From = write("spoilt", spoilt)
		}},
		{name: "cut off", want: backup.ErrDamaged, spoil: func(r *RestoreConfig) { r.From = write("cut", whole[:len(whole)-4096]) }},
		{name: "another key", spoil: func(r *RestoreConfig) { r.Key = write("ca.key", bytes.Repeat([]byte("k"), 52)) }},
		{name: "a key that others can read", want: ca.ErrPermissions, spoil: func(r *RestoreConfig) {
			r.Key = write("ca.key", bytes.Repeat([]byte("k"), 52))
			if err := os.Chmod(r.Key, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no key", spoil: func(r *RestoreConfig) { r.Key = "" }},
		{name: "a folder that is in use", left: 1, spoil: func(r *RestoreConfig) { r.StateDir = full }},
		{name: "interrupted", ctx: ended, spoil: func(*RestoreConfig) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			if tt.ctx != nil {
				ctx = tt.ctx
			}
			cfg := restoreConfig(t, c, file, t.TempDir())
			tt.spoil(&cfg)
			if _, err := Restore(ctx, cfg); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if there, _ := os.ReadDir(cfg.StateDir); len(there) != tt.left {
				t.Errorf("left behind: %v", there)
			}
		})
	}
}

// TestCutShort starts a controller where a restore ended in the middle.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	if _, err := claim(dir); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{StateDir: dir, Cluster: "test", TrustDomain: "test.local", Name: "controller", Bus: netip.MustParseAddrPort("127.0.0.1:0")})
	if err == nil || !strings.Contains(err.Error(), restoringFile) {
		t.Errorf("a controller where a restore was cut short: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ca")); err == nil {
		t.Error("it made a cluster of its own")
	}
}

func TestNextEpoch(t *testing.T) {
	for _, tt := range []struct {
		name string
		now  int64
		had  uint64
		want uint64
	}{
		{"first restore", 1_800_000_000, 0, 1_800_000_000},
		{"a backup of a restored controller", 1_800_000_000, 1_700_000_000, 1_800_000_000},
		{"in the same second", 1_800_000_000, 1_800_000_000, 1_800_000_001},
		{"a clock that was set back", 1_600_000_000, 1_800_000_000, 1_800_000_001},
		{"a clock of before 1970", -5, 0, 1},
	} {
		if got := nextEpoch(time.Unix(tt.now, 0), tt.had); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// shows has a node show a roster.
func shows(t *testing.T, c *Controller, roster []byte) {
	t.Helper()
	request, err := proto.Marshal(&bus.CatchupRequest{Nonce: make([]byte, 16), Roster: roster})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.publisher.Catchup(t.Context(), "web1", request); err != nil {
		t.Fatal(err)
	}
}

func offlineRoot(t *testing.T) *ca.OfflineRoot {
	t.Helper()
	root, _, err := ca.NewOfflineRoot("test", "test.local", func() ([]byte, error) { return []byte("four words of your choice"), nil }, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// answered asks a root, and takes its answer.
func answered(t *testing.T, root *ca.OfflineRoot, a *ca.Authority, of report.RootRequest) {
	t.Helper()
	file, err := askRoot(a, of)
	if err != nil {
		t.Fatal(err)
	}
	request, err := ca.ParseRequest(file)
	if err != nil {
		t.Fatal(err)
	}
	if request.Agreed, _, err = root.Other(request); err != nil {
		t.Fatal(err)
	}
	signed, err := root.Sign(request, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Accept(signed); err != nil {
		t.Fatal(err)
	}
}

// TestTheRootOutlivesADelegate: whoever has what a controller under an offline root signs rosters with ends that it leads, by an
// epoch of his own. With the root's next answer it leads again.
func TestTheRootOutlivesADelegate(t *testing.T) {
	t.Parallel()
	root, dir := offlineRoot(t), t.TempDir()
	cfg := ca.AuthorityConfig{Dir: filepath.Join(dir, "state", "ca"), Cluster: "test", TrustDomain: "test.local", Name: "controller"}
	ask := func(open func() (*ca.Authority, error)) {
		t.Helper()
		a, err := open()
		if err != nil {
			t.Fatal(err)
		}
		answered(t, root, a, report.RootRequest{})
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ask(func() (*ca.Authority, error) { return ca.AwaitRoot(cfg, root.Certificate) })
	stolen := cfg
	stolen.Dir = t.TempDir()
	if err := errors.Join(os.CopyFS(stolen.Dir, os.DirFS(cfg.Dir)), os.Chmod(filepath.Join(stolen.Dir, "ca.key"), 0o600), os.Chmod(filepath.Join(stolen.Dir, "ca.db"), 0o600)); err != nil {
		t.Fatal(err)
	}
	thief, err := ca.NewAuthority(stolen)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	roster, err := thief.UpdateRoster(func(r *snapshot.Roster) { r.Epoch = math.MaxUint64 })
	if err != nil {
		t.Fatal(err)
	}

	c, stop := start(t, dir)
	awaitThat(t, "it leads", c.publisher.Leading)
	shows(t, c, roster)
	awaitThat(t, "it leads no more", func() bool { return c.ended() != nil && !c.publisher.Leading() })
	stop()
	c, stop = start(t, dir)
	awaitThat(t, "nor after a restart", func() bool { return c.ended() != nil })
	stop()
	ask(func() (*ca.Authority, error) { return ca.NewAuthority(cfg) })
	c, _ = start(t, dir)
	awaitThat(t, "it leads again", c.publisher.Leading)
	shows(t, c, roster)
	if newest, err := c.newestEpoch(); err != nil || newest != 0 || c.ended() != nil {
		t.Errorf("epoch %d, %v; it has ended: %v", newest, err, c.ended())
	}
}

// TestSuperseded shows a controller the roster of another that was restored from its backup: it changes nothing any
// more, says so, and knows it after a restart.
func TestSuperseded(t *testing.T) {
	dir := t.TempDir()
	c, stop := start(t, dir)
	file, other := backUp(t, c), t.TempDir()
	restored, err := Restore(t.Context(), restoreConfig(t, c, file, other))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := ca.NewAuthority(ca.AuthorityConfig{Dir: filepath.Join(other, "state", "ca"), Cluster: "test", TrustDomain: "test.local", Name: "controller"})
	if err != nil {
		t.Fatal(err)
	}
	roster := newer.Roster()
	if err := newer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.ended(); err != nil {
		t.Fatal(err)
	}
	shows(t, c, roster)
	for _, when := range []string{"when a node tells it", "after a restart"} {
		for deadline := time.Now().Add(20 * time.Second); c.ended() == nil && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		begun := uint64(0)
		asked := false
		_, answered := c.guarded(func(context.Context, string, []byte) ([]byte, error) { asked = true; return nil, nil })(t.Context(), "web1", nil)
		changed := c.hook(t.Context(), apiserver.Change{Kind: api.Service, Verb: "create", Begun: &begun})
		if !errors.Is(c.ended(), errSuperseded) || !errors.Is(changed, errSuperseded) || answered == nil || asked || c.publisher.Leading() {
			t.Errorf("%s: %v; a change: %v; a node's request: %v, leads: %v", when, c.ended(), changed, answered, c.publisher.Leading())
		}
		if warnings := c.Status(everywhere).Warnings; len(warnings) == 0 || !strings.Contains(warnings[0], strconv.FormatUint(restored.NewEpoch, 10)) {
			t.Errorf("%s: warnings %q", when, warnings)
		}
		stop()
		c, stop = start(t, dir)
	}

	// It can be what the cluster goes on with, if that is what its operator wants: above the newer epoch.
	cfg := restoreConfig(t, c, backUp(t, c), t.TempDir())
	cfg.Now = func() time.Time { return time.Unix(1, 0) } // a clock that was set back
	if again, err := Restore(t.Context(), cfg); err != nil || again.NewEpoch <= restored.NewEpoch {
		t.Errorf("a backup of it is restored into epoch %d, and %d was known: %v", again.NewEpoch, restored.NewEpoch, err)
	}
}

// TestNothingIsPublishedBeforeNodesHaveShown starts a controller that was restored: nodes are given time to show what
// the backup does not know, from the last that is heard of any, and a restart in the middle begins that anew. Later
// starts do not wait.
func TestNothingIsPublishedBeforeNodesHaveShown(t *testing.T) {
	t.Parallel()
	c, stop := start(t, t.TempDir())
	dir := t.TempDir()
	if _, err := Restore(t.Context(), restoreConfig(t, c, backUp(t, c), dir)); err != nil {
		t.Fatal(err)
	}
	stop()
	c, stop = start(t, dir)
	awaitThat(t, "it leads", c.publisher.Leading)
	stop() // in the middle
	c, stop = start(t, dir)
	awaitThat(t, "it leads again", c.publisher.Leading)
	heard := time.Now()
	record(t, c, "default/orders", "web1")
	awaitThat(t, "it publishes", c.publisher.Begun)
	if waited := time.Since(heard); waited < gatherQuiet {
		t.Errorf("it published %s after the last news, want %s", waited, gatherQuiet)
	}
	stop()
	c, _ = start(t, dir)
	awaitThat(t, "it need not wait", func() bool { return !c.gathering.Load() })
}

// grantsOf are the tokens of a day's limit that a controller grants, once it owns the ledger.
func grantsOf(t *testing.T, c *Controller, limit string) (tokens uint64) {
	t.Helper()
	ask := &quota.Request{Asks: []*quota.Ask{{Account: &quota.Account{Limit: limit}, Want: 10}}}
	awaitThat(t, "it owns the ledger", func() bool {
		c.quotas.SetLimits(map[string]quota.Limit{limit: {Requests: 10, Per: 24 * time.Hour}}) // compiling may take it away
		answer, err := c.quotas.Serve(t.Context(), "web1", ask)
		if err != nil || answer.GetGrants()[0].GetUnknown() {
			return false
		}
		n := answer.GetGrants()[0].GetTokens()
		tokens += n
		return n == 0
	})
	return tokens
}

// TestARestoreGrantsNoDayTwice spends a day's limit, and restores a backup of before: the day is over for it, also for
// those who own the ledger later.
func TestARestoreGrantsNoDayTwice(t *testing.T) {
	t.Parallel()
	c, stop := start(t, t.TempDir())
	file, dir := backUp(t, c), t.TempDir()
	day := time.Now().Unix() / 86_400
	if got := grantsOf(t, c, "default/p/day"); got != 10 {
		t.Errorf("%d of 10 were granted", got)
	}
	if _, err := Restore(t.Context(), restoreConfig(t, c, file, dir)); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, when := range []string{"by the first owner", "by the next"} {
		c, stop := start(t, dir)
		got := grantsOf(t, c, "default/p/day")
		if stop(); time.Now().Unix()/86_400 != day {
			t.Skip("a new day has begun, whose limit is granted")
		}
		if got > 0 {
			t.Errorf("%d more were granted after the restore, %s", got, when)
		}
	}
}

func awaitThat(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// TestABackupIsAskedForAfterARotation of the root, until one was taken, also after a restart.
func TestABackupIsAskedForAfterARotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, stop := start(t, dir)
	take := func() {
		w := httptest.NewRecorder()
		c.backup(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, report.PathBackup, nil))
		if w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if c.authorityReport().BackupNeeded {
		t.Error("asked for before anything was rotated")
	}
	take()
	if err := errors.Join(c.authority.AnnounceRoot(), c.authority.ActivateRoot(0)); err != nil {
		t.Fatal(err)
	}
	if !c.authorityReport().BackupNeeded {
		t.Error("not asked for after the rotation")
	}
	stop()
	c, _ = start(t, dir)
	if !c.authorityReport().BackupNeeded {
		t.Error("not asked for after a restart")
	}
	take()
	if c.authorityReport().BackupNeeded {
		t.Error("asked for though one was taken")
	}
}

// TestWhatNodesProveAfterARestore: by the roster of a node the controller learns that the root before was withdrawn, and that
// its root has signed a later word.
func TestWhatNodesProveAfterARestore(t *testing.T) {
	t.Parallel()
	root := offlineRoot(t)
	dir := t.TempDir()
	c, stop := start(t, dir)
	answer := func(of report.RootRequest) {
		t.Helper()
		answered(t, root, c.authority, of)
	}
	if _, err := c.authority.ServerCertificate(nil)(nil); err != nil { // hangs on the old root for a day
		t.Fatal(err)
	}
	answer(report.RootRequest{NextRoot: string(root.CertificatePEM())})
	awaitThat(t, "the next root signs", func() bool { return c.authority.Rotation().Phase == ca.Renewing })
	file := backUp(t, c)
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	withdrawn := c.authority.Roster()
	answer(report.RootRequest{})
	later := c.authority.Roster()
	restored := t.TempDir()
	if _, err := Restore(t.Context(), restoreConfig(t, c, file, restored)); err != nil {
		t.Fatal(err)
	}
	stop()
	c, _ = start(t, restored)
	show := func(roster []byte) {
		t.Helper()
		shows(t, c, roster)
	}
	if c.authority.Rotation().Phase != ca.Renewing || c.delegationEnded() != "" {
		t.Fatalf("restored: %+v, %q", c.authority.Rotation(), c.delegationEnded())
	}
	show(withdrawn)
	awaitThat(t, "the old root is withdrawn once more", func() bool { return c.authority.Rotation().Phase == ca.NotRotating })
	show(later)
	if warnings := c.Status(everywhere).Warnings; !slices.Contains(warnings, c.delegationEnded()) || c.delegationEnded() == "" {
		t.Errorf("warnings %q", warnings)
	}
	answer(report.RootRequest{})
	if warning := c.delegationEnded(); warning != "" {
		t.Errorf("after the root has signed: %q", warning)
	}
}
