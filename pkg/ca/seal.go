package ca

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// CredentialName is the systemd credential that seals an authority's file where the unit has one
	// (LoadCredentialEncrypted=sennit-ca-key, systemd.exec(5)): 32 random bytes or more.
	CredentialName = "sennit-ca-key"

	keyFile     = "ca.key"
	keyFileSize = 32
)

// A sealer encrypts what an authority keeps, with AES-256-GCM. What a value is for goes in as additional
// data, so that values cannot be swapped.
type sealer struct {
	aead   cipher.AEAD
	mac    []byte // the key of MACs over what is kept elsewhere
	source string // where the key came from, for messages
}

func newSealer(secret []byte, source string) (*sealer, error) {
	if len(secret) < keyFileSize {
		return nil, fmt.Errorf("sealing key %s has %d bytes: want %d random bytes or more", source, len(secret), keyFileSize)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "sennit ca seal v1", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	mac, err := hkdf.Key(sha256.New, secret, nil, "sennit backup mac v1", 32)
	return &sealer{aead, mac, source}, err
}

func (s *sealer) seal(purpose string, plain []byte) []byte {
	return s.aead.Seal(nil, nil, plain, []byte(purpose))
}

func (s *sealer) open(purpose string, sealed []byte) ([]byte, error) {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be opened with the key of %s; restore both from one backup", ErrCorrupt, purpose, s.source)
	}
	return plain, nil
}

// keySource says where the key that seals an authority's file is.
type keySource struct {
	dir        string // of ca.key
	file       string // empty: ca.key in dir
	passphrase Passphrase
}

func (k keySource) path() string {
	if k.file != "" {
		return k.file
	}
	return filepath.Join(k.dir, keyFile)
}

// credential reads a credential that systemd gave to this process; nil where it gave none of the name.
func credential(name string) (secret []byte, path string, err error) {
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	if credentials == "" {
		return nil, "", nil
	}
	path = filepath.Join(credentials, name)
	secret, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	return secret, path, err
}

// sealingKey finds the key of the authority: systemd's credential, else the key file, which may itself be sealed under a
// passphrase. Where the authority is new it makes one; commit then puts it in its place, AFTER the sealed file was written:
// a key without a file would hide that the file was lost, and a new root would be made in silence.
func sealingKey(k keySource, exists bool) (s *sealer, commit func() error, err error) {
	none := func() error { return nil }
	secret, from, err := credential(CredentialName)
	if err != nil {
		return nil, nil, fmt.Errorf("read the sealing key: %w", err)
	}
	if secret != nil {
		s, err = newSealer(secret, from)
		return s, none, err
	}
	path := k.path()
	fresh := path + ".new"
	move := func() error { return os.Rename(fresh, path) }
	if exists {
		// A first start that ended between its two steps is finished here.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(fresh); err == nil {
				if err := move(); err != nil {
					return nil, nil, fmt.Errorf("put the sealing key in its place: %w", err)
				}
			}
		}
		secret, err := readKeyFile(path, k.passphrase)
		if err != nil {
			return nil, nil, fmt.Errorf("read the sealing key: %w (without it nothing in %s can be read: restore both from one backup)", err, k.dir)
		}
		s, err = newSealer(secret, path)
		return s, none, err
	}
	if _, err := os.Stat(path); err == nil {
		return nil, nil, fmt.Errorf("%s is there and %s is not: restore %s from a backup, or remove the key to begin a new cluster with a new root", path, dbFile, dbFile)
	}
	secret = []byte(rand.Text() + rand.Text()) // 260 bits
	stored := secret
	if k.passphrase != nil {
		if stored, err = sealSecret(k.passphrase, sealedKeyPurpose, secret); err != nil {
			return nil, nil, fmt.Errorf("seal the sealing key: %w", err)
		}
	}
	if err := os.WriteFile(fresh, stored, 0o600); err != nil {
		return nil, nil, fmt.Errorf("write the sealing key: %w", err)
	}
	s, err = newSealer(secret, path)
	return s, move, err
}

// sealedKeyPurpose is what a sealed ca.key says it is.
const sealedKeyPurpose = "sealing key of an authority"

// readKeyFile reads a key file, and opens it where it is sealed under a passphrase.
func readKeyFile(path string, passphrase Passphrase) ([]byte, error) {
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !isSealed(data) {
		return bytes.TrimSpace(data), nil
	}
	secret, err := openSecret(passphrase, sealedKeyPurpose, data)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return secret, nil
}

// SealKeyFile seals a key file of a controller that is stopped under a passphrase, or under another one than before. The
// key itself stays the same, so that backups of before can be restored with the file of now.
func SealKeyFile(path string, before, passphrase Passphrase) error {
	secret, err := readKeyFile(path, before)
	if err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	sealed, err := sealSecret(passphrase, sealedKeyPurpose, secret)
	if err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	fresh := path + ".new"
	if err := writeNew(fresh, func(w io.Writer) error { _, err := w.Write(sealed); return err }); err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("seal %s: %w", path, err)
	}
	return nil
}
