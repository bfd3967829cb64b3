package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	rootKeyPurpose  = "root key of an authority"
	certificateType = "CERTIFICATE"
	requestType     = "SENNIT ROOT REQUEST"
	answerType      = "SENNIT ROOT ANSWER"

	maxRootFile = 256 << 10 // of requests, answers and root files: each root of an authority outside is in an answer twice
	// maxIntermediateLife bounds what an operator lets a controller issue without the root.
	maxIntermediateLife = 2 * 365 * 24 * time.Hour
)

var (
	// ErrRootOffline is returned where the root's key is needed and is kept elsewhere.
	ErrRootOffline = errors.New("the root's key is kept elsewhere")
	// ErrAwaitsRoot is returned for an authority whose root has not signed yet.
	ErrAwaitsRoot = errors.New("the root has not signed this controller's intermediate yet")
)

// An OfflineRoot is a root whose key is in a file of its own, away from every controller.
type OfflineRoot struct {
	Certificate *x509.Certificate
	TrustDomain string
	key         *ecdsa.PrivateKey
}

// NewOfflineRoot makes a root for a cluster, and returns the file that holds it: the certificate, and its key sealed under
// the passphrase.
func NewOfflineRoot(cluster, trustDomain string, passphrase Passphrase, now time.Time) (root *OfflineRoot, file []byte, err error) {
	if err := checkTrustDomain(trustDomain); err != nil {
		return nil, nil, err
	}
	if cluster == "" || len(cluster) > maxClusterName {
		return nil, nil, fmt.Errorf("cluster name %q: want 1 to %d bytes", cluster, maxClusterName)
	}
	certificate, key, err := newOfflineRoot(trustDomain, cluster, now)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	sealed, err := sealSecret(passphrase, rootKeyPurpose, der)
	if err != nil {
		return nil, nil, fmt.Errorf("seal the root's key: %w", err)
	}
	return &OfflineRoot{certificate, trustDomain, key}, append(encodeCertificate(certificate), sealed...), nil
}

// CertificatePEM is what controllers are given of the root.
func (r *OfflineRoot) CertificatePEM() []byte { return encodeCertificate(r.Certificate) }

// OpenOfflineRoot opens the file of NewOfflineRoot.
func OpenOfflineRoot(file []byte, passphrase Passphrase) (*OfflineRoot, error) {
	certificate, err := ParseRoot(file)
	if err != nil {
		return nil, err
	}
	der, err := openSecret(passphrase, rootKeyPurpose, file)
	if err != nil {
		return nil, fmt.Errorf("open the root's key: %w", err)
	}
	certificate, key, err := parsePair(certificate.Raw, der)
	if err != nil {
		return nil, fmt.Errorf("%w: root: %w", ErrCorrupt, err)
	}
	return &OfflineRoot{certificate, certificate.URIs[0].Host, key}, nil
}

// ParseRoot reads a root's certificate, PEM.
func ParseRoot(file []byte) (*x509.Certificate, error) {
	block, err := decodePEM(file, certificateType)
	if err != nil {
		return nil, err
	}
	return parseRoot(block)
}

func parseRoot(der []byte) (*x509.Certificate, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read a root's certificate: %w", err)
	}
	if !certificate.IsCA || len(certificate.URIs) != 1 || certificate.CheckSignatureFrom(certificate) != nil {
		return nil, errors.New("read a root's certificate: it is none that `sennit ca init --offline-root` made")
	}
	return certificate, nil
}

// A Request is what a controller asks a root, for people to compare.
type Request struct {
	Cluster, TrustDomain, Controller string
	Fingerprint                      string // of all of it
	// Agreed is the other root that whoever signs agrees to, where there is one (OfflineRoot.Other): the root that is named
	// as successor, or that stays trusted beside the one that signs. It comes from elsewhere than the request.
	Agreed *x509.Certificate
	// AgreedOutside are the roots of authorities outside that whoever signs agrees to (OutsideRoots). They come from elsewhere too.
	AgreedOutside []*x509.Certificate

	message *RootRequest
	raw     []byte
}

// ParseRequest reads a request, PEM. Whoever carried it can have changed it: the fingerprint must be the one that the
// controller showed.
func ParseRequest(file []byte) (*Request, error) {
	raw, err := decodePEM(file, requestType)
	if err != nil {
		return nil, err
	}
	message := &RootRequest{}
	if err := proto.Unmarshal(raw, message); err != nil {
		return nil, fmt.Errorf("read a controller's request: %w", err)
	}
	return &Request{
		Cluster: message.GetCluster(), TrustDomain: message.GetTrustDomain(), Controller: message.GetController(),
		Fingerprint: requestFingerprint(raw), message: message, raw: raw,
	}, nil
}

