package ca

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzCSR: whatever a node sends as a request for a certificate, what is issued is of the name that the registry has.
func FuzzCSR(f *testing.F) {
	a := openAuthority(f, authorityConfig(f))
	f.Add(csrFor(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		id := ServiceID(testDomain, orders)
		chain, err := a.IssueSVID(csr, id, time.Hour)
		if err != nil {
			return
		}
		certificates, err := parseChain(chain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := verifyChain(certificates, rootsOf(a), testDomain, testStart); err != nil || got.String() != id {
			t.Errorf("issued %s: %v", got, err)
		}
		if leaf := certificates[0]; leaf.IsCA || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0 {
			t.Errorf("issued %+v", leaf)
		}
	})
}

// FuzzPeerChain: whatever a peer shows, it is believed only where a root signed it. The processes that fuzz share the
// chain of testdata, which an authority issued at testStart: leaf, intermediate, root.
func FuzzPeerChain(f *testing.F) {
	file, err := os.ReadFile(filepath.Join("testdata", "chain.pem"))
	if err != nil {
		f.Fatal(err)
	}
	var chain [][]byte
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	certificates, err := parseChain(chain)
	if err != nil || len(certificates) != 3 {
		f.Fatalf("%d certificates, %v", len(certificates), err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificates[2])
	if _, err := verifyChain(certificates[:2], roots, testDomain, testStart); err != nil {
		f.Fatal(err)
	}
	issued := string(chain[0])
	f.Add(chain[0], chain[1])
	f.Add(chain[0], chain[2])
	f.Add(chain[1], chain[2])
	f.Add(chain[2], []byte{})
	f.Fuzz(func(t *testing.T, leaf, intermediate []byte) {
		certificates := make([]*x509.Certificate, 0, 2)
		for _, der := range [][]byte{leaf, intermediate} {
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				continue
			}
			certificates = append(certificates, certificate)
		}
		id, err := verifyChain(certificates, roots, testDomain, testStart)
		if err != nil {
			return
		}
		if service, ok := serviceOf(id); !ok || service != orders || string(certificates[0].Raw) != issued {
			t.Errorf("believed to be %s", id)
		}
	})
}

// FuzzRootFiles: what is carried between a root and a controller is read or refused, and only the root's answer is taken.
func FuzzRootFiles(f *testing.F) {
	root, file, err := NewOfflineRoot("test", testDomain, fixed("correct horse battery"), testStart)
	if err != nil {
		f.Fatal(err)
	}
	a, err := AwaitRoot(authorityConfig(f), root.Certificate)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = a.Close() })
	request, err := a.Request()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Add(root.CertificatePEM())
	f.Add(file)
	stranger, err := strangersAnswer(f)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stranger)
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRoot(data); err == nil && len(r.URIs) != 1 {
			t.Error("a root without a trust domain")
		}
		if r, err := ParseRequest(data); err == nil && r.Fingerprint == "" {
			t.Error("a request without a fingerprint")
		}
		if err := a.Accept(data); err == nil {
			t.Error("an answer that the root did not give is taken")
		}
	})
}

// strangersAnswer is the answer of another root to somebody else.
func strangersAnswer(f *testing.F) ([]byte, error) {
	root, _, err := NewOfflineRoot("test", testDomain, fixed("correct horse battery"), testStart)
	if err != nil {
		return nil, err
	}
	a, err := AwaitRoot(authorityConfig(f), root.Certificate)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	file, err := a.Request()
	if err != nil {
		return nil, err
	}
	request, err := ParseRequest(file)
	if err != nil {
		return nil, err
	}
	return root.Sign(request, 0, testStart)
}
