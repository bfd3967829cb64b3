package ca

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// believed is what a node verifies peers against; it never changes.
type believed struct {
	trustDomain  string
	certificates []*x509.Certificate // of the roots
	roots        *x509.CertPool
	roster       *snapshot.Roster
	serials      map[string]bool // revoked
	identities   map[string]bool // revoked
}

// newBelieved reads the roster that a node has stored.
func newBelieved(state *NodeIdentity) (*believed, error) {
	if len(state.GetRootHash()) != 32 {
		return nil, errors.New("the root's hash is missing")
	}
	roster, err := snapshot.OpenRoster(state.GetCluster(), [32]byte(state.GetRootHash()), state.GetRoster())
	if err != nil {
		return nil, err
	}
	b := &believed{
		trustDomain: state.GetTrustDomain(), roots: x509.NewCertPool(), roster: roster,
		serials: make(map[string]bool), identities: make(map[string]bool),
	}
	for _, der := range roster.GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root in the roster: %w", err)
		}
		b.roots.AddCert(root)
		b.certificates = append(b.certificates, root)
	}
	for _, serial := range slices.Concat(roster.GetRevokedSerials(), state.GetCarriedSerials()) {
		b.serials[strings.ToLower(serial)] = true
	}
	for _, id := range roster.GetRevokedIdentities() {
		b.identities[id] = true
	}
	return b, nil
}

// maxCarried bounds the serial numbers that are carried over epochs. Rosters revoke intermediates, of which there are few.
const maxCarried = 1024

// carried are the serial numbers that are revoked whatever a newer roster says: a controller that was restored does not know
// what was withdrawn since its backup, and would have it believed again.
func (b *believed) carried(state *NodeIdentity, newer *snapshot.Roster) []string {
	if b == nil || newer.GetEpoch() <= b.roster.GetEpoch() {
		return state.GetCarriedSerials()
	}
	all := slices.Sorted(maps.Keys(b.serials))
	return all[:min(len(all), maxCarried)]
}

// verify checks a peer's chain: SPIFFE's rules, the way to a root, validity now, revocation of any part.
func (b *believed) verify(chain []*x509.Certificate, now time.Time) (spiffeid.ID, error) {
	id, err := verifyChain(chain, b.roots, b.trustDomain, now)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	for _, certificate := range chain {
		if b.serials[serialOf(certificate)] {
			return spiffeid.ID{}, fmt.Errorf("%w: certificate %s of %s is revoked", ErrPeer, serialOf(certificate), id)
		}
	}
	if b.identities[id.String()] {
		return spiffeid.ID{}, fmt.Errorf("%w: %s is revoked", ErrPeer, id)
	}
	return id, nil
}

// Verify is for tls.Config.VerifyConnection, which is called on resumption too: it checks the peer's
// certificates as of now, against the newest roster, and returns the service that the peer is. It returns
// ErrPeer for every peer that is no service of the cluster.
func (i *Identity) Verify(state tls.ConnectionState) (exchange.ServiceName, error) {
	id, err := i.verifyPeer(state, i.cfg.Now())
	if err != nil {
		return exchange.ServiceName{}, err
	}
	service, ok := serviceOf(id)
	if !ok {
		return exchange.ServiceName{}, fmt.Errorf("%w: %s is not a service", ErrPeer, id)
	}
	return service, nil
}

func (i *Identity) verifyPeer(state tls.ConnectionState, now time.Time) (spiffeid.ID, error) {
	b := i.believed.Load()
	if b == nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrPeer, ErrNotJoined)
	}
	id, err := b.verify(state.PeerCertificates, now)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if err := i.revoked.Load().check(state.PeerCertificates, id.String()); err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return id, nil
}

// UpdateRoster takes a roster as it was published, and reports whether it replaces the one held. One that is
// older is no error and changes nothing. Where it cannot be stored it is believed all the same, since what it revokes must
// end, and is stored with what is stored next.
func (i *Identity) UpdateRoster(raw []byte) (bool, error) {
	i.writing.Lock()
	defer i.writing.Unlock()
	state := i.current()
	if state.GetReceipt() == nil {
		return false, ErrNotJoined
	}
	trust := snapshot.NewTrust(state.GetCluster(), [32]byte(state.GetRootHash()))
	if _, err := trust.Update(state.GetRoster()); err != nil {
		return false, err
	}
	newer, err := trust.Update(raw)
	if err != nil || !newer {
		return false, err
	}
	next := cloneState(state)
	root := trust.Root()
	next.Roster, next.RootHash = raw, root[:]
	next.CarriedSerials = i.believed.Load().carried(state, trust.Roster())
	b, err := newBelieved(next)
	if err != nil {
		return false, err
	}
	if err := i.store(next); err != nil {
		i.cfg.Log.Warn("the newest roster is believed, and would be forgotten by a restart", "node", state.GetNode(), "err", err)
		i.mu.Lock()
		i.state = next
		i.mu.Unlock()
	}
	i.believed.Store(b)
	if i.unshown() {
		i.mu.Lock()
		i.showAt = i.wall().Add(rand.N(showSpread))
		i.mu.Unlock()
	}
	select { // it may ask for more than that
	case i.woken <- struct{}{}:
	default:
	}
	return true, nil
}

// Roster is the newest roster that the node holds, as it was stored.
func (i *Identity) Roster() []byte { return i.current().GetRoster() }
