package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/pkg/tpm"
)

// A KeyStore is where a node's own key is made.
type KeyStore string

// Where a node's own key can be made.
const (
	KeysInFile KeyStore = "file" // in identity.db
	KeysInTPM  KeyStore = "tpm"  // in the host's TPM, or not at all
	KeysAuto   KeyStore = "auto" // in the TPM where it can be used when the node starts, else in the file
)

// String implements flag.Value.
func (k *KeyStore) String() string {
	if k == nil || *k == "" {
		return string(KeysInFile)
	}
	return string(*k)
}

// Set implements flag.Value.
func (k *KeyStore) Set(value string) error {
	if !slices.Contains([]KeyStore{KeysInFile, KeysInTPM, KeysAuto}, KeyStore(value)) {
		return fmt.Errorf("want %s, %s or %s", KeysInFile, KeysInTPM, KeysAuto)
	}
	*k = KeyStore(value)
	return nil
}

// device is this host's TPM, which is not opened yet unless the key store is auto, and whether keys are made in it.
func (n *Node) device() (device *tpm.Device, keys bool) {
	path := n.cfg.TPM
	if path == "" {
		path = tpm.DefaultDevice
	}
	device = tpm.New(path)
	if n.cfg.KeyStore != KeysAuto {
		return device, n.cfg.KeyStore == KeysInTPM
	}
	if err := device.Check(); err != nil {
		n.log.Info("the node's key is kept in its file", "err", err)
		return device, false
	}
	return device, true
}

// joinCredentialName is the systemd credential that a join token comes in.
const joinCredentialName = "sennit-join-token"

// maxJoinCredential is more than a join token has.
const maxJoinCredential = 64 << 10

// joinCredential is the join token that systemd gave this process; empty where it gave none.
func joinCredential() (string, error) {
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	if credentials == "" {
		return "", nil
	}
	file := filepath.Join(credentials, joinCredentialName)
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err == nil && info.Size() > maxJoinCredential {
		err = fmt.Errorf("%s has %d bytes", file, info.Size())
	}
	var token []byte
	if err == nil {
		token, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("read the join token that systemd gave: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}
