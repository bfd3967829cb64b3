package settings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpen: what is wrong with a file is said, and nobody is asked for it.
func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.crt")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	step := func(url, more string) string {
		return "stepCA: {url: '" + url + "', rootFile: " + root + ", provisioner: sennit, keyFile: key.jwk" + more + "}\n"
	}
	for name, tt := range map[string]struct{ text, want string }{
		"step-ca":           {step("https://ca.example.com/", ""), ""},
		"nothing":           {"{}", "it names 0 authorities"},
		"unknown kind":      {"easyCA: {}", "field easyCA not found"},
		"unknown field":     {step("https://ca.example.com", ", password: secret"), "field password not found"},
		"not encrypted":     {step("http://ca.example.com", ""), "want https://"},
		"a user in the URL": {step("https://me@ca.example.com", ""), "want https://"},
		"no provisioner":    {"stepCA: {url: https://ca.example.com, rootFile: " + root + "}", "want rootFile, provisioner and keyFile"},
		"no root":           {strings.Replace(step("https://ca.example.com", ""), "root.crt", "none.crt", 1), "rootFile"},
	} {
		file := filepath.Join(dir, "upstream.yaml")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Open(file, nil)
		switch {
		case tt.want == "" && (err != nil || a.String() != "step-ca https://ca.example.com"):
			t.Errorf("%s: %v, %v", name, a, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s: %v", name, err)
		}
	}
}
