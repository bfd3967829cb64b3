package ca

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const identityFile = "identity.db"

var (
	bucketIdentity = []byte("identity")
	keyIdentity    = []byte("node")
)

// IdentityConfig says where a node keeps its identity.
type IdentityConfig struct {
	Dir string // of identity.db; made with mode 0700 where it is missing
	// KeyFile holds the key that identity.db is sealed under, 32 random bytes or more, where there is no systemd credential
	// (NodeCredentialName). Empty: the mode of the file protects it.
	KeyFile string
	// Rotated is told after certificates were replaced, when they are in use: lanes that show an older one
	// are to be drained. Whoever renews (Run, Join) calls it; it must not renew in turn. nil: nobody is told.
	Rotated func(Rotation)
	Log     *slog.Logger     // nil: slog.Default
	Now     func() time.Time // nil: time.Now
	// TPM is the host's. It is asked only where a key is in it, is to be made in it, or a token wants its word. nil: none.
	TPM TPM
	// KeysInTPM has the node's own keys made in TPM from now on; those that services have are not.
	KeysInTPM bool
	// Metadata is where the cloud's metadata service is, for tokens that want its word; empty: attest.MetadataAddress.
	Metadata string
}

// A Rotation says what was replaced.
type Rotation struct {
	Services []exchange.ServiceName // whose certificates are new, or gone since the registry no longer allows them
	Key      bool                   // the node's key and its bus token are new
	Bus      bool                   // the bus token is of another account: the bus has new keys
}

// An Identity is what a node is: its key, its certificates, and whom it believes, kept in identity.db so
// that it survives restarts and reboots. Keys are made here and never leave. It implements the lanes'
// credentials. It is safe for concurrent use; Certificate and Verify take no lock.
//
// A KEY IS STORED BEFORE IT IS SENT, and kept until the answer is stored, so that a renewal that was cut
// short anywhere is repeated with the same key.
type Identity struct {
	cfg     IdentityConfig
	db      *bbolt.DB
	sealer  *sealer       // nil: nothing is sealed
	refresh chan struct{} // Run is to ask for certificates now
	woken   chan struct{} // Run looks again at what is due

	renewing sync.Mutex // one request at a time; held while the bus is waited for
	writing  sync.Mutex // held from reading the state until its successor is stored; inside renewing

	mu        sync.Mutex
	state     *NodeIdentity // as stored, but for a roster that could not be; never changed, only replaced
	address   string
	lastErr   error
	skew      time.Duration // of this host's clock, ahead of the controller's
	disagreed int           // how many beats in a row said that it is more than maxSkew
	rotatesAt time.Time
	showAt    time.Time // when the receipt is shown to a registry that was restored
	recall    recall

	certificates atomic.Pointer[map[exchange.ServiceName]*tls.Certificate]
	own          atomic.Pointer[tls.Certificate] // the node's
	believed     atomic.Pointer[believed]
	revoked      atomic.Pointer[revokedSet] // nil: nothing is
	busRefusals  atomic.Int64               // how often the bus did not know this node's user, since the last renewal
}

// A recall is when a node renews that a roster asks to, and what the roster said when that was drawn.
type recall struct {
	before int64
	spread time.Duration
	at     time.Time
}

// NewIdentity opens a node's identity, which is empty on a host that has not joined. The caller closes it.
// Errors name the file and the remedy: ErrCorrupt, ErrPermissions, ErrInUse.
func NewIdentity(cfg IdentityConfig) (*Identity, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Metadata == "" {
		cfg.Metadata = attest.MetadataAddress
	}
	if cfg.Rotated == nil {
		cfg.Rotated = func(Rotation) {}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the node's state directory: %w (choose another place with --state-dir, or run as a user that may write there)", err)
	}
	path := filepath.Join(cfg.Dir, identityFile)
	const remedy = "move it away and join again: `sennit node remove` the old node, then `sennit join-token create`"
	sealer, err := nodeSealer(cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	db, err := OpenDB(path, "the node's identity", remedy)
	if err != nil {
		return nil, err
	}
	i := &Identity{cfg: cfg, db: db, sealer: sealer, refresh: make(chan struct{}, 1), woken: make(chan struct{}, 1)}
	if err := i.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the node's identity %s: %w; %s", path, err, remedy), db.Close())
	}
	return i, nil
}

// Close closes the file. Certificate and Verify go on with what they have.
func (i *Identity) Close() error { return i.db.Close() }

