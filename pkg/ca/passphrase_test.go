package ca

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fixed(text string) Passphrase { return func() ([]byte, error) { return []byte(text), nil } }

func TestSealedSecrets(t *testing.T) {
	t.Parallel()
	right, secret := fixed(" correct horse battery\n"), []byte("the secret itself")
	sealed, err := sealSecret(right, "a key", secret)
	if err != nil || bytes.Contains(sealed, secret) || !isSealed(sealed) {
		t.Fatalf("%s %v", sealed, err)
	}
	changed := func(old, with string) []byte {
		out := bytes.Replace(sealed, []byte(old), []byte(with), 1)
		if bytes.Equal(out, sealed) {
			t.Fatalf("%q is not in it", old)
		}
		return out
	}
	for _, tt := range []struct {
		name    string
		ask     Passphrase
		purpose string
		data    []byte
		want    error
	}{
		{"right", fixed("correct horse battery"), "a key", sealed, nil},
		{"behind a certificate", right, "a key", append([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), sealed...), nil},
		{"another passphrase", fixed("correct horse batterY"), "a key", sealed, ErrPassphrase},
		{"no passphrase", nil, "a key", sealed, ErrPassphrase},
		{"an empty one", fixed("\n"), "a key", sealed, ErrPassphrase},
		{"another purpose", right, "another key", sealed, ErrCorrupt},
		{"another purpose written over it", right, "b key", changed("Purpose: a key", "Purpose: b key"), ErrPassphrase},
		{"memory without end", right, "a key", changed("Memory: 65536", "Memory: 99999999"), ErrCorrupt},
		{"no pass", right, "a key", changed("Time: 3", "Time: 0"), ErrCorrupt},
		{"another function", right, "a key", changed("argon2id", "argon2d"), ErrCorrupt},
		{"cut", right, "a key", sealed[:len(sealed)-40], ErrCorrupt},
		{"nothing", right, "a key", nil, ErrCorrupt},
	} {
		got, err := openSecret(tt.ask, tt.purpose, tt.data)
		if !errors.Is(err, tt.want) || tt.want == nil && !bytes.Equal(got, secret) {
			t.Errorf("%s: %q, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	if _, err := sealSecret(fixed("too short"), "a key", secret); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a short passphrase: %v", err)
	}
}

// TestAuthorityUnderAPassphrase opens with it alone, and a backup of it likewise.
func TestAuthorityUnderAPassphrase(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	cfg.KeyFile, cfg.Passphrase = filepath.Join(t.TempDir(), "elsewhere.key"), fixed("correct horse battery")
	a, err := NewAuthority(cfg)
	if err != nil {
		t.Fatal(err)
	}
	root := a.RootHash()
	if a.KeySource() != cfg.KeyFile {
		t.Errorf("sealed under %s", a.KeySource())
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, keyFile)); err == nil {
		t.Error("there is a key without a passphrase as well")
	}
	copied := t.TempDir()
	err = a.Backup(func(_ int64, write func(io.Writer) error) error {
		key, err := ReadSealingKey(cfg.KeyFile, cfg.Passphrase)
		if err != nil {
			return err
		}
		return RestoreFiles(copied, key, write)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	open := func(cfg AuthorityConfig) error {
		a, err := NewAuthority(cfg)
		if err != nil {
			return err
		}
		if a.RootHash() != root {
			t.Error("it has another root")
		}
		return a.Close()
	}
	wrong, none, restored := cfg, cfg, cfg
	wrong.Passphrase, none.Passphrase = fixed("incorrect horse"), nil
	restored.Dir, restored.KeyFile = copied, ""
	for _, tt := range []struct {
		name string
		cfg  AuthorityConfig
		want error
	}{{"right", cfg, nil}, {"wrong", wrong, ErrPassphrase}, {"none", none, ErrPassphrase}, {"restored", restored, nil}} {
		if err := open(tt.cfg); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := SealKeyFile(cfg.KeyFile, cfg.Passphrase, fixed("another passphrase")); err != nil {
		t.Fatal(err)
	}
	if err := open(cfg); !errors.Is(err, ErrPassphrase) {
		t.Errorf("the passphrase of before: %v", err)
	}
	cfg.Passphrase = fixed("another passphrase")
	if err := open(cfg); err != nil {
		t.Error(err)
	}
}

func TestPassphraseFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(file, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := PassphraseFrom(file, false).get()
	if err != nil || string(got) != "correct horse battery" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := PassphraseFrom(file, false).get(); !errors.Is(err, ErrPermissions) {
		t.Errorf("a file that others can read: %v", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(file)) // systemd sets the mode of credentials
	if _, err := PassphraseFrom(file, false).get(); err != nil {
		t.Error(err)
	}
	if _, err := PassphraseFrom(filepath.Join(t.TempDir(), "none"), false).get(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a file that is not there: %v", err)
	}
	if PassphraseFrom("", false) != nil {
		t.Error("no file is a passphrase")
	}
}
