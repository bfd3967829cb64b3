package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"time"
)

// MaxAuthorities is how many certificates of makers of TPMs a token can name.
const MaxAuthorities = 64

// TPMs says which TPMs are ours. One of the two is given.
type TPMs struct {
	Keys        []string            // EndorsementHash of each
	Authorities []*x509.Certificate // that certified the endorsement keys; trusted as they are
}

var (
	// What an endorsement key's certificate is for (TCG EK Credential Profile §3.2.14): authorities issue others too.
	forEndorsement = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	// The TPM's maker and model stand there, as a name that crypto/x509 does not know.
	subjectAlternative = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Accept returns the machine of an endorsement key that is one of ours. It does not prove that the host has it: who knows
// a machine can send its public key and certificate. An error wraps ErrEvidence.
func (t *TPMs) Accept(e *Endorsement, now time.Time) (*Instance, error) {
	if _, err := parseTPMKey(e.Key); err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	instance := TPMInstance(e.Key)
	if len(t.Keys) > 0 {
		if !slices.Contains(t.Keys, EndorsementHash(e.Key)) {
			return nil, refused("the token is not for the TPM of %s, whose endorsement key is %s", instance.Name(), EndorsementHash(e.Key))
		}
		return instance, nil
	}
	if err := t.verify(e, now); err != nil {
		return nil, fmt.Errorf("certificate of the endorsement key of %s: %w", instance.Name(), err)
	}
	return instance, nil
}

func (t *TPMs) verify(e *Endorsement, now time.Time) error {
	if len(e.Certificate) == 0 || len(e.Certificate) > MaxCertificate {
		return refused("it has %d bytes", len(e.Certificate))
	}
	certificate, err := x509.ParseCertificate(e.Certificate)
	if err != nil {
		return refused("%w", err)
	}
	if !bytes.Equal(certificate.RawSubjectPublicKeyInfo, e.Key) {
		return refused("it is of another key")
	}
	if !slices.ContainsFunc(certificate.UnknownExtKeyUsage, forEndorsement.Equal) {
		return refused("it is not for endorsement keys")
	}
	certificate.UnhandledCriticalExtensions = slices.DeleteFunc(certificate.UnhandledCriticalExtensions, subjectAlternative.Equal)
	roots := x509.NewCertPool()
	for _, authority := range t.Authorities {
		roots.AddCert(authority)
	}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return refused("%w", err)
	}
	return nil
}
