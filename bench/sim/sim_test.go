package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/controller"
)

// TestMain makes this program the controller too: the test starts it again as a child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "controller" {
		if err := runController(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "controller:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func runController(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg, err := controller.LoadConfig(args)
	if err != nil {
		return err
	}
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func TestAHandfulOfNodes(t *testing.T) {
	t.Parallel()
	const nodes, changes = 5, 3
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	result, err := Run(t.Context(), Config{
		Dir: t.TempDir(), Program: []string{self}, Nodes: nodes, Changes: changes, Idle: 100 * time.Millisecond, Services: 12, Calls: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	row := result.Row()
	// A few nodes may have applied a change before the API has acknowledged it, which it does when it is recorded.
	if row.FromSent.P50 <= 0 || row.P99 < row.P50 || row.Max < row.P99 || row.FromSent.P50 <= row.P50 {
		t.Errorf("times in µs: %+v", row)
	}
	if row.Changes != changes || len(result.Verified.fromSent) != nodes*changes || len(result.Shared.last) != changes {
		t.Errorf("%d changes, %d times", row.Changes, len(result.Verified.fromSent))
	}
	if row.Verifications < nodes {
		t.Errorf("%.1f verifications a change: not every node verified it", row.Verifications)
	}
	if shared := result.Shared.Verifications; shared < changes || shared >= nodes*changes {
		t.Errorf("%d verifications of %d changes that were shared", shared, changes)
	}
	if row.Cut.Converged <= 0 || row.Restart.Converged < row.Restart.Failed || row.Join.PerSecond <= 0 {
		t.Errorf("cut %+v, restart %+v, join %+v", row.Cut, row.Restart, row.Join)
	}
	if _, err := json.Marshal(row); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	Print(&table, []Row{row})
	if !strings.Contains(table.String(), "5 nodes") {
		t.Errorf("table:\n%s", &table)
	}
}

func TestQuantiles(t *testing.T) {
	var of []time.Duration
	for i := range 200 {
		of = append(of, time.Duration(200-i)*time.Microsecond)
	}
	if got, want := quantiles(of), (Quantiles{100, 198, 200}); got != want {
		t.Errorf("quantiles of 1 to 200 µs: %+v, want %+v", got, want)
	}
	if got := quantiles(of[:1]); got.P50 != got.Max {
		t.Errorf("of one: %+v", got)
	}
}

func TestVerifierShares(t *testing.T) {
	v := newVerifier()
	v.share(true)
	public, good, bad := testSignature(t)
	for range 3 {
		if !v.verify(public, []byte("message"), good) || v.verify(public, []byte("message"), bad) {
			t.Fatal("a verdict is wrong")
		}
	}
	if v.verified.Load() != 2 || v.asked.Load() != 6 {
		t.Errorf("%d verified, %d asked", v.verified.Load(), v.asked.Load())
	}
	v.share(false)
	v.verify(public, []byte("message"), good)
	if v.verified.Load() != 3 {
		t.Error("a node believed another after sharing ended")
	}
}

func testSignature(t *testing.T) (public ed25519.PublicKey, good, bad []byte) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good = ed25519.Sign(private, []byte("message"))
	bad = slices.Clone(good)
	bad[0] ^= 1
	return public, good, bad
}
