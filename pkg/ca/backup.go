package ca

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// A SealingKey is what an authority's file is sealed under. It is not in backups: who has a backup alone has no key of
// the cluster's.
type SealingKey struct {
	sealer *sealer
	stored []byte // the file, as it is; nil: it is systemd's credential, and stays there
}

// ReadSealingKey reads a copy of an authority's ca.key, or systemd's credential where file is empty. passphrase opens a
// copy that is sealed.
func ReadSealingKey(file string, passphrase Passphrase) (*SealingKey, error) {
	if file == "" {
		secret, from, err := credential(CredentialName)
		if err != nil {
			return nil, fmt.Errorf("read the sealing key: %w", err)
		}
		if secret == nil {
			return nil, fmt.Errorf("read the sealing key: none was named (it is %s of the controller that was backed up, or its unit's credential %s)", keyFile, CredentialName)
		}
		sealer, err := newSealer(secret, from)
		return &SealingKey{sealer: sealer}, err
	}
	secret, err := readKeyFile(file, passphrase)
	if err != nil {
		return nil, fmt.Errorf("read the sealing key: %w", err)
	}
	stored, err := os.ReadFile(file) // as it is: sealed where it was
	if err != nil {
		return nil, fmt.Errorf("read the sealing key: %w", err)
	}
	sealer, err := newSealer(secret, file)
	return &SealingKey{sealer, stored}, err
}

// MAC authenticates a digest of what is kept elsewhere.
func (k *SealingKey) MAC(digest []byte) []byte { return k.sealer.macOf(digest) }

// Fingerprint names the key without telling it.
func (k *SealingKey) Fingerprint() string { return k.sealer.fingerprint() }

func (s *sealer) macOf(digest []byte) []byte {
	h := hmac.New(sha256.New, s.mac)
	h.Write(digest)
	return h.Sum(nil)
}

func (s *sealer) fingerprint() string { return fmt.Sprintf("%x", s.macOf([]byte("fingerprint")))[:16] }

// MAC authenticates a digest of what is kept elsewhere, under the sealing key (see SealingKey).
func (a *Authority) MAC(digest []byte) []byte { return a.sealer.macOf(digest) }

// KeyFingerprint names the sealing key.
func (a *Authority) KeyFingerprint() string { return a.sealer.fingerprint() }

// KeySource is the file that holds the sealing key.
func (a *Authority) KeySource() string { return a.sealer.source }

// Backup hands begin the size of the authority's file as it is now, in bytes, and writes the file to what begin
// returns. What is in it is sealed as it is on disk.
func (a *Authority) Backup(begin func(size int64, write func(io.Writer) error) error) error {
	return a.db.View(func(tx *bbolt.Tx) error {
		return begin(tx.Size(), func(w io.Writer) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
}

// RestoreFiles puts an authority's file, which write gives, and its sealing key into dir, where neither may be.
func RestoreFiles(dir string, key *SealingKey, write func(io.Writer) error) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore the authority: %w", err)
	}
	if key.stored != nil {
		if err := writeNew(filepath.Join(dir, keyFile), func(w io.Writer) error { _, err := w.Write(key.stored); return err }); err != nil {
			return err
		}
	}
	return writeNew(filepath.Join(dir, dbFile), write)
}

func writeNew(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("restore the authority: %s is there", path)
	}
	if err == nil {
		err = write(f)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("restore the authority: %w", err)
	}
	return nil
}
