package attest

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// A Verifier has the keys that clouds publish. What is nil or empty is of a cloud whose evidence is refused. It is safe
// for concurrent use, and its fields do not change.
type Verifier struct {
	// Amazon's certificates for RSA-2048 signatures, one for each region
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/regions-certs.html). They are trusted as they are.
	Amazon []*x509.Certificate
	// Google are the keys of https://www.googleapis.com/oauth2/v3/certs at this moment: they change every few days.
	Google func() (*jose.JSONWebKeySet, error)
	// AzureRoots and AzureIntermediates are the authorities that Azure publishes for "metadata.azure.com" and
	// "metadata.azure.us". Documents come without the intermediates.
	AzureRoots         *x509.CertPool
	AzureIntermediates []*x509.Certificate
}

// Has reports whether there are keys of a cloud.
func (v *Verifier) Has(provider Provider) bool {
	switch provider {
	case Amazon:
		return len(v.Amazon) > 0
	case Google:
		return v.Google != nil
	case Azure:
		return v.AzureRoots != nil
	}
	return false
}

var errNoKeys = errors.New("the controller has no keys of this cloud; give it those that the cloud publishes")

// ParseCertificates reads all certificates of a PEM file.
func ParseCertificates(file []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q among certificates", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return all, nil
}