// load reads what is stored, and writes nothing: a node starts on a full disk too.
func (i *Identity) load() error {
	state, plain := &NodeIdentity{}, false
	err := i.db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketIdentity)
		if bucket == nil {
			return nil
		}
		value := bucket.Get(keyIdentity)
		if value == nil {
			return nil
		}
		var err error
		plain = i.sealer != nil && !bytes.HasPrefix(value, sealedValue)
		state, err = i.decodeIdentity(value)
		return err
	})
	if err != nil {
		return err
	}
	i.state = state
	if state.GetReceipt() == nil {
		return nil
	}
	if err := i.use(state); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if plain { // there was no key until now
		if err := i.store(state); err != nil {
			i.cfg.Log.Warn("the node's keys are not sealed yet", "node", state.GetNode(), "err", err)
		}
	}
	return nil
}

// store makes state what the node is, on disk first. The caller holds writing.
func (i *Identity) store(state *NodeIdentity) error {
	value, err := i.encodeIdentity(state)
	if err != nil {
		return err
	}
	err = i.db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(bucketIdentity)
		if err != nil {
			return err
		}
		return bucket.Put(keyIdentity, value)
	})
	if err != nil {
		return fmt.Errorf("store the node's identity (is the disk full?): %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.state = state
	return nil
}

// use puts what is stored into the forms that handshakes need.
func (i *Identity) use(state *NodeIdentity) error {
	believed, err := newBelieved(state)
	if err != nil {
		return err
	}
	own, err := i.ownCertificate(state)
	if err != nil {
		return err
	}
	certificates := make(map[exchange.ServiceName]*tls.Certificate, len(state.GetServices()))
	for _, credential := range state.GetServices() {
		service, err := exchange.ParseServiceName(credential.GetService())
		if err != nil {
			return err
		}
		if certificates[service], err = certificateOf(credential.GetChain(), credential.GetKey()); err != nil {
			return err
		}
	}
	receipt := &Receipt{}
	if err := proto.Unmarshal(state.GetReceipt().GetReceipt(), receipt); err != nil {
		return err
	}
	i.mu.Lock()
	i.rotatesAt = rotationPoint(time.UnixMilli(receipt.GetIssuedUnixMs()), own.Leaf.NotAfter)
	i.mu.Unlock()
	i.believed.Store(believed)
	i.revoked.Store(newRevokedSet(state.GetRevocations().GetTold(), state.GetRevocations().GetCarried()))
	i.own.Store(own)
	i.certificates.Store(&certificates)
	return nil
}

func certificateOf(chain [][]byte, key []byte) (*tls.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("a certificate is missing")
	}
	leaf, private, err := parsePair(chain[0], key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: private, Leaf: leaf}, nil
}

func (i *Identity) current() *NodeIdentity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state
}

// Joined reports whether the host has joined; nothing but Join and Close may be called before.
func (i *Identity) Joined() bool { return i.current().GetReceipt() != nil }

// Node is the node's name, as the join token has it.
func (i *Identity) Node() string { return i.current().GetNode() }

// Cluster is the cluster's name, as the join token has it.
func (i *Identity) Cluster() string { return i.current().GetCluster() }

// TrustDomain is the cluster's SPIFFE trust domain.
func (i *Identity) TrustDomain() string { return i.current().GetTrustDomain() }

// RootHash is the hash of the root's key that is believed: the one that the join token pinned, or that took its place.
func (i *Identity) RootHash() [32]byte { return [32]byte(i.current().GetRootHash()) }

// Standing is the newest roster that the node holds, and when its certificates were issued, by the controller's clock.
func (i *Identity) Standing() (epoch, serial uint64, issued time.Time) {
	if believed := i.believed.Load(); believed != nil {
		epoch, serial = believed.roster.GetEpoch(), believed.roster.GetSerial()
	}
	return epoch, serial, time.UnixMilli(i.receipt().GetIssuedUnixMs())
}

// Services are those that the registry allowed when the node last asked.
func (i *Identity) Services() []exchange.ServiceName {
	services, _ := parseServices(i.receipt().GetServices()) // they were checked before they were stored
	return services
}

func (i *Identity) receipt() *Receipt {
	receipt := &Receipt{}
	_ = proto.Unmarshal(i.current().GetReceipt().GetReceipt(), receipt) // was read before it was stored
	return receipt
}

// SetAddress says where the node's lanes are dialled; the registry learns it with the next request.
func (i *Identity) SetAddress(address string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.address = address
}

