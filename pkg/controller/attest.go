package controller

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/jwks"
)

// attestVerifier reads the keys of clouds that the configuration names.
func (c *Controller) attestVerifier() (*attest.Verifier, error) {
	v := new(attest.Verifier)
	if file := c.cfg.AttestAWS; file != "" {
		certificates, err := certificatesOf(file)
		if err != nil {
			return nil, fmt.Errorf("--attest-aws: %w", err)
		}
		v.Amazon = certificates
	}
	if file := c.cfg.AttestAzure; file != "" {
		certificates, err := certificatesOf(file)
		if err != nil {
			return nil, fmt.Errorf("--attest-azure: %w", err)
		}
		v.AzureRoots = x509.NewCertPool()
		for _, certificate := range certificates {
			if string(certificate.RawIssuer) == string(certificate.RawSubject) {
				v.AzureRoots.AddCert(certificate)
			} else {
				v.AzureIntermediates = append(v.AzureIntermediates, certificate)
			}
		}
	}
	if from := c.cfg.AttestGCP; from != "" {
		keys := &googleKeys{from: jwks.Source{URL: from}, now: c.cfg.Now}
		if at, err := url.Parse(from); err == nil && at.Scheme != "" && at.Scheme != "https" {
			return nil, fmt.Errorf("--attest-gcp: %s: keys come by https, or from a file", from)
		}
		v.Google = keys.get
	}
	return v, nil
}

// attestOf reads which machines a document's token admits.
func attestOf(a *api.JoinTokenAttest) (*ca.Attest, error) {
	wanted := &ca.Attest{Provider: attest.Provider(a.Provider), Accounts: a.Accounts, Places: a.Places, TPMs: attest.TPMs{Keys: a.EndorsementKeys}}
	if a.Authorities != "" {
		var err error
		if wanted.TPMs.Authorities, err = attest.ParseCertificates([]byte(a.Authorities)); err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
	}
	return wanted, wanted.Check()
}

// attestDocument is what attestOf has read.
func attestDocument(a *ca.Attest) *api.JoinTokenAttest {
	document := &api.JoinTokenAttest{Provider: string(a.Provider), Accounts: a.Accounts, Places: a.Places, EndorsementKeys: a.TPMs.Keys}
	for _, authority := range a.TPMs.Authorities {
		document.Authorities += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw}))
	}
	return document
}

func certificatesOf(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certificates, err := attest.ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return certificates, nil
}

// googleFresh is how long keys are used without asking again: Google makes new ones known a day before.
const googleFresh = 10 * time.Minute

// googleKeys are Google's, which change every few days. Where they cannot be had anew, evidence is refused: hosts try again.
type googleKeys struct {
	from jwks.Source // its URL may be the name of a file
	now  func() time.Time

	mu    sync.Mutex
	keys  *jose.JSONWebKeySet
	taken time.Time
}

func (g *googleKeys) get() (*jose.JSONWebKeySet, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys != nil && g.now().Sub(g.taken) < googleFresh {
		return g.keys, nil
	}
	data, err := g.read()
	if err != nil {
		return nil, fmt.Errorf("get Google's keys: %w", err)
	}
	keys := &jose.JSONWebKeySet{}
	if err := json.Unmarshal(data, keys); err != nil || len(keys.Keys) == 0 {
		return nil, fmt.Errorf("get Google's keys from %s: %w", g.from.URL, errors.Join(err, errors.New("want a JWK set with keys")))
	}
	g.keys, g.taken = keys, g.now()
	return keys, nil
}

func (g *googleKeys) read() ([]byte, error) {
	if !strings.HasPrefix(g.from.URL, "https://") {
		return os.ReadFile(g.from.URL)
	}
	return jwks.Fetch(context.Background(), g.from) // it bounds its time
}
