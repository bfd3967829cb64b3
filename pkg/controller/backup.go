package controller

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/backup"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// backedUp are the streams in a backup, in the order in which they are copied, while others go on to write. A node is
// in the audit before it is in the registry, and a document is in its log before it is in the audit: so nothing in a
// backup is without what it refers to. The authority's file comes first, for its copy of the newest checkpoint is of a
// record that is in the audit.
//
// Left out is what is computed again, statuses and snapshots, and what is reserved of quotas, which is worth nothing once
// more was granted (quota.Restored).
var backedUp = []bus.Stream{bus.StreamRegistry, bus.StreamInstance, bus.StreamAudit, bus.StreamResource}

// backedUpSecret is where the authority keeps the hash of the root that the last backup holds.
const backedUpSecret = "backed-up-root"

// backupNeeded says whether the root took another's place since the last backup: nodes do not believe what is restored from
// that.
func (c *Controller) backupNeeded() bool {
	if !c.authority.Replaced() {
		return false
	}
	root := c.authority.RootHash()
	held, err := c.authority.Secret(backedUpSecret)
	return err != nil || !bytes.Equal(held, root[:])
}

// backup answers with a backup. It is for the socket alone: a token must not give away what others are kept from.
func (c *Controller) backup(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		socket.WriteFailure(w, http.StatusForbidden, errors.New("backups are made on the controller's host, over its unix socket"))
		return
	}
	out := &begunWriter{w: w}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set(report.HeaderSealingKey, c.authority.KeySource())
	event := &audit.Event{Kind: audit.Backup, Verb: "backup"}
	root := c.authority.RootHash()
	err := c.recorder.act(r, event, func() error { return c.writeBackup(r.Context(), out) })
	switch {
	case err == nil:
		if err := c.authority.PutSecret(backedUpSecret, root[:]); err != nil {
			c.log.Error("that a backup of the root was taken cannot be kept", "err", err)
		}
	case !out.begun:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		c.log.Error("a backup broke off", "err", err)
		panic(http.ErrAbortHandler) // the caller must not take it for whole
	}
}

// begunWriter knows whether anything was written.
type begunWriter struct {
	w     io.Writer
	begun bool
}

func (b *begunWriter) Write(p []byte) (int, error) {
	b.begun = true
	return b.w.Write(p)
}

func (c *Controller) writeBackup(ctx context.Context, out io.Writer) error {
	w := backup.NewWriter(out)
	epoch, made := c.authority.Epoch(), time.Now().UTC()
	if err := c.authority.Backup(w.Authority); err != nil {
		return err
	}
	for _, stream := range backedUp {
		copied, err := c.conn.Records(stream).Copy(ctx, func(part []byte) error { return w.Part(string(stream), part) })
		if err != nil {
			return err
		}
		w.State(copied.Messages, copied.Last)
	}
	return w.End(backup.Manifest{
		Made: made, Version: release.Version(), Cluster: c.cfg.Cluster, TrustDomain: c.cfg.TrustDomain, Controller: c.cfg.Name,
		Epoch: epoch, Key: c.authority.KeyFingerprint(),
	}, c.authority.MAC)
}
