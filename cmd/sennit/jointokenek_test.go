package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/tpm/tpmtest"
)

func TestJoinTokenEK(t *testing.T) {
	t.Parallel()
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{"join-token", "ek"}, args...))
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run("--tpm", t.TempDir()+"/none"); err == nil || !strings.Contains(err.Error(), "no TPM 2.0 can be used") {
		t.Errorf("a host without a TPM: %q, %v", out, err)
	}
	emulator := tpmtest.Start(t, tpmtest.RSA)
	alone, err := run("--tpm", emulator.Socket)
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(alone) {
		t.Errorf("it printed %q, %v", alone, err)
	}
	structured, err := run("--tpm", emulator.Socket, "-o", "json")
	if err != nil || !strings.Contains(structured, strings.TrimSpace(alone)) || !strings.Contains(structured, `"certified": true`) {
		t.Errorf("it printed %q, %v", structured, err)
	}
}
