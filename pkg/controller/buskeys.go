package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// ErrAgain is what Run returns where the controller is to be made and run anew: what its bus runs on has been replaced.
var ErrAgain = errors.New("the controller starts again, with new keys of the bus")

// accountsSecret is where the authority keeps the seeds of the bus's accounts.
const accountsSecret = "bus-accounts"

// Serve makes a controller and runs it until ctx ends, again and again where that is needed: on the same ports, and without
// asking for a passphrase again.
func Serve(ctx context.Context, cfg Config) error {
	cfg.passphrase = ca.PassphraseFrom(cfg.PassphraseFile, false)
	for {
		c, err := New(cfg)
		if err != nil {
			return err
		}
		if err = c.Run(ctx); !errors.Is(err, ErrAgain) || ctx.Err() != nil {
			return err
		}
		c.log.Info(ErrAgain.Error())
		cfg.Bus = c.cfg.Bus
		if at := c.apiAddress.Load(); at != nil {
			cfg.API = netip.AddrPortFrom(cfg.API.Addr(), at.Port())
		}
	}
}

// untilAgain ends the controller when it is to start again.
func (c *Controller) untilAgain(ctx context.Context) error {
	select {
	case <-c.awaitsKeys:
		return ErrAgain
	case <-ctx.Done():
		return nil
	}
}

// openAccounts reads the keys of the bus. Where they are to be replaced it makes the next ones, once.
func (c *Controller) openAccounts() error {
	seeds, err := c.authority.Secret(accountsSecret)
	if err != nil {
		return err
	}
	if seeds == nil {
		if c.accounts, err = bus.NewAccounts(); err != nil {
			return err
		}
		return c.keepAccounts(c.accounts)
	}
	c.accounts = &bus.Accounts{}
	if err := c.accounts.UnmarshalBinary(seeds); err != nil {
		return fmt.Errorf("keys of the bus in %s: %w", filepath.Join(c.cfg.StateDir, "ca"), err)
	}
	if !c.busAwaitsKeys() {
		return nil
	}
	next, err := c.accounts.Successor(c.authority.Rotation().Begun)
	if err != nil {
		return err
	}
	c.accounts = next
	return c.keepAccounts(next)
}

func (c *Controller) keepAccounts(a *bus.Accounts) error {
	seeds, err := a.MarshalBinary()
	if err != nil {
		return err
	}
	return c.authority.PutSecret(accountsSecret, seeds)
}

// busAwaitsKeys reports whether the keys of the bus are to be replaced, and are not yet.
func (c *Controller) busAwaitsKeys() bool {
	r := c.authority.Rotation()
	return r.Bus && r.Phase == ca.Announced && !c.accounts.Made().Equal(r.Begun)
}

// formerUsers says what users may do that keys of the bus of before made. While nodes renew, those of the keys before these
// may do all that they might; after that, until nodes that are away so long join anew, ask to renew.
func (c *Controller) formerUsers() bus.FormerAccess {
	renewing := c.authority.Rotation().Bus
	all := bus.FormerAccess{}
	for _, f := range c.accounts.Former() {
		replaced := time.UnixMilli(f.GetReplacedUnixMs())
		switch {
		case c.formerShutOut.Load():
			all[f.GetKey()] = bus.ShutOut
		case renewing && replaced.Equal(c.accounts.Made()):
			all[f.GetKey()] = bus.LetIn
		case c.cfg.Now().Before(replaced.Add(ca.DefaultAbsence)):
			all[f.GetKey()] = bus.MayRenew
		}
	}
	return all
}

// withdraw ends the trust in what a rotation replaced. By force no user of keys of the bus of before is let in any more.
func (c *Controller) withdraw(ctx context.Context, force bool) error {
	r := c.authority.Rotation()
	ofBus := r.Bus && r.Phase == ca.Renewing // before that nobody may be shut out: nodes have users of before alone
	if ofBus && force {
		if err := c.keepAccounts(c.accounts.WithoutFormer()); err != nil {
			return err
		}
		c.formerShutOut.Store(true)
	}
	if err := c.authority.Withdraw(force); err != nil || !ofBus {
		return err
	}
	return c.server.SetFormer(ctx, c.formerUsers())
}

// rotation is how far a rotation has come.
func (c *Controller) rotation() ca.AuthorityRotation {
	r := c.authority.Rotation()
	switch {
	case !r.Bus:
	case c.busAwaitsKeys():
		r.From = c.accounts.Operator()
	default:
		r.From, r.To = c.accounts.FormerOperator(), c.accounts.Operator()
	}
	return r
}
