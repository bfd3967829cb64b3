package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockWait is how long an open waits for another process that has the file.
const lockWait = time.Second

// OpenDB opens a bbolt file of mode 0600, making it where there is none, and reads all of it once, so that
// damage is found here and not in the middle of a request. what says whose file it is, and remedy what to
// do where it is damaged.
func OpenDB(path, what, remedy string) (*bbolt.DB, error) {
	if err := checkPrivate(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	db, err := openWhole(path)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s %s: %w; stop the other one, or give this one a state directory of its own", what, path, ErrInUse)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: %w; run as the user that owns it, or give it to this one with chown", what, err)
	case errors.Is(err, ErrCorrupt):
		return nil, fmt.Errorf("open %s %s: %w; %s", what, path, err, remedy)
	}
	return nil, fmt.Errorf("open %s: %w", what, err)
}

// openWhole turns every way in which a damaged file shows into ErrCorrupt: bbolt's errors, its panics, and
// the fault of reading a mapped page that a truncated file no longer has.
func openWhole(path string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			db, err = nil, fmt.Errorf("%w (%v)", ErrCorrupt, cause)
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) || errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		if pathError := (*fs.PathError)(nil); errors.As(err, &pathError) {
			return nil, err // a missing directory, a full disk
		}
		return nil, fmt.Errorf("%w (%w)", ErrCorrupt, err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w (%w)", ErrCorrupt, err), db.Close())
	}
	return db, nil
}

// checkPrivate refuses a file with keys that others may read or write.
func checkPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o; run `chmod 600 %s`, and renew what it holds if others could read it", ErrPermissions, path, info.Mode().Perm(), path)
	}
	return nil
}
