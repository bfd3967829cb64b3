package tpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

// Now is a time at which what a Maker certifies is good.
var Now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// A Maker of TPMs certifies their endorsement keys.
type Maker struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewMaker makes one.
func NewMaker(t testing.TB) *Maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m := &Maker{key: key}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "maker of TPMs"}, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	m.Certificate = m.sign(t, template, template, key.Public())
	return m
}

// Certify certifies an endorsement key, as TCG's profile has it: without a name, and with the TPM's model in a critical
// extension.
func (m *Maker) Certify(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	return m.CertifyAs(t, key, asn1.ObjectIdentifier{2, 23, 133, 8, 1})
}

// CertifyAs is Certify for another use of the key.
func (m *Maker) CertifyAs(t testing.TB, key crypto.PublicKey, use asn1.ObjectIdentifier) []byte {
	t.Helper()
	model, err := asn1.Marshal(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:00000000"}, {Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "model"},
	}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: model}})
	if err != nil {
		t.Fatal(err)
	}
	return m.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(10, 0, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageKeyEncipherment, UnknownExtKeyUsage: []asn1.ObjectIdentifier{use},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: names}},
	}, m.Certificate, key).Raw
}

func (m *Maker) sign(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, m.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
