package ca

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestNodeKeysAreSealed: a copy of the node's files is worth nothing without the key that systemd, or a file elsewhere, has;
// and a node that had no key until now seals what it has.
func TestNodeKeysAreSealed(t *testing.T) {
	c := newCluster(t)
	dir := t.TempDir()
	key := filepath.Join(t.TempDir(), "node.key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("0123456789"), 4), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(file string) (*Identity, error) {
		return NewIdentity(IdentityConfig{Dir: dir, KeyFile: file, Now: c.clock.Now, Log: slog.New(slog.DiscardHandler)})
	}
	closed := func(i *Identity) {
		t.Helper()
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
	}
	i, err := open("")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	private := i.current().GetKey()
	closed(i)

	if i, err = open(key); err != nil || !i.Joined() {
		t.Fatalf("a node that gets a key: %v", err)
	}
	closed(i)
	if _, err := open(""); !errors.Is(err, ErrSealed) {
		t.Errorf("without the key: %v", err)
	}
	other := filepath.Join(t.TempDir(), "other.key")
	if err := os.WriteFile(other, bytes.Repeat([]byte("9876543210"), 4), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(other); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with another key: %v", err)
	}
	credentials := t.TempDir()
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(credentials, NodeCredentialName), secret, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if i, err = open(""); err != nil {
		t.Fatalf("with systemd's credential: %v", err)
	}
	if _, err := i.Certificate(orders); err != nil {
		t.Error(err)
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	renewed := i.current().GetKey()
	closed(i)
	file, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(private, renewed) || bytes.Contains(file, renewed) {
		t.Error("the key that the node has now can be read in its file")
	}
}
