package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/backup"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// restoringFile is in a state directory while it is restored, or where that was cut short: a controller that started on
// it would make a cluster of its own.
const restoringFile = "restoring"

// restoredFrom is where the audit says that a restore came from.
const restoredFrom = "this host"

// RestoreConfig says what to restore, and where to.
type RestoreConfig struct {
	From     string // the backup's file
	StateDir string // empty or missing
	Key      string // a copy of ca.key; empty: systemd's credential
	// Passphrase that Key is sealed under; nil: it is not.
	Passphrase ca.Passphrase
	// KeepTokens are the ids of operators' and join tokens that stay good, or AllTokens. The others are taken back.
	KeepTokens []string
	Actor      string           // who does it, for the audit
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: slog.Default
}

// A Restored says what was restored.
type Restored struct {
	backup.Manifest
	NewEpoch uint64          // that the controller goes on with
	Tokens   []RestoredToken // operators' by name, then those with which hosts join
}

// Restore makes the state of a controller from a backup, in an epoch of its own that is newer than the backup's: nodes
// follow it from then on, and no other controller of an older one. Tokens are taken back, but for those that are to be kept.
// No controller may run on the state directory. Where it fails, what it has written is gone, and the state directory empty.
func Restore(ctx context.Context, cfg RestoreConfig) (r Restored, err error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	file, err := os.Open(cfg.From)
	if err != nil {
		return r, fmt.Errorf("restore: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return r, fmt.Errorf("restore: %w", err)
	}
	if !info.Mode().IsRegular() {
		return r, fmt.Errorf("restore: %s is no file that `sennit controller backup` made", cfg.From)
	}
	from, err := backup.Open(file, info.Size())
	if err != nil {
		return r, fmt.Errorf("restore %s: %w", cfg.From, err)
	}
	key, err := ca.ReadSealingKey(cfg.Key, cfg.Passphrase)
	if err != nil {
		return r, fmt.Errorf("restore %s: %w", cfg.From, err)
	}
	if key.Fingerprint() != from.Manifest.Key {
		return r, fmt.Errorf("restore %s: the sealing key that was given is %s, and the backup needs %s (it is ca/ca.key in the state directory of the controller that was backed up)", cfg.From, key.Fingerprint(), from.Manifest.Key)
	}
	if err := from.Authentic(key.MAC); err != nil {
		return r, fmt.Errorf("restore %s: %w", cfg.From, err)
	}
	clear, err := claim(cfg.StateDir)
	if err != nil {
		return r, fmt.Errorf("restore: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("restore %s: %w", cfg.From, err), clear())
		}
	}()
	r.Manifest = from.Manifest
	if err := ca.RestoreFiles(filepath.Join(cfg.StateDir, "ca"), key, from.Authority); err != nil {
		return r, err
	}
	if r.NewEpoch, r.Tokens, err = restoreInto(ctx, cfg, from); err != nil {
		return r, err
	}
	return r, os.Remove(filepath.Join(cfg.StateDir, restoringFile))
}

// claim makes sure that a state directory is empty, and that no controller starts on it before the file restoringFile is
// gone. clear empties it again.
func claim(dir string) (clear func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("%s is not empty, it holds %s (choose another with --state-dir, or move away what is there)", dir, there[0].Name())
	}
	clear = func() error {
		all, err := os.ReadDir(dir)
		for _, one := range all {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, one.Name())))
		}
		return err
	}
	return clear, os.WriteFile(filepath.Join(dir, restoringFile), nil, 0o600)
}

// checkRestored refuses a state directory whose restore was cut short. What else is wrong with the directory is for
// those to say who open what is in it.
func checkRestored(dir string) error {
	path := filepath.Join(dir, restoringFile)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is there: a restore into this state directory was cut short, or still runs (empty the directory, and restore again)", path)
	}
	return nil
}

// restoreInto puts the streams into place beside the authority's files, begins the new epoch, takes tokens back, and records
// both.
func restoreInto(ctx context.Context, cfg RestoreConfig, from *backup.File) (epoch uint64, tokens []RestoredToken, err error) {
	m := from.Manifest
	c := &Controller{log: cfg.Log, cfg: Config{
		StateDir: cfg.StateDir, Cluster: m.Cluster, TrustDomain: m.TrustDomain, Name: m.Controller,
		Bus: netip.MustParseAddrPort("127.0.0.1:0"), Now: cfg.Now,
	}}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.authority, err = ca.NewAuthority(ca.AuthorityConfig{
		Dir: filepath.Join(cfg.StateDir, "ca"), Cluster: m.Cluster, TrustDomain: m.TrustDomain, Name: m.Controller, Now: cfg.Now, Passphrase: cfg.Passphrase,
	})
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, c.authority.Close()) }()
	before, err := c.newestEpoch()
	if err != nil {
		return 0, nil, err
	}
	epoch = nextEpoch(cfg.Now(), before)
	if err := c.authority.BeginEpoch(epoch); err != nil {
		return 0, nil, err
	}
	if err := c.openBus(); err != nil {
		return 0, nil, err
	}
	running, stop := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := c.server.Run(running)
		stop(err) // whoever waits for it is told why
		ended <- err
	}()
	defer func() {
		stop(nil)
		err = errors.Join(err, <-ended)
	}()
	conn, err := c.server.Controller(running, c.log)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	for _, s := range m.Streams {
		err := conn.Records(bus.Stream(s.Name)).Restore(running, bus.Copied{Messages: s.Messages, Last: s.Last}, func(put func([]byte) error) error {
			return from.Parts(s.Name, put)
		})
		if err != nil {
			return 0, nil, err
		}
	}
	if err := conn.EnsureStreams(running, 1); err != nil {
		return 0, nil, err
	}
	if err := restoreQuotas(running, conn); err != nil {
		return 0, nil, err
	}
	err = c.auditRestore(running, conn, cfg, m, epoch, func(writer *audit.Writer) error {
		tokens, err = c.restoreTokens(running, conn, writer, cfg, m)
		return err
	})
	return epoch, tokens, err
}

// nextEpoch is the time, or where that is not newer, because a clock was set back or the backup is of this very second,
// the next number.
func nextEpoch(now time.Time, before uint64) uint64 { return max(uint64(max(now.Unix(), 0)), before+1) }

// auditRestore goes on with the chain of the controller that was backed up, by the restore and what then does.
func (c *Controller) auditRestore(ctx context.Context, conn *bus.Conn, cfg RestoreConfig, m backup.Manifest, epoch uint64, then func(*audit.Writer) error) error {
	writer := audit.NewWriter(audit.WriterConfig{
		Store: conn.Records(bus.StreamAudit), Cluster: m.Cluster, Writer: m.Controller, Signer: c.authority.Signer, Log: c.log, Now: cfg.Now,
	})
	writing, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- writer.Run(writing) }()
	_, err := writer.Record(ctx, &audit.Event{
		Kind: audit.Restore, Actor: cfg.Actor, From: restoredFrom, Verb: "restore",
		Detail: fmt.Sprintf("from a backup of %s, of epoch %d, into epoch %d", m.Made.Format(time.RFC3339), m.Epoch, epoch),
	})
	if err == nil {
		err = then(writer)
	}
	stop()
	return errors.Join(err, <-ended)
}
