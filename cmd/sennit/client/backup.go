package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/backup"
)

// A Backup is what was written.
type Backup struct {
	backup.Manifest
	File       string
	Bytes      int64
	SealingKey string // the controller's file of the key that a restore needs beside it
}

// Backup writes a backup to a file of mode 0600, which must not be there yet, and reads all of it again. Only the
// controller's unix socket answers it. Where it fails, nothing is left behind.
func (c *Client) Backup(ctx context.Context, file string) (b Backup, err error) {
	res, err := c.conn.do(ctx, request{method: http.MethodGet, path: report.PathBackup, accept: "*/*"})
	if err != nil {
		return b, err
	}
	defer res.Body.Close()
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return b, fmt.Errorf("back up to %s: a file is there (name another)", file)
	}
	partial := file + ".partial"
	out, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return b, fmt.Errorf("back up: %w", err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(partial)
		}
	}()
	if b.Bytes, err = io.Copy(out, res.Body); err != nil {
		return b, fmt.Errorf("back up to %s: it broke off: %w (the controller's log says why, or this disk is full)", file, err)
	}
	read, err := backup.Open(out, b.Bytes)
	if err != nil {
		return b, fmt.Errorf("back up to %s: %w", file, err)
	}
	b.Manifest, b.File, b.SealingKey = read.Manifest, file, res.Header.Get(report.HeaderSealingKey)
	if err := out.Sync(); err != nil {
		return b, fmt.Errorf("back up: %w", err)
	}
	return b, os.Rename(partial, file)
}
