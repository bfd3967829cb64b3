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

// sealingKey finds the key of the authority in dir: systemd's credential, else ca.key. Where the
// authority is new it makes one; commit then puts it in its place, AFTER the sealed file was written: a
// key without a file would hide that the file was lost, and a new root would be made in silence.
func sealingKey(dir string, exists bool) (s *sealer, commit func() error, err error) {
	none := func() error { return nil }
	if credentials := os.Getenv("CREDENTIALS_DIRECTORY"); credentials != "" {
		path := filepath.Join(credentials, CredentialName)
		secret, err := os.ReadFile(path)
		if err == nil {
			s, err = newSealer(secret, path)
			return s, none, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("read the sealing key: %w", err)
		}
	}
	path, fresh := filepath.Join(dir, keyFile), filepath.Join(dir, keyFile+".new")
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
		if err := checkPrivate(path); err != nil {
			return nil, nil, fmt.Errorf("read the sealing key: %w (without it nothing in %s can be read: restore both from one backup)", err, dir)
		}
		secret, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read the sealing key: %w", err)
		}
		s, err = newSealer(bytes.TrimSpace(secret), path)
		return s, none, err
	}
	if _, err := os.Stat(path); err == nil {
		return nil, nil, fmt.Errorf("%s is there and %s is not: restore %s from a backup, or remove the key to begin a new cluster with a new root", path, dbFile, dbFile)
	}
	secret := []byte(rand.Text() + rand.Text()) // 260 bits
	if err := os.WriteFile(fresh, secret, 0o600); err != nil {
		return nil, nil, fmt.Errorf("write the sealing key: %w", err)
	}
	s, err = newSealer(secret, path)
	return s, move, err
}
