package tpm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// DefaultDevice is where Linux has the TPM for many users at once.
const DefaultDevice = "/dev/tpmrm0"

// ErrNone is returned where a host has no TPM, or none that this process may use.
var ErrNone = errors.New("no TPM 2.0 can be used")

// A Device is a host's TPM. It is safe for concurrent use: one use at a time. Nothing is open in between.
type Device struct {
	path string
	busy sync.Mutex
}

// New returns the TPM at a device file, or behind the unix socket of an emulator. It is not looked at yet.
func New(path string) *Device { return &Device{path: path} }

// Check returns ErrNone where the TPM cannot be used.
func (d *Device) Check() error {
	return d.use(func(t *session) error {
		_, err := t.storageKey()
		return err
	})
}

// use opens the TPM for the time of fn, after which nothing of it is loaded.
func (d *Device) use(fn func(*session) error) (err error) {
	d.busy.Lock()
	defer d.busy.Unlock()
	info, err := os.Stat(d.path)
	var conn transport.TPMCloser
	if err == nil {
		if info.Mode().Type() == fs.ModeSocket {
			conn, err = linuxudstpm.Open(d.path)
		} else {
			conn, err = linuxtpm.Open(d.path)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w (the host needs a TPM 2.0 that this user may open; --tpm says where)", ErrNone, err)
	}
	t := &session{conn: conn}
	defer func() { err = errors.Join(err, t.flush(), conn.Close()) }()
	if err := fn(t); err != nil {
		return fmt.Errorf("TPM at %s: %w", d.path, err)
	}
	return nil
}

// A session is one use of the TPM, and what it has loaded.
type session struct {
	conn    transport.TPM
	loaded  []tpm2.TPMHandle
	storage *tpm2.NamedHandle
}

// flush takes out what was loaded. The kernel's resource manager does so by itself; an emulator has none.
func (t *session) flush() (err error) {
	for _, handle := range t.loaded {
		_, failed := tpm2.FlushContext{FlushHandle: handle}.Execute(t.conn)
		err = errors.Join(err, failed)
	}
	t.loaded = nil
	return err
}

// storageKey is the key that others are wrapped under. A TPM makes the same one each time, until it is cleared.
func (t *session) storageKey() (tpm2.NamedHandle, error) {
	if t.storage != nil {
		return *t.storage, nil
	}
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t.conn)
	if err != nil {
		return tpm2.NamedHandle{}, fmt.Errorf("make the storage key: %w", err)
	}
	t.loaded = append(t.loaded, made.ObjectHandle)
	t.storage = &tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}
	return *t.storage, nil
}
