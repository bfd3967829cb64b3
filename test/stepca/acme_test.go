package stepca

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	stepacme "github.com/smallstep/certificates/acme"
	"github.com/smallstep/certificates/authority/provisioner"

	"github.com/sennit-mesh/sennit/pkg/upstreamca/acme"
)

// attested makes an intermediate of what a device attested.
const attested = `{
	"subject": {{ toJson .Subject }},
	"keyUsage": ["certSign", "crlSign"],
	"basicConstraints": {"isCA": true, "maxPathLen": 0}
}`

func acmeProvisioner(name string, change func(*provisioner.ACME)) *provisioner.ACME {
	long := &provisioner.Duration{Duration: 100 * 24 * time.Hour}
	p := &provisioner.ACME{
		Type: "ACME", Name: name, Claims: &provisioner.Claims{MaxTLSDur: long, DefaultTLSDur: long},
		Options: &provisioner.Options{X509: &provisioner.X509Options{Template: attested}},
	}
	change(p)
	return p
}

func pemOfKey(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// devices runs a step-ca that certifies what devices under a root attest, and returns how such a device asks it.
func devices(t *testing.T) (*authority, acme.Config) {
	t.Helper()
	maker := &authority{T: t, dir: t.TempDir()}
	root, rootKey := maker.certificate("Example devices", 2, nil, nil)
	device, deviceKey := maker.certificate("controller one", 0, root, rootKey)
	a, cfg := start(t, acmeProvisioner("devices", func(p *provisioner.ACME) {
		p.Challenges = []provisioner.ACMEChallenge{provisioner.DEVICE_ATTEST_01}
		p.AttestationFormats = []provisioner.ACMEAttestationFormat{provisioner.STEP}
		p.AttestationRoots = pemOf(root)
	}), acmeProvisioner("names", func(*provisioner.ACME) {}))
	return a, acme.Config{
		Directory: cfg.URL + "/acme/devices/directory", RootFile: cfg.RootFile, AccountKeyFile: filepath.Join(a.dir, "account.key"),
		Device: &acme.Device{Identifier: "controller-1", CertFile: a.file("device.crt", pemOf(device)), KeyFile: a.file("device.key", pemOfKey(t, deviceKey))},
	}
}

// TestDevice: a device's attestation is what an intermediate is given for, twice with the same account.
func TestDevice(t *testing.T) {
	_, cfg := devices(t)
	a, err := acme.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		csr, key := request(t)
		got, err := a.Certify(context.Background(), csr, key, 90*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := got.Check(&key.PublicKey, "test.local", 89*24*time.Hour, time.Now()); err != nil {
			t.Fatal(err)
		}
		if got.Chain[0].Subject.CommonName != "controller-1" || !got.Chain[0].MaxPathLenZero || len(got.Chain) != 2 {
			t.Errorf("%s, a chain of %d certificates", got.Chain[0].Subject, len(got.Chain))
		}
	}
	info, err := os.Stat(cfg.AccountKeyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the account's key: %v, %v", info, err)
	}
}

// TestWrongDevices are refused by step-ca, and said to be.
func TestWrongDevices(t *testing.T) {
	a, cfg := devices(t)
	stranger, strangerKey := a.certificate("stranger", 2, nil, nil)
	device := func(c *acme.Config, change func(*acme.Device)) {
		one := *c.Device
		change(&one)
		c.Device = &one
	}
	first := cfg.AccountKeyFile
	known, err := acme.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, key := request(t)
	if _, err := known.Certify(context.Background(), csr, key, time.Hour); err != nil { // the account is opened
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*acme.Config)
		want   string
	}{
		"another root": {func(c *acme.Config) {
			device(c, func(d *acme.Device) {
				d.CertFile, d.KeyFile = a.file("stranger.crt", pemOf(stranger)), a.file("stranger.key", pemOfKey(t, strangerKey))
			})
		}, "it is not believed"},
		"a stranger's key": {func(c *acme.Config) {
			device(c, func(d *acme.Device) { d.KeyFile = a.file("stranger.key", pemOfKey(t, strangerKey)) })
		}, "no authority's certificate of the key"},
		"no such provisioner": {func(c *acme.Config) { c.Directory = strings.Replace(c.Directory, "devices", "none", 1) }, "answers 404"},
		"no device attestation": {func(c *acme.Config) {
			c.Directory, c.AccountKeyFile = strings.Replace(c.Directory, "devices", "names", 1), filepath.Join(a.dir, "names.key")
		}, "enable that challenge in its provisioner"},
		"the account of another provisioner": {func(c *acme.Config) {
			c.Directory, c.AccountKeyFile = strings.Replace(c.Directory, "devices", "names", 1), first
		}, "name another accountKeyFile"},
	} {
		one := cfg
		tt.change(&one)
		asked, err := acme.New(one, nil)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err = asked.Certify(context.Background(), csr, key, time.Hour); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, other := request(t)
	// The request is made with the key that is attested, so that one without the other is not to be had.
	got, err := known.Certify(context.Background(), csr, other, 90*24*time.Hour)
	if err != nil || !other.PublicKey.Equal(got.Chain[0].PublicKey) {
		t.Errorf("a request of another key: %v", err)
	}
	if _, err := known.Certify(context.Background(), csr, other, 200*24*time.Hour); err == nil || !strings.Contains(err.Error(), "whose longest time is shorter") {
		t.Errorf("more time than step-ca gives: %v", err)
	}
}

// TestHostName: a host proves its name in HTTP, and where the question finds nobody the authority does not believe it.
func TestHostName(t *testing.T) {
	a, cfg := devices(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if stepacme.InsecurePortHTTP01, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stepacme.InsecurePortHTTP01 = 0 })
	cfg.Directory, cfg.Device = strings.Replace(cfg.Directory, "devices", "names", 1), nil
	cfg.HTTP = &acme.HTTP{Name: "127.0.0.1", Listen: address}
	asked, err := acme.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, key := request(t)
	got, err := asked.Certify(context.Background(), csr, key, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Check(&key.PublicKey, "test.local", 89*24*time.Hour, time.Now()); err != nil {
		t.Error(err)
	}
	again, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal("the port is still in use:", err)
	}
	again.Close()

	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Close()
	cfg.HTTP = &acme.HTTP{Name: "127.0.0.1", Listen: elsewhere.Addr().String()}
	cfg.AccountKeyFile = filepath.Join(a.dir, "another.key") // what an account has proved is believed for a while
	if asked, err = acme.New(cfg, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := asked.Certify(ctx, csr, key, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a name is believed that was not proved, or refused at once: %v", err)
	}
}
