package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Access is what users may still do whose account of nodes was replaced.
type Access int

// What users of an account of before may do.
const (
	ShutOut  Access = iota // nothing: they are not let in
	MayRenew               // ask to renew, as who was away for long
	LetIn                  // all that those of the present account may
)

// FormerAccess is that of users whose accounts of nodes were replaced, by the accounts' public keys.
type FormerAccess map[string]Access

// Successor makes keys that take the place of all of a's. What was stored by a's accounts is the new ones' at the next start of
// the server; users of a's controllers are let in no more, and users of its nodes as the server is told (Server.SetFormer).
func (a *Accounts) Successor(now time.Time) (*Accounts, error) {
	next, err := NewAccounts()
	if err != nil {
		return nil, err
	}
	next.made, next.formerOperator, next.formerControl = now, public(a.operator), public(a.control)
	next.formerNodes = append(slices.Clone(a.formerNodes), &FormerNodes{Key: public(a.nodes), ReplacedUnixMs: now.UnixMilli()})
	return next, nil
}

// WithoutFormer are these keys, with no memory of accounts of nodes that were replaced.
func (a *Accounts) WithoutFormer() *Accounts {
	next := *a
	next.formerNodes = nil
	return &next
}

// Made is when these keys took the place of others; zero: they are a cluster's first.
func (a *Accounts) Made() time.Time { return a.made }

// Operator and FormerOperator are the public keys of the operator, and of the one whose place it took.
func (a *Accounts) Operator() string { return public(a.operator) }

// FormerOperator is empty where these keys are a cluster's first.
func (a *Accounts) FormerOperator() string { return a.formerOperator }

// Former are the accounts of nodes of before, and since when they are; the newest last.
func (a *Accounts) Former() []*FormerNodes { return a.formerNodes }

// inherit makes the streams that the control account of before stored the present one's: each account has a folder of its
// own. A process that is killed has done it or not.
func (a *Accounts) inherit(stateDir string) error {
	if a.formerControl == "" {
		return nil
	}
	all := filepath.Join(stateDir, "jetstream")
	err := os.Rename(filepath.Join(all, a.formerControl), filepath.Join(all, public(a.control)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give the streams to the new account: %w", err)
	}
	dir, err := os.Open(all)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// SetFormer says what users of accounts of nodes of before may do from now on, as ServerConfig.Former did at the start; who is
// left out is shut out. Connections that are shut out end, the others go on with what they still may. The caller does not use
// former any more. When it returns nil, the server obeys it; it waits for no longer than ctx.
func (s *Server) SetFormer(ctx context.Context, former FormerAccess) error {
	err := s.cut.order(ctx, func() {
		for account := range s.cut.former {
			former[account] = max(former[account], ShutOut) // one that is left out is told so
		}
		s.cut.former = former
	})
	if err != nil {
		return fmt.Errorf("change what users of before may do on the bus: %w", err)
	}
	return nil
}
