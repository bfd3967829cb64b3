package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var testStart = time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)

const testDomain = "mesh.example.com"

func authorityConfig(t testing.TB) AuthorityConfig {
	return AuthorityConfig{
		Dir: t.TempDir(), Cluster: "test", TrustDomain: testDomain, Name: "c1",
		Now: func() time.Time { return testStart },
	}
}

func openAuthority(t testing.TB, cfg AuthorityConfig) *Authority {
	t.Helper()
	a, err := NewAuthority(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func csrFor(t testing.TB) []byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func rootsOf(a *Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Root())
	return pool
}

func TestAuthorityIssuesSVIDs(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	var issued []Issued
	cfg.Issued = func(i Issued) { issued = append(issued, i) }
	a := openAuthority(t, cfg)
	id := ServiceID(testDomain, exchange.ServiceName{Namespace: "default", Name: "orders"})
	if id != "spiffe://mesh.example.com/ns/default/svc/orders" {
		t.Errorf("service's SPIFFE ID is %s", id)
	}
	ders, err := a.IssueSVID(csrFor(t), id, 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := parseChain(ders)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	got, err := verifyChain(chain, rootsOf(a), testDomain, testStart)
	if err != nil || got.String() != id {
		t.Errorf("verifies as %s: %v", got, err)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 {
		t.Errorf("not an X.509-SVID: CA %v, usage %v, URIs %v", leaf.IsCA, leaf.KeyUsage, leaf.URIs)
	}
	if want := testStart.Add(DefaultTTL); !leaf.NotAfter.Equal(want) {
		t.Errorf("ends %v, want the configured maximum %v", leaf.NotAfter, want)
	}
	if want := testStart.Add(-backdate); !leaf.NotBefore.Equal(want) {
		t.Errorf("begins %v, want %v", leaf.NotBefore, want)
	}
	if len(issued) != 1 || issued[0].Serial != serialOf(leaf) || issued[0].SPIFFEID != id {
		t.Errorf("told of %v", issued)
	}
	recorded := 0
	if err := a.IssuedTo(func(i Issued) error { recorded++; return nil }); err != nil || recorded != 1 {
		t.Errorf("recorded %d (%v)", recorded, err)
	}
	if _, err := a.IssueSVID(csrFor(t), "spiffe://other.example.com/ns/a/svc/b", 0); err == nil {
		t.Error("issued for another trust domain")
	}
	if _, err := a.IssueSVID(csrFor(t), "spiffe://"+testDomain, 0); err == nil {
		t.Error("issued for the trust domain itself")
	}
}

func TestAuthorityRefusesCSRs(t *testing.T) {
	t.Parallel()
	a := openAuthority(t, authorityConfig(t))
	good := csrFor(t)
	altered := bytes.Clone(good)
	altered[len(altered)-1] ^= 1
	for name, csr := range map[string][]byte{"altered": altered, "empty": nil, "long": make([]byte, maxCSR+1)} {
		if _, err := a.IssueSVID(csr, NodeID(testDomain, "web1"), 0); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

// A root that leaks into another use cannot speak for another trust domain.
func TestNameConstraintsBind(t *testing.T) {
	t.Parallel()
	a := openAuthority(t, authorityConfig(t))
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template, err := leafTemplate("spiffe://other.example.com/ns/a/svc/b", "", testStart, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.intermediate, &key.PublicKey, a.intermediateKey)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := parseChain([][]byte{der, a.intermediate.Raw})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifyChain(chain, rootsOf(a), "other.example.com", testStart); err == nil || !strings.Contains(err.Error(), "permitted") {
		t.Errorf("verified for another trust domain: %v", err)
	}
}

func TestVerifyChainFollowsSPIFFE(t *testing.T) {
	t.Parallel()
	a := openAuthority(t, authorityConfig(t))
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	id := "spiffe://" + testDomain + "/ns/default/svc/orders"
	for _, tt := range []struct {
		name   string
		change func(*x509.Certificate)
		at     time.Duration
		ok     bool
	}{
		{"as issued", func(*x509.Certificate) {}, 0, true},
		{"two URIs", func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(id+"2")) }, 0, false},
		{"no URI", func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"orders"} }, 0, false},
		{"no SPIFFE ID", func(c *x509.Certificate) { c.URIs = []*url.URL{uri("https://" + testDomain + "/a")} }, 0, false},
		{"an authority", func(c *x509.Certificate) { c.IsCA = true }, 0, false},
		{"signs certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, 0, false},
		{"signs revocations", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, 0, false},
		{"no signatures", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, 0, false},
		{"expired", func(*x509.Certificate) {}, 2 * time.Hour, false},
		{"not yet valid", func(*x509.Certificate) {}, -time.Hour, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			template, err := leafTemplate(id, "", testStart, time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			template.Subject = pkix.Name{CommonName: "x"}
			tt.change(template)
			der, err := x509.CreateCertificate(rand.Reader, template, a.intermediate, &key.PublicKey, a.intermediateKey)
			if err != nil {
				t.Fatal(err)
			}
			chain, err := parseChain([][]byte{der, a.intermediate.Raw})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := verifyChain(chain, rootsOf(a), testDomain, testStart.Add(tt.at)); (err == nil) != tt.ok {
				t.Errorf("verified: %v", err)
			}
		})
	}
}

func TestAuthorityIsTheSameAfterReopening(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	first := openAuthority(t, cfg)
	hash, signer := first.RootHash(), first.Signer().ID
	if _, err := first.UpdateRoster(func(r *snapshot.Roster) { r.RevokedSerials = []string{"ab"} }); err != nil {
		t.Fatal(err)
	}
	if err := first.PutSecret("bus", []byte("accounts")); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := openAuthority(t, cfg)
	if again.RootHash() != hash || again.Signer().ID != signer {
		t.Error("another root or signing key")
	}
	roster, err := snapshot.OpenRoster("test", hash, again.Roster())
	if err != nil || roster.GetSerial() != 2 || len(roster.GetRevokedSerials()) != 1 {
		t.Errorf("roster %v: %v", roster, err)
	}
	if secret, err := again.Secret("bus"); err != nil || string(secret) != "accounts" {
		t.Errorf("secret %q: %v", secret, err)
	}
	data, err := os.ReadFile(filepath.Join(cfg.Dir, dbFile))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("accounts")) {
		t.Error("a secret is on disk in the clear")
	}
}

// fullDB is a file that takes nothing more, as on a full disk: transactions run, and their commits fail.
func fullDB(t *testing.T) *bbolt.DB {
	t.Helper()
	path := filepath.Join(t.TempDir(), "full.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucketKeys)
		_, err2 := tx.CreateBucket(bucketIssued)
		return errors.Join(err, err2)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{OpenFile: func(name string, _ int, mode os.FileMode) (*os.File, error) {
		return os.OpenFile(name, os.O_RDONLY, mode)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestAuthorityRenewsItsIntermediate(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	now := testStart
	cfg.Now = func() time.Time { return now }
	var told []string
	cfg.Issued = func(i Issued) { told = append(told, i.SPIFFEID) }
	a := openAuthority(t, cfg)
	old, err := a.IssueSVID(csrFor(t), NodeID(testDomain, "web1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(intermediateLife/2 + time.Hour)
	// One that could not be stored is used for nothing: it would be gone after a restart.
	stored := a.db
	a.db = fullDB(t)
	before := a.intermediate
	if _, err := a.IssueSVID(csrFor(t), NodeID(testDomain, "web1"), 0); err == nil || a.intermediate != before {
		t.Errorf("issued by an intermediate that was not stored: %v", err)
	}
	a.db = stored
	ders, err := a.IssueSVID(csrFor(t), NodeID(testDomain, "web1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(old[1], ders[1]) {
		t.Fatal("still the intermediate of the start")
	}
	node := NodeID(testDomain, "web1")
	if want := []string{node, "spiffe://" + testDomain, node}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	chain, err := parseChain(ders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifyChain(chain, rootsOf(a), testDomain, now); err != nil {
		t.Error(err)
	}
}

func TestAuthorityFilesThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string) error
		is     error
		says   string
	}{
		{"file that others read", func(t *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, dbFile), 0o644) }, ErrPermissions, "chmod 600"},
		{"key that others read", func(t *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, keyFile), 0o640) }, ErrPermissions, "chmod 600"},
		{"no key", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, keyFile)) }, os.ErrNotExist, "backup"},
		{"another key", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, keyFile), bytes.Repeat([]byte("k"), 32), 0o600)
		}, ErrCorrupt, "backup"},
		{"no file, but its key", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, dbFile)) }, nil, "backup"},
		{"not a database", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, dbFile), bytes.Repeat([]byte("x"), 1<<15), 0o600)
		}, ErrCorrupt, "backup"},
		{"cut file", func(t *testing.T, dir string) error { return os.Truncate(filepath.Join(dir, dbFile), 3*4096) }, ErrCorrupt, "backup"},
		{"zeroed pages", func(t *testing.T, dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, dbFile), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(make([]byte, 64<<10), 2*4096)
			return errors.Join(err, f.Close())
		}, ErrCorrupt, "backup"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := authorityConfig(t)
			if err := openAuthority(t, cfg).Close(); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(t, cfg.Dir); err != nil {
				t.Fatal(err)
			}
			a, err := NewAuthority(cfg)
			if err == nil {
				t.Fatal(errors.Join(errors.New("opened"), a.Close()))
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), cfg.Dir) {
				t.Errorf("message: %v", err)
			}
		})
	}
}

func TestAuthorityIsOpenOnce(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	openAuthority(t, cfg)
	if _, err := NewAuthority(cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	cfg.Cluster = "other"
	if _, err := NewAuthority(cfg); err == nil {
		t.Error("opened as another cluster")
	}
}

func TestFirstStartThatWasCutShort(t *testing.T) {
	t.Parallel()
	cfg := authorityConfig(t)
	a := openAuthority(t, cfg)
	hash := a.RootHash()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Dir, keyFile)
	if err := os.Rename(path, path+".new"); err != nil { // as if it had ended before the key was put in its place
		t.Fatal(err)
	}
	if openAuthority(t, cfg).RootHash() != hash {
		t.Error("another root")
	}
}

func TestSystemdCredentialSeals(t *testing.T) {
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if err := os.WriteFile(filepath.Join(credentials, CredentialName), bytes.Repeat([]byte("s"), 40), 0o440); err != nil {
		t.Fatal(err)
	}
	cfg := authorityConfig(t)
	a := openAuthority(t, cfg)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, keyFile)); err == nil {
		t.Error("a key file beside the credential")
	}
	openAuthority(t, cfg)
}