// Roots are the fingerprints of the root that is asked, of the one that is to follow on it, and of the one before it that is
// still trusted; "" where there is none.
func (r *Request) Roots() (root, next, old string) {
	var names [3]string
	for n, der := range [][]byte{r.message.GetRoot(), r.message.GetNextRoot(), r.message.GetOldRoot()} {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			names[n] = RootFingerprint(certificate)
		}
	}
	return names[0], names[1], names[2]
}

// SigningKeys are the ids of the key of configuration that rosters may list, and of the one before it that is still believed;
// "" where there is none.
func (r *Request) SigningKeys() (key, old string) {
	if r.message.GetOldSigningKey() != nil {
		old = snapshot.SigningKeyID(r.message.GetOldSigningKey())
	}
	return snapshot.SigningKeyID(r.message.GetSigningKey()), old
}

// NextPEM is the certificate of the root that is to follow.
func (r *Request) NextPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: r.message.GetNextRoot()})
}

func requestFingerprint(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

// Sign answers a request: a certificate of the controller's intermediate that lives so long, and a word that lets the
// controller sign rosters with its own signing key and this root in them. Where the request is for another root to follow
// on this one, it is named as the successor in the place of the certificate. life is at most two years; 0 is 90 days.
func (r *OfflineRoot) Sign(request *Request, life time.Duration, now time.Time) ([]byte, error) {
	m := request.message
	if life == 0 {
		life = intermediateLife
	}
	other, succeeds, err := r.other(m)
	switch {
	case err != nil:
		return nil, fmt.Errorf("sign: %w", err)
	case life < minTTL || life > maxIntermediateLife:
		return nil, fmt.Errorf("sign: an intermediate that lives %s: want between %s and %s", life, minTTL, maxIntermediateLife)
	case m.GetTrustDomain() != r.TrustDomain:
		return nil, fmt.Errorf("sign: the request is of trust domain %q, and the root of %q", m.GetTrustDomain(), r.TrustDomain)
	case len(m.GetSigningKey()) != ed25519.PublicKeySize, m.GetOldSigningKey() != nil && len(m.GetOldSigningKey()) != ed25519.PublicKeySize, m.GetDelegation() == 0:
		return nil, errors.New("sign: the request is not one that `sennit ca request` made")
	case other != nil && (request.Agreed == nil || !request.Agreed.Equal(other)):
		return nil, fmt.Errorf("sign: %w: %s", ErrNotAgreed, RootFingerprint(other))
	}
	if err := request.checkOutside(); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	key, err := parseCSR(m.GetCsr())
	if err != nil {
		return nil, fmt.Errorf("sign: intermediate: %w", err)
	}
	rosterKey, err := parseCSR(m.GetRosterCsr())
	if err != nil {
		return nil, fmt.Errorf("sign: key of the roster: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(rosterKey)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	hash := sha256.Sum256(request.raw)
	answer := &RootAnswer{RequestHash: hash[:]}
	delegation := &snapshot.Delegation{
		Cluster: m.GetCluster(), Number: m.GetDelegation(), PublicKey: public,
		Roots: append([][]byte{r.Certificate.Raw}, m.GetOutsideRoots()...),
		Keys:  []*snapshot.SigningKey{listed(m.GetSigningKey())},
	}
	if succeeds {
		err = r.succeed(answer, delegation, other, now)
	} else {
		template := caTemplate(r.TrustDomain, m.GetCluster()+" "+m.GetController(), 0, now, life)
		err = r.certify(answer, delegation, template, key, other, m.GetOldSigningKey())
	}
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	raw, err := proto.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return encodeAnswer(raw), nil
}

// listed is a signing key as rosters list it.
func listed(public []byte) *snapshot.SigningKey {
	return &snapshot.SigningKey{Id: snapshot.SigningKeyID(public), Ed25519: public}
}

func encodeAnswer(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: answerType, Bytes: raw})
}

// RootPEM is a root's certificate as ParseRoot reads it.
func RootPEM(root *x509.Certificate) []byte { return encodeCertificate(root) }

func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: certificate.Raw})
}

// decodePEM returns the first block of a type.
func decodePEM(file []byte, want string) ([]byte, error) {
	if len(file) > maxRootFile {
		return nil, fmt.Errorf("a file of %d bytes: at most %d", len(file), maxRootFile)
	}
	for rest := file; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, fmt.Errorf("the file holds no %q", want)
		}
		if block.Type == want {
			return block.Bytes, nil
		}
	}
}
