package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/acme"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// A Device attests keys that it made (draft-ietf-acme-device-attest), in the format "step": a certificate of the key, which
// names the device and hangs on a root that the authority knows. A security key does so by itself; this one is a key in a
// file, so that whoever reads the file is the device.
type Device struct {
	// Identifier is the device's permanent identifier, and becomes the intermediate's common name.
	Identifier string `yaml:"identifier"`
	// CertFile has the certificate of the key that attests, one of an authority's kind, and what leads to the root, in PEM.
	CertFile string `yaml:"certFile"`
	// KeyFile has its key (PKCS #8 in PEM), of mode 0600.
	KeyFile string `yaml:"keyFile"`
}

// managedDevice is the extension by which step-ca finds the identifier in a certificate that attests.
var managedDevice = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}

// attestationLives is how long what attests a key is good, and clockSkew how far the authority's clock may be behind.
const (
	attestationLives = 10 * time.Minute
	clockSkew        = 5 * time.Minute
)

// answerDevice puts into a challenge that its token was signed by the intermediate's key, and that this device has that key.
func (a *Authority) answerDevice(client *acme.Client, challenge *acme.Challenge, key crypto.Signer) (end func(), err error) {
	chain, err := a.attest(key.Public())
	if err != nil {
		return nil, err
	}
	words, err := client.HTTP01ChallengeResponse(challenge.Token) // the key authorization, RFC 8555 §8.1
	if err != nil {
		return nil, err
	}
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("a %T cannot be attested: want ECDSA", key.Public())
	}
	sum := sha256.Sum256([]byte(words))
	signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if signature, err = cbor.Marshal(signature); err != nil {
		return nil, err
	}
	object, err := cbor.Marshal(struct {
		Format    string         `cbor:"fmt"`
		Statement map[string]any `cbor:"attStmt"`
	}{"step", map[string]any{"alg": -7, "x5c": chain, "sig": signature}}) // ES256 of COSE
	if err != nil {
		return nil, err
	}
	challenge.Payload, err = json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(object)})
	return func() {}, err
}

// attest makes a certificate of a key that names the device, with those that lead to its root.
func (a *Authority) attest(key crypto.PublicKey) (chain [][]byte, err error) {
	device := a.cfg.Device
	text, err := os.ReadFile(device.CertFile)
	if err != nil {
		return nil, fmt.Errorf("certFile: %w", err)
	}
	above, err := upstreamca.Certificates(string(text))
	if err != nil {
		return nil, fmt.Errorf("certFile %s: %w", device.CertFile, err)
	}
	secret, err := upstreamca.ReadSecret(device.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("keyFile: %w", err)
	}
	by, err := privateKey(device.KeyFile, secret)
	if err != nil {
		return nil, fmt.Errorf("keyFile: %w", err)
	}
	if public, ok := above[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(by.Public()) || !above[0].IsCA {
		return nil, errors.New("certFile begins with no authority's certificate of the key in keyFile")
	}
	named, err := asn1.Marshal(struct {
		DeviceID string `asn1:"utf8"`
	}{device.Identifier})
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := a.now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: device.Identifier},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(attestationLives), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{Id: managedDevice, Value: named}},
	}, above[0], key, by)
	if err != nil {
		return nil, err
	}
	chain = [][]byte{der}
	for _, one := range above {
		chain = append(chain, one.Raw)
	}
	return chain, nil
}
