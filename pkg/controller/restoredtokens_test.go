package controller

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func joinToken(t *testing.T, c *Controller, node string) *ca.Token {
	t.Helper()
	made, err := c.registrar.CreateToken(t.Context(), ca.TokenRequest{Node: node, Services: []exchange.ServiceName{{Namespace: "default", Name: "orders"}}})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// joins says why a new host is not let in with a token.
func joins(t *testing.T, token *ca.Token) error {
	t.Helper()
	host, err := ca.NewIdentity(ca.IdentityConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(join(t, host, token), host.Close())
}

// TestARestoreTakesTokensBack restores a backup that knows nothing of what became of tokens since: of those that were taken
// back, and of one that a host joined with. None is good again, but those that are to be kept, and the audit tells which
// were taken back.
func TestARestoreTakesTokensBack(t *testing.T) {
	t.Parallel()
	c, stop := start(t, t.TempDir())
	busAt := netip.MustParseAddrPort(c.busHosts[0])
	ids, secrets, hosts := map[string]string{}, map[string]string{}, map[string]*ca.Token{}
	for _, who := range []string{"kate", "rose", "vera"} {
		ids[who], secrets[who] = token(t, c, who)
	}
	for _, node := range []string{"unused", "withdrawn", "joined", "spent"} {
		hosts[node] = joinToken(t, c, node)
		ids[node] = hosts[node].ID()
	}
	before := errors.Join(c.operators.revoke(t.Context(), ids["vera"]), joins(t, hosts["spent"]))
	file := backUp(t, c)
	since := errors.Join(c.operators.revoke(t.Context(), ids["rose"]), c.registrar.RevokeToken(t.Context(), ids["withdrawn"]), joins(t, hosts["joined"]))
	if err := errors.Join(before, since); err != nil {
		t.Fatal(err)
	}
	stop()
	known := []string{"kate", "rose", "unused", "withdrawn", "joined"} // that the backup has for good
	for _, tt := range []struct {
		name string
		keep []string
		good []string
	}{
		{"none is kept", nil, nil},
		{"of some it is known that nobody took them back", []string{ids["kate"], ids["unused"]}, []string{"kate", "unused"}},
		{"all are kept, as where nothing was taken back", []string{AllTokens}, known},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := restoreConfig(t, c, file, dir)
			cfg.KeepTokens = tt.keep
			restored, err := Restore(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			var told []string
			for _, one := range restored.Tokens {
				told = append(told, one.For)
				operator := slices.Contains([]string{"kate", "rose"}, one.For)
				if one.ID != ids[one.For] || one.Kept != slices.Contains(tt.good, one.For) || (one.Kind == api.OperatorTokens) != operator || one.Expires.IsZero() {
					t.Errorf("it tells of %+v", one)
				}
			}
			slices.Sort(told)
			if want := slices.Sorted(slices.Values(known)); !slices.Equal(told, want) {
				t.Errorf("it tells of the tokens for %q, want %q", told, want)
			}
			again, stop := startWith(t, dir, func(cfg *Config) { cfg.Bus = busAt }) // where hosts look for it
			defer stop()
			for who, secret := range secrets {
				id, err := again.operators.authenticate(t.Context(), secret)
				if good := slices.Contains(tt.good, who); good != (err == nil) || good && id.User != who {
					t.Errorf("the token of %s: %q, %v", who, id.User, err)
				}
			}
			for node, token := range hosts {
				err := joins(t, token)
				if good := slices.Contains(tt.good, node); good != (err == nil) || !good && !errors.Is(err, ca.ErrTokenUnknown) && !errors.Is(err, ca.ErrTokenUsed) {
					t.Errorf("another host with the token for %s: %v", node, err)
				}
			}
			taken := map[string]bool{}
			for _, e := range entries(t, again, bus.StreamAudit) {
				entry, err := audit.Open(e.Data)
				if event := entry.GetEvent(); err == nil && event.GetVerb() == "delete" && event.GetActor() == "tester" && strings.HasPrefix(event.GetDetail(), "restored, for ") {
					taken[event.GetName()] = true
				}
			}
			for _, of := range known {
				if taken[ids[of]] == slices.Contains(tt.good, of) {
					t.Errorf("the audit tells of the token for %s that it was taken back: %v", of, taken[ids[of]])
				}
			}
		})
	}
	cfg := restoreConfig(t, c, file, t.TempDir())
	cfg.KeepTokens = []string{ids["vera"]}
	if _, err := Restore(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), ids["vera"]) {
		t.Errorf("a token is to be kept that was taken back before the backup: %v", err)
	}
	if there, _ := os.ReadDir(cfg.StateDir); len(there) > 0 {
		t.Errorf("left behind: %v", there)
	}
}
