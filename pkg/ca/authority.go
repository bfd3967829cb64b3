package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
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
	Now         func() time.Time // nil: time.Now
	// Issued is told of each certificate once it is recorded, before it is handed out; nil: nobody is. It
	// may be called concurrently.
	Issued func(Issued)
}

// An Authority issues the certificates of one cluster and signs its roster. Its keys are in ca.db, sealed
// under ca.key or systemd's credential; both files are needed to restore it. It is safe for concurrent use.
//
// NOTHING IT RETURNS WAS NOT RECORDED FIRST: a certificate that is not in ca.db does not exist.
type Authority struct {
	cfg     AuthorityConfig
	db      *bbolt.DB
	sealer  *sealer
	signer  snapshot.Signer
	root    *x509.Certificate
	rootKey *ecdsa.PrivateKey

	mu              sync.Mutex
	intermediate    *x509.Certificate
	intermediateKey *ecdsa.PrivateKey
	roster          *snapshot.Roster
	signedRoster    []byte
}

// NewAuthority opens the authority in cfg.Dir, and makes it with a new root where there is none. The
// caller closes it. Errors name the file and the remedy: ErrCorrupt, ErrPermissions, ErrInUse.
func NewAuthority(cfg AuthorityConfig) (*Authority, error) {
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
	sealer, commit, err := sealingKey(cfg.Dir, err == nil)
	if err != nil {
		return nil, fmt.Errorf("open the authority: %w", err)
	}
	db, err := OpenDB(path, "the authority", "restore it and ca.key from a backup: nodes believe only the root in it")
	if err != nil {
		return nil, err
	}
	a := &Authority{cfg: cfg, db: db, sealer: sealer}
	if err = a.load(); err == nil {
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

// Root is the root's certificate; nobody changes it.
func (a *Authority) Root() *x509.Certificate { return a.root }

// RootHash is what join tokens pin.
func (a *Authority) RootHash() [32]byte { return snapshot.RootHash(a.root) }

// RootPEM is the root for clients of the controller's API (a kubeconfig's certificate-authority-data).
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}

// Signer is this controller's signing key, which the roster lists.
func (a *Authority) Signer() snapshot.Signer { return a.signer }

// load reads everything in one transaction, or makes all of it.
func (a *Authority) load() error {
	return a.db.Update(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketKeys) == nil {
			return a.create(tx)
		}
		values := map[string][]byte{}
		for _, purpose := range []string{purposeCluster, purposeRootKey, purposeRoot, purposeIntermediateKey, purposeIntermediate, purposeSigning, purposeRoster} {
			sealed := tx.Bucket(bucketKeys).Get([]byte(purpose))
			if sealed == nil {
				return fmt.Errorf("%w: no %s in it; restore it and ca.key from a backup", ErrCorrupt, purpose)
			}
			value, err := a.sealer.open(purpose, sealed)
			if err != nil {
				return err
			}
			values[purpose] = value
		}
		if want := a.cfg.Cluster + " " + a.cfg.TrustDomain; string(values[purposeCluster]) != want {
			return fmt.Errorf("it is of cluster and trust domain %q, and %q is configured: neither can be changed later", values[purposeCluster], want)
		}
		var err error
		if a.root, a.rootKey, err = parsePair(values[purposeRoot], values[purposeRootKey]); err != nil {
			return fmt.Errorf("%w: root: %w", ErrCorrupt, err)
		}
		if a.intermediate, a.intermediateKey, err = parsePair(values[purposeIntermediate], values[purposeIntermediateKey]); err != nil {
			return fmt.Errorf("%w: intermediate: %w", ErrCorrupt, err)
		}
		if len(values[purposeSigning]) != ed25519.SeedSize {
			return fmt.Errorf("%w: signing key of %d bytes", ErrCorrupt, len(values[purposeSigning]))
		}
		a.signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(values[purposeSigning]))
		a.signedRoster = values[purposeRoster]
		if a.roster, err = snapshot.OpenRoster(a.cfg.Cluster, a.RootHash(), a.signedRoster); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil
	})
}

// create makes a cluster's root, this controller's intermediate and signing key, and the first roster.
func (a *Authority) create(tx *bbolt.Tx) error {
	for _, bucket := range [][]byte{bucketKeys, bucketIssued} {
		if _, err := tx.CreateBucketIfNotExists(bucket); err != nil {
			return err
		}
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	template := caTemplate(a.cfg.TrustDomain, a.cfg.Cluster+" root", 1, a.cfg.Now(), rootLife)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.rootKey = key
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	a.signer = snapshot.NewSigner(ed25519.NewKeyFromSeed(seed))
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for purpose, value := range map[string][]byte{
		purposeCluster: []byte(a.cfg.Cluster + " " + a.cfg.TrustDomain),
		purposeRootKey: keyDER, purposeRoot: der, purposeSigning: seed,
	} {
		if err := a.put(tx, purpose, value); err != nil {
			return err
		}
	}
	if err := a.renewIntermediate(tx); err != nil {
		return err
	}
	a.roster = &snapshot.Roster{
		Cluster: a.cfg.Cluster, Serial: 1, Keys: []*snapshot.SigningKey{a.signer.Public()}, Roots: [][]byte{a.root.Raw},
	}
	if a.signedRoster, err = snapshot.SealRoster(a.rootKey, a.root, a.roster); err != nil {
		return err
	}
	return a.put(tx, purposeRoster, a.signedRoster)
}

// renewIntermediate makes a new intermediate with a new key. Certificates of the one before stay valid:
// each is shown with its own chain.
func (a *Authority) renewIntermediate(tx *bbolt.Tx) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	template := caTemplate(a.cfg.TrustDomain, a.cfg.Cluster+" "+a.cfg.Name, 0, a.cfg.Now(), intermediateLife)
	if template.NotAfter.After(a.root.NotAfter) {
		template.NotAfter = a.root.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), a.rootKey)
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := a.put(tx, purposeIntermediateKey, keyDER); err != nil {
		return err
	}
	if err := a.put(tx, purposeIntermediate, der); err != nil {
		return err
	}
	a.intermediate, a.intermediateKey = certificate, key
	return nil
}

func (a *Authority) put(tx *bbolt.Tx, purpose string, value []byte) error {
	return tx.Bucket(bucketKeys).Put([]byte(purpose), a.sealer.seal(purpose, value))
}

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