// Certificate returns the current certificate of a service, or of the node itself for the zero name. It
// returns ErrNoCertificate where there is none, it has ended, or it was revoked. The caller changes nothing in it.
func (i *Identity) Certificate(service exchange.ServiceName) (*tls.Certificate, error) {
	certificate := i.own.Load()
	if !service.IsZero() {
		certificate = nil
		if certificates := i.certificates.Load(); certificates != nil {
			certificate = (*certificates)[service]
		}
	}
	switch {
	case certificate == nil && i.own.Load() == nil:
		return nil, fmt.Errorf("%w: %w; run `sennit node --join <token>`", ErrNoCertificate, ErrNotJoined)
	case certificate == nil:
		return nil, fmt.Errorf("%w of %s; allow the node to run it with `sennit node allow %s %s`", ErrNoCertificate, service, i.Node(), service)
	case i.cfg.Now().After(certificate.Leaf.NotAfter):
		return nil, fmt.Errorf("%w of %s: it ended %s and could not be renewed%s", ErrNoCertificate, service,
			certificate.Leaf.NotAfter.UTC().Format(time.RFC3339), because(i.LastError()))
	}
	if err := i.ended(certificate.Leaf); err != nil {
		return nil, fmt.Errorf("%w of %s: %w; an operator allows it again with `sennit node allow %s %s`", ErrNoCertificate, service, err, i.Node(), service)
	}
	return certificate, nil
}

// Sign signs what the node says about itself, for Registrar.VerifyNode.
func (i *Identity) Sign(payload []byte) ([]byte, error) {
	own := i.own.Load()
	if own == nil {
		return nil, ErrNotJoined
	}
	return signECDSA(own.PrivateKey.(crypto.Signer), registrationDomain, payload)
}

// LastError is why the last request to renew failed; nil after one that succeeded.
func (i *Identity) LastError() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lastErr
}

// A CertificateStatus describes one certificate for people.
type CertificateStatus struct {
	SPIFFEID            string
	Serial              string
	NotBefore, NotAfter time.Time
}

// IdentityStatus describes a node's identity for people.
type IdentityStatus struct {
	Cluster, Node string
	Generation    uint64
	Key           string // fingerprint, as the registry and `sennit node accept --key` name it
	NextKey       string // that of the successor that was asked for, while Pending
	Certificates  []CertificateStatus
	RotatesAt     time.Time
	Pending       bool          // a renewal was begun and its answer is not stored yet
	RenewOnly     bool          // the working bus user has ended: the node can do nothing but renew
	Skew          time.Duration // of this host's clock, ahead of the controller's, when they last spoke
	Clock         error         // ErrClock, where Skew is more than may be
	LastError     error
}

// Status describes the identity; the node's own certificate is the first, services follow by name.
func (i *Identity) Status() IdentityStatus {
	receipt, state := i.receipt(), i.current()
	i.mu.Lock()
	status := IdentityStatus{
		Cluster: state.GetCluster(), Node: state.GetNode(), Generation: receipt.GetGeneration(), Key: fingerprint(receipt.GetPublicKey()), NextKey: i.nextKey(state),
		RotatesAt: i.rotatesAt, Pending: state.GetPendingKey() != nil, Skew: i.skew, LastError: i.lastErr,
		RenewOnly: i.cfg.Now().UnixMilli() > state.GetBusExpiresUnixMs(),
	}
	i.mu.Unlock()
	if status.Skew.Abs() > maxSkew {
		status.Clock = refuse(ErrClock, "%s", clockAdvice(status.Skew, i.cfg.Now().Add(-status.Skew)))
	}
	add := func(leaf *x509.Certificate) {
		status.Certificates = append(status.Certificates, CertificateStatus{leaf.URIs[0].String(), serialOf(leaf), leaf.NotBefore, leaf.NotAfter})
	}
	if own := i.own.Load(); own != nil {
		add(own.Leaf)
	}
	if certificates := i.certificates.Load(); certificates != nil {
		for _, certificate := range *certificates {
			add(certificate.Leaf)
		}
		slices.SortFunc(status.Certificates[1:], func(a, b CertificateStatus) int { return strings.Compare(a.SPIFFEID, b.SPIFFEID) })
	}
	return status
}

// nextKey is the fingerprint of the successor that a host has asked for, or empty.
func (i *Identity) nextKey(state *NodeIdentity) string {
	if state.GetPendingKey() == nil {
		return ""
	}
	key, err := i.openKey(state.GetPendingKey())
	if err != nil {
		return ""
	}
	return fingerprint(key.spki)
}

// because is a reason in parentheses, or nothing.
func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
