package ca

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	dbFile         = "ca.db"
	maxClusterName = 253
)

var (
	bucketKeys   = []byte("keys")   // sealed, by purpose
	bucketIssued = []byte("issued") // expiry and serial → IssuedRecord
)

// The purposes of sealed values, which are also their keys in the bucket.
const (
	purposeRootKey          = "root key"
	purposeRoot             = "root certificate"
	purposeIntermediateKey  = "intermediate key"
	purposeIntermediate     = "intermediate certificate"
	purposeSigning          = "signing key"
	purposeRoster           = "roster"
	purposeCluster          = "cluster"
	purposeState            = "state"
	purposeSecretPrefix     = "secret: "
	maxSecret               = 1 << 20
	intermediateRenewalPart = 2 // renewed past 1/2 of its life
)

// AuthorityConfig says where an authority lives and what it is called.
type AuthorityConfig struct {
	Dir         string           // of ca.db and ca.key; made with mode 0700 where it is missing
	Cluster     string           // at most 253 bytes
	TrustDomain string           // a DNS name
	Name        string           // of this controller, a DNS label
	MaxTTL      time.Duration    // of certificates; 0: DefaultTTL
	KeyFile     string           // that ca.db is sealed under; empty: ca.key in Dir
	Passphrase  Passphrase       // that the key file is sealed under; nil: it is not, and its mode protects it
	Now         func() time.Time // nil: time.Now
	// Issued is told of each certificate once it is recorded, before it is handed out, and of an intermediate that was
	// renewed by itself, whose SPIFFE ID is the trust domain's; nil: nobody is. It may be called concurrently.
	Issued func(Issued)
}

// An Authority issues the certificates of one cluster and signs its roster. Its keys are in ca.db, sealed
// under ca.key or systemd's credential; both files are needed to restore it. It is safe for concurrent use.
//
// NOTHING IT RETURNS WAS NOT RECORDED FIRST: a certificate that is not in ca.db does not exist.
type Authority struct {
	cfg    AuthorityConfig
	db     *bbolt.DB
	sealer *sealer

	// issuing is held for reading from signing until what was signed is recorded, and for writing where the holding is
	// replaced: what an intermediate signed is on record when another takes its place. Inside it is mu.
	issuing sync.RWMutex
	mu      sync.Mutex
	holding

	jwtMu   sync.Mutex
	jwtKeys []jwtKey // nil: not read yet; never changed, only replaced
}

// NewAuthority opens the authority in cfg.Dir, and makes it with a new root where there is none. The
// caller closes it. Errors name the file and the remedy: ErrCorrupt, ErrPermissions, ErrInUse.
func NewAuthority(cfg AuthorityConfig) (*Authority, error) {
	return openAuthorityFile(cfg, func(a *Authority) error { return a.load(nil, false) })
}

// openAuthorityFile opens the file in cfg.Dir, or makes it, and lets load read it.
func openAuthorityFile(cfg AuthorityConfig, load func(*Authority) error) (*Authority, error) {
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = DefaultTTL
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Issued == nil {
		cfg.Issued = func(Issued) {}
	}
	if err := checkTrustDomain(cfg.TrustDomain); err != nil {
		return nil, err
	}
	if !exchange.IsLabel(cfg.Name) {
		return nil, fmt.Errorf("controller name %q: want a-z, 0-9 and \"-\"", cfg.Name)
	}
	if cfg.Cluster == "" || len(cfg.Cluster) > maxClusterName {
		return nil, fmt.Errorf("cluster name %q: want 1 to %d bytes", cfg.Cluster, maxClusterName)
	}
	if cfg.MaxTTL < minTTL || cfg.MaxTTL > intermediateLife/intermediateRenewalPart {
		return nil, fmt.Errorf("certificates of %s: want between %s and %s", cfg.MaxTTL, minTTL, intermediateLife/intermediateRenewalPart)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the authority's directory: %w", err)
	}
	path := filepath.Join(cfg.Dir, dbFile)
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	sealer, commit, err := sealingKey(keySource{cfg.Dir, cfg.KeyFile, cfg.Passphrase}, err == nil)
	if err != nil {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	db, err := OpenDB(path, "the authority", "restore it and ca.key from a backup: nodes believe only the root in it")
	if err != nil {
		return nil, err
	}
	db.MaxBatchDelay = recordTogether
	a := &Authority{cfg: cfg, db: db, sealer: sealer}
	if err = load(a); err == nil {
		err = commit()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the authority %s: %w", path, err), db.Close())
	}
	return a, nil
}

// Close closes the file. No other method may be called then.
func (a *Authority) Close() error { return a.db.Close() }

// Cluster is the cluster's name, as configured.
func (a *Authority) Cluster() string { return a.cfg.Cluster }

// TrustDomain is the SPIFFE trust domain, as configured.
func (a *Authority) TrustDomain() string { return a.cfg.TrustDomain }

// Root is the certificate of the root that signs; nobody changes it.
func (a *Authority) Root() *x509.Certificate { return a.held().root }

// RootHash is what join tokens pin.
func (a *Authority) RootHash() [32]byte { return snapshot.RootHash(a.Root()) }

// RootPEM is what is trusted, for clients of the controller's API (a kubeconfig's certificate-authority-data): the root,
// and while it is rotated the other one too. Roots of authorities outside, which certify no controller, are not among them.
func (a *Authority) RootPEM() (all []byte) {
	h := a.held()
	for _, der := range h.roster.GetRoots() {
		if h.ofUpstream(der) {
			continue
		}
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return all
}

// MaxTTL is how long certificates live, as configured.
func (a *Authority) MaxTTL() time.Duration { return a.cfg.MaxTTL }

// parsePair reads a certificate and its key, and checks that they belong together.
func parsePair(certificate, key []byte) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	parsed, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, nil, err
	}
	private, err := parseKey(key)
	if err != nil {
		return nil, nil, err
	}
	if !private.PublicKey.Equal(parsed.PublicKey) {
		return nil, nil, errors.New("certificate and key do not belong together")
	}
	return parsed, private, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read a key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key of type %T: want ECDSA", parsed)
	}
	return key, nil
}
