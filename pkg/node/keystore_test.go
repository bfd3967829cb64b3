package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/tpm/tpmtest"
)

func TestKeyStores(t *testing.T) {
	if _, err := LoadConfig([]string{"--key-store", "disk"}, nil); err == nil || !strings.Contains(err.Error(), "file, tpm or auto") {
		t.Error(err)
	}
	keys := func(flags ...string) bool {
		t.Helper()
		cfg, err := LoadConfig(flags, nil)
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{cfg: cfg, log: slog.New(slog.DiscardHandler)}
		_, keys := n.device()
		return keys
	}
	none := filepath.Join(t.TempDir(), "none")
	if keys("--tpm", none) || keys("--key-store", "file") || keys("--key-store", "auto", "--tpm", none) || !keys("--key-store", "tpm", "--tpm", none) {
		t.Error("keys are made elsewhere than was said")
	}
	if socket := tpmtest.Start(t, tpmtest.Bare).Socket; !keys("--key-store", "auto", "--tpm", socket) || keys("--tpm", socket) {
		t.Error("with a TPM, keys are made elsewhere than was said")
	}
}

func TestJoinTokensFromSystemd(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	joins := func(want string, env []string, args ...string) {
		t.Helper()
		if cfg, err := LoadConfig(args, env); err != nil || cfg.Join != want {
			t.Errorf("join %q (%v), want %q", cfg.Join, err, want)
		}
	}
	joins("", nil)
	if err := os.WriteFile(filepath.Join(dir, joinCredentialName), []byte("given\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	joins("given", nil)
	joins("said", []string{"SENNIT_JOIN_TOKEN=said"})
	joins("flag", []string{"SENNIT_JOIN_TOKEN=said"}, "--join", "flag")
}
