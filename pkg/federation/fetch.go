package federation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// fetchTime bounds one fetch, from the dial to the last byte.
const fetchTime = 30 * time.Second

// Bounds of what one bundle may hold.
const (
	maxRoots   = 32
	maxJWTKeys = 64
)

// An endpoint is where a trust domain serves its bundle.
type endpoint struct {
	domain spiffeid.TrustDomain
	url    string
	id     spiffeid.ID // zero: the host's name is verified, by roots
	roots  *x509.CertPool
}

// fetch asks an endpoint for the bundle of its trust domain. believed says whose certificates verify the endpoint, where
// it has a SPIFFE ID.
func (e endpoint) fetch(ctx context.Context, believed x509bundle.Source) (*spiffebundle.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.roots}
	if !e.id.IsZero() {
		config = tlsconfig.TLSClientConfig(believed, tlsconfig.AuthorizeID(e.id))
	}
	client := http.Client{
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, ForceAttemptHTTP2: true},
		// Whoever is redirected to has shown nothing.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects elsewhere: name that address")
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, api.MaxTrustBundle+1))
	if err != nil {
		return nil, err
	}
	return parse(e.domain, data)
}

// parse reads a bundle that an endpoint served, or an operator wrote. An empty one, which would take back all trust by a
// mistake of the other side's, is refused.
func parse(domain spiffeid.TrustDomain, data []byte) (*spiffebundle.Bundle, error) {
	if len(data) > api.MaxTrustBundle {
		return nil, fmt.Errorf("its bundle has more than %d bytes", api.MaxTrustBundle)
	}
	bundle, err := spiffebundle.Parse(domain, data)
	if err != nil {
		return nil, err
	}
	for id, key := range bundle.JWTAuthorities() {
		if _, err := x509.MarshalPKIXPublicKey(key); err != nil { // a symmetric key, that would verify what anybody signs with it
			bundle.RemoveJWTAuthority(id)
		}
	}
	switch roots, keys := len(bundle.X509Authorities()), len(bundle.JWTAuthorities()); {
	case roots+keys == 0:
		return nil, errors.New("its bundle holds no key")
	case roots > maxRoots || keys > maxJWTKeys:
		return nil, fmt.Errorf("its bundle holds %d roots and %d keys of JWT-SVIDs, more than %d and %d", roots, keys, maxRoots, maxJWTKeys)
	}
	return bundle, nil
}
