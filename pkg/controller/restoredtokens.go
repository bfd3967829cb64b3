package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/backup"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// A backup knows of no token that was taken back after it was made, and of no join token that was used: to restore it would
// make them good again, and nothing that is left tells which they are. So all are taken back that were good then.

// AllTokens in RestoreConfig.KeepTokens keeps them all.
const AllTokens = "all"

// A RestoredToken is one that was good when the backup was made.
type RestoredToken struct {
	Kind    *api.Kind // OperatorTokens or JoinTokens
	ID      string    // its name
	For     string    // the operator, or the node
	Expires time.Time
	Kept    bool // else it was taken back

	takeBack func(context.Context) error
}

// restoreTokens takes back the tokens of a registry that was restored, but for those that are to be kept.
func (c *Controller) restoreTokens(ctx context.Context, conn *bus.Conn, writer *audit.Writer, cfg RestoreConfig, m backup.Manifest) ([]RestoredToken, error) {
	all, err := c.tokensOf(ctx, conn.Records(bus.StreamRegistry), m)
	if err != nil {
		return nil, err
	}
	for _, keep := range cfg.KeepTokens {
		found := keep == AllTokens
		for i := range all {
			if keep == AllTokens || all[i].ID == keep {
				all[i].Kept, found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("keep the token %q: no token of that name was good when the backup was made", keep)
		}
	}
	for _, t := range all {
		if t.Kept {
			continue
		}
		event := &audit.Event{
			Kind: audit.Change, Actor: cfg.Actor, From: restoredFrom, Verb: "delete", Resource: t.Kind.GroupResource().String(), Name: t.ID,
			Detail: "restored, for " + t.For,
		}
		if err := writer.Do(ctx, event, func() error { return t.takeBack(ctx) }); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tokensOf reads which tokens were good when the backup was made: by the clock of the controller that made it, since that of
// this host may be wrong.
func (c *Controller) tokensOf(ctx context.Context, records *bus.Records, m backup.Manifest) ([]RestoredToken, error) {
	registrar, err := ca.NewRegistrar(ca.RegistrarConfig{Authority: c.authority, Store: records, Users: c.accounts, Log: c.log, Now: c.cfg.Now})
	if err != nil {
		return nil, err
	}
	operators, directory := map[string]RestoredToken{}, ca.NewDirectory()
	err = readRestored(ctx, records, m, func(e bus.Entry) {
		id, ours := strings.CutPrefix(e.Subject, operatorPrefix)
		t, err := &operatorToken{id: id, sequence: e.Sequence}, error(nil)
		if ours {
			err = json.Unmarshal(e.Data, t)
		} else {
			_, err = directory.Take(e)
		}
		switch {
		case err != nil: // it lets nobody in, and must not keep the rest from being restored
			c.log.Warn("a record of the registry cannot be read", "sequence", e.Sequence, "err", err)
		case ours && !t.Revoked && m.Made.Before(t.Expires):
			operators[id] = RestoredToken{
				Kind: api.OperatorTokens, ID: id, For: t.User, Expires: t.Expires,
				takeBack: func(ctx context.Context) error { _, err := t.takeBack(ctx, records); return err },
			}
		}
	})
	if err != nil {
		return nil, err
	}
	all := slices.SortedFunc(maps.Values(operators), func(a, b RestoredToken) int {
		return cmp.Or(strings.Compare(a.For, b.For), strings.Compare(a.ID, b.ID))
	})
	for _, t := range directory.Tokens() {
		if m.Made.Before(t.Expires) && t.Used.IsZero() { // one for many hosts is never used up
			all = append(all, RestoredToken{
				Kind: api.JoinTokens, ID: t.ID, For: t.Node, Expires: t.Expires,
				takeBack: func(ctx context.Context) error { return registrar.RevokeToken(ctx, t.ID) },
			})
		}
	}
	return all, nil
}

// readRestored calls fn for every record of the registry, which holds the last of each subject, and fails where one is missing.
func readRestored(ctx context.Context, records *bus.Records, m backup.Manifest, fn func(bus.Entry)) error {
	want, got := uint64(0), uint64(0)
	for _, s := range m.Streams {
		if s.Name == string(bus.StreamRegistry) {
			want = s.Messages
		}
	}
	if want == 0 {
		return nil
	}
	last, err := records.Last(ctx)
	if err == nil {
		_, err = readTo(ctx, records, last, func(e bus.Entry) error {
			fn(e)
			if got++; got == want { // the newest number may be of a token that was forgotten
				return errRead
			}
			return nil
		})
	}
	if err == nil && got != want {
		err = fmt.Errorf("of %d records of the registry %d can be read", want, got)
	}
	return err
}
