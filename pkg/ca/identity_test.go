package ca

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentitySurvivesARestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir := t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	serial := leafSerial(t, i, orders)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	again := c.identity(dir)
	if !again.Joined() || leafSerial(t, again, orders) != serial || again.Node() != "web1" {
		t.Error("not the same node")
	}
	if err := again.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Error(err)
	}
}

func TestIdentityFilesThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(path string) error
		is     error
		says   string
	}{
		{"others may read it", func(path string) error { return os.Chmod(path, 0o644) }, ErrPermissions, "chmod 600"},
		{"cut", func(path string) error { return os.Truncate(path, 3*4096) }, ErrCorrupt, "join again"},
		{"a bit of the value", func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			// What nothing else would notice: where the bus is.
			data = bytes.ReplaceAll(data, []byte("127.0.0.1:4222"), []byte("127.0.0.1:4223"))
			return os.WriteFile(path, data, 0o600)
		}, ErrCorrupt, "join again"},
		{"another program's", func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("text", 4096)), 0o600) }, ErrCorrupt, "join again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			dir := t.TempDir()
			i := c.identity(dir)
			if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
				t.Fatal(err)
			}
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, identityFile)
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("mode %v, %v", info.Mode(), err)
			}
			if err := tt.damage(path); err != nil {
				t.Fatal(err)
			}
			i, err := NewIdentity(IdentityConfig{Dir: dir, Now: c.clock.Now})
			if err == nil {
				t.Fatal(errors.Join(errors.New("opened"), i.Close()))
			}
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("message: %v", err)
			}
		})
	}
}

// checkIssued holds even against a controller that errs.
func TestAnswersWithOtherCertificatesAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.joined("web1", orders)
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	id := NodeID(testDomain, "web1")
	chain, err := c.authority.IssueSVID(csr, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := i.believed.Load()
	if err := b.checkIssued(chain, id, key, testStart); err != nil {
		t.Error(err)
	}
	if err := b.checkIssued(chain, id, other, testStart); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another key: %v", err)
	}
	if err := b.checkIssued(chain, NodeID(testDomain, "web2"), key, testStart); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another name: %v", err)
	}
	strange := newCluster(t)
	chain, err = strange.authority.IssueSVID(csr, id, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.checkIssued(chain, id, key, testStart); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another root: %v", err)
	}
}
