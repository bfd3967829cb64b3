package ca

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxRevocations bounds how many revocations are in force at once; each ends with the last certificate that it
// concerns.
const maxRevocations = 4096

// A revokedSet tells which certificates were revoked. It never changes. Bounds are Unix milliseconds: of what has the
// name, certificates that are valid from then or earlier on are revoked.
type revokedSet struct {
	serials    map[string]bool
	identities map[string]int64
	nodes      map[string]int64
	held       map[heldBy]int64
}

// A heldBy is an identity on one node.
type heldBy struct{ node, identity string }

func newRevokedSet(lists ...[]*RevocationRecord) *revokedSet {
	s := &revokedSet{serials: map[string]bool{}, identities: map[string]int64{}, nodes: map[string]int64{}, held: map[heldBy]int64{}}
	for _, r := range slices.Concat(lists...) {
		switch issued := r.GetIssuedUnixMs(); {
		case r.GetSerial() != "":
			s.serials[r.GetSerial()] = true
		case r.GetIdentity() == "":
			s.nodes[r.GetNode()] = max(s.nodes[r.GetNode()], issued)
		case r.GetNode() == "":
			s.identities[r.GetIdentity()] = max(s.identities[r.GetIdentity()], issued)
		default:
			h := heldBy{r.GetNode(), r.GetIdentity()}
			s.held[h] = max(s.held[h], issued)
		}
	}
	return s
}

// bound is up to which beginning the certificates of an identity on a node are revoked; 0: none is.
func (s *revokedSet) bound(node, identity string) int64 {
	return max(s.nodes[node], s.identities[identity], s.held[heldBy{node, identity}])
}

// after is the earliest beginning of a certificate of an identity on a node that is not revoked; zero: any.
// Certificates say it in seconds.
func (s *revokedSet) after(node, identity string) time.Time {
	bound := s.bound(node, identity)
	if bound == 0 {
		return time.Time{}
	}
	return time.UnixMilli(bound).Truncate(time.Second).Add(time.Second)
}

// tokenAfter is the earliest time at which a JWT-SVID of an identity on a node is made that is not revoked; zero: any. Tokens
// say it in seconds, as it is: one of the second in which the revocation was made may be of before it.
func (s *revokedSet) tokenAfter(node, identity string) time.Time {
	after := s.after(node, identity)
	if after.IsZero() {
		return after
	}
	return after.Add(time.Second)
}

// checkToken returns why a JWT-SVID of an identity on a node, made at some time, is revoked; nil where it is not.
func (s *revokedSet) checkToken(node, identity string, issued time.Time) error {
	if s == nil || !issued.Before(s.tokenAfter(node, identity)) {
		return nil
	}
	return fmt.Errorf("the JWT-SVID of %s is of %s, and what was issued then is revoked", identity, issued.UTC().Format(time.RFC3339))
}

// check returns why a chain, whose leaf has the identity, is revoked; nil where it is not.
func (s *revokedSet) check(chain []*x509.Certificate, identity string) error {
	if s == nil {
		return nil
	}
	if len(s.serials) > 0 {
		for _, certificate := range chain {
			if serial := serialOf(certificate); s.serials[serial] {
				return fmt.Errorf("certificate %s of %s is revoked", serial, identity)
			}
		}
	}
	node, begins := nodeOf(chain[0]), chain[0].NotBefore.UnixMilli()
	switch {
	case begins <= s.identities[identity]:
		return fmt.Errorf("%s is revoked", identity)
	case begins <= s.held[heldBy{node, identity}]:
		return fmt.Errorf("%s is revoked on node %s", identity, node)
	case begins <= s.nodes[node]:
		return fmt.Errorf("node %s, which holds %s, is revoked", node, identity)
	}
	return nil
}

// UpdateRevocations takes what the configuration says is revoked, in the order of its versions, and reports whether it
// is news: an older one changes nothing. What an older epoch had is kept to its end, for the registry that was restored
// may be older than it. Where it cannot be stored it is believed all the same, as a roster is.
func (i *Identity) UpdateRevocations(version snapshot.Version, list []*snapshot.Revocation) (bool, error) {
	i.writing.Lock()
	defer i.writing.Unlock()
	state := i.current()
	if state.GetReceipt() == nil {
		return false, ErrNotJoined
	}
	if len(list) > maxRevocations {
		return false, fmt.Errorf("%d revocations, at most %d", len(list), maxRevocations)
	}
	held := state.GetRevocations()
	if held != nil && version.Compare(snapshot.Version{Epoch: held.GetEpoch(), Revision: held.GetRevision()}) <= 0 {
		return false, nil
	}
	news := &HeldRevocations{Epoch: version.Epoch, Revision: version.Revision, Carried: held.GetCarried()}
	for _, r := range list {
		news.Told = append(news.Told, &RevocationRecord{
			Serial: r.GetSerial(), Identity: r.GetIdentity(), Node: r.GetNode(), IssuedUnixMs: r.GetIssuedUnixMs(), EndsUnixMs: r.GetEndsUnixMs(),
		})
	}
	if version.Epoch > held.GetEpoch() {
		news.Carried = slices.Concat(held.GetCarried(), held.GetTold())
	}
	now := i.cfg.Now().UnixMilli()
	news.Carried = slices.DeleteFunc(slices.Clone(news.Carried), func(r *RevocationRecord) bool { return r.GetEndsUnixMs() < now })
	slices.SortStableFunc(news.Carried, func(a, b *RevocationRecord) int { return cmp.Compare(b.GetEndsUnixMs(), a.GetEndsUnixMs()) })
	news.Carried = news.Carried[:min(len(news.Carried), maxRevocations)]
	next := cloneState(state)
	next.Revocations = news
	if err := i.store(next); err != nil {
		i.cfg.Log.Warn("the newest revocations are believed, and would be forgotten by a restart", "node", state.GetNode(), "err", err)
		i.mu.Lock()
		i.state = next
		i.mu.Unlock()
	}
	i.revoked.Store(newRevokedSet(news.Told, news.Carried))
	if i.holdsRevoked() {
		i.Refresh() // certificates with new keys take the place of those that were revoked by their serials
	}
	return true, nil
}

// holdsRevoked reports whether a certificate of this node's is among those that were revoked.
func (i *Identity) holdsRevoked() bool {
	if own := i.own.Load(); own != nil && i.ended(own.Leaf) != nil {
		return true
	}
	certificates := i.certificates.Load()
	if certificates == nil {
		return false
	}
	for _, certificate := range *certificates {
		if i.ended(certificate.Leaf) != nil {
			return true
		}
	}
	return false
}

// ended returns why a certificate of this node's is revoked; nil where it is not.
func (i *Identity) ended(leaf *x509.Certificate) error {
	return i.revoked.Load().check([]*x509.Certificate{leaf}, leaf.URIs[0].String())
}
