package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// An upstream is an intermediate that an authority outside of the mesh has certified. It never changes.
type upstream struct {
	authority string
	chain     []*x509.Certificate // the intermediate first, without a root
	roots     [][]byte
	ends      time.Time // when the first certificate of the chain ends, or the last root that it leads to
	key       *ecdsa.PrivateKey
	// cross is a certificate of the same key by the mesh's own root: while nodes go over, those that could not be told of
	// the authority's roots yet believe their peers by it. nil where the root is kept elsewhere (AuthorityRotation.AwayUntil).
	cross []byte
}

// Upstream says which authority outside of the mesh certified the intermediate that issues for nodes.
type Upstream struct {
	Authority    string
	Intermediate *x509.Certificate
	Ends         time.Time // when the first certificate of the chain ends, or its root, and with it all that it issued
	Roots        []*x509.Certificate
}

// Upstream is nil where the mesh's own root certified it.
func (a *Authority) Upstream() *Upstream {
	u := a.held().upstream
	if u == nil {
		return nil
	}
	shown := &Upstream{Authority: u.authority, Intermediate: u.chain[0], Ends: u.ends}
	for _, der := range u.roots {
		if root, err := x509.ParseCertificate(der); err == nil { // as it was when it was stored
			shown.Roots = append(shown.Roots, root)
		}
	}
	return shown
}

// upstreamLeast is what an intermediate of an authority outside must live at the least, in lives of what it issues: nodes
// renew past half of theirs, and the controller asks for another past half of this one's.
const upstreamLeast = 4

// Certify asks an authority outside of the mesh for an intermediate with a new key, which take then uses: it begins a
// rotation to it, whose roster is to be published, for nodes learn to trust its roots first. Where renew is set, and it has
// the roots of the one that it follows on, it issues at once, and nodes go over to it when they renew anyway. An answer that
// cannot be used is an error (upstreamca.ErrAnswer), and so is to take one while something is rotated (ErrRotating), or as a
// renewal while the own root issues, or one whose roots the own root, which is kept elsewhere, did not agree to
// (ErrRootOffline); none changes anything. The mesh's own root goes on to sign rosters and the controllers' certificates.
func (a *Authority) Certify(ctx context.Context, from upstreamca.Authority) (take func(renew bool) error, err error) {
	failed := func(err error) error { return fmt.Errorf("ask %s for an intermediate: %w", from, err) }
	key, err := newKey()
	if err != nil {
		return nil, failed(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{"Sennit"}, CommonName: a.cfg.Cluster + " " + a.cfg.Name},
		URIs:    []*url.URL{{Scheme: "spiffe", Host: a.cfg.TrustDomain}},
	}, key)
	if err != nil {
		return nil, failed(err)
	}
	answer, err := from.Certify(ctx, csr, key, intermediateLife)
	if err != nil {
		return nil, failed(err)
	}
	next, err := a.newUpstream(from.String(), answer, key)
	if err != nil {
		return nil, failed(err)
	}
	return func(renew bool) error {
		if err := a.change(func(h *holding) error { return a.take(h, next, renew) }); err != nil {
			return failed(err)
		}
		a.cfg.Issued(a.ofIntermediate(next.chain[0]))
		return nil
	}, nil
}

// newUpstream checks an answer: by what was asked for, and by what nodes would say of a certificate that hangs on it.
func (a *Authority) newUpstream(authority string, answer upstreamca.Certified, key *ecdsa.PrivateKey) (*upstream, error) {
	now := a.cfg.Now()
	if err := answer.Check(&key.PublicKey, a.cfg.TrustDomain, upstreamLeast*a.cfg.MaxTTL, now); err != nil {
		return nil, err
	}
	u := &upstream{authority: authority, chain: answer.Chain, ends: endOf(answer.Chain, answer.Roots), key: key}
	pool := x509.NewCertPool()
	for _, root := range answer.Roots {
		u.roots = append(u.roots, root.Raw)
		pool.AddCert(root)
	}
	template, err := leafTemplate("spiffe://"+a.cfg.TrustDomain+"/ns/default/svc/trial", "", now, a.cfg.MaxTTL)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, u.chain[0], &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	trial, err := x509.ParseCertificate(der)
	if err == nil {
		_, err = verifyChain(append([]*x509.Certificate{trial}, u.chain...), pool, a.cfg.TrustDomain, now)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: nodes would not believe what it issues: %w", upstreamca.ErrAnswer, err)
	}
	h := a.held()
	return u, h.allows(u.roots)
}

// take uses an intermediate that an authority outside certified, or announces its roots.
func (a *Authority) take(h *holding, next *upstream, renew bool) error {
	if h.state.GetRotation() != nil {
		return fmt.Errorf("%w: let it end, or cancel it", ErrRotating)
	}
	if renew {
		if h.upstream == nil { // the way back was taken while the authority was asked
			return errors.New("the mesh's own root issues: nothing of an authority outside is to be renewed")
		}
		if len(without(next.roots, h.upstream.roots)) == 0 && len(without(h.upstream.roots, next.roots)) == 0 {
			h.upstream = next
			return nil
		}
	}
	stored, err := next.message()
	if err != nil {
		return err
	}
	now := a.cfg.Now().UnixMilli()
	h.state.NextUpstream = stored
	h.state.Rotation = &RotationState{Upstream: true, Phase: RotationPhase_ROTATION_PHASE_ANNOUNCED, BegunUnixMs: now, SinceUnixMs: now}
	return h.sign(func(r *snapshot.Roster) { r.Roots = append(r.Roots, without(next.roots, r.Roots)...) })
}

// without are those of roots that are none of others.
func without(roots, others [][]byte) [][]byte {
	return slices.DeleteFunc(slices.Clone(roots), func(der []byte) bool {
		return slices.ContainsFunc(others, func(known []byte) bool { return bytes.Equal(known, der) })
	})
}

// ActivateUpstream lets the announced intermediate issue. Nodes are asked to renew, each at a point within spread that it
// draws. Until Withdraw, what issued before is trusted too.
func (a *Authority) ActivateUpstream(spread time.Duration) error {
	return a.step("let the authority's intermediate issue", Announced, func(h *holding) error {
		next, err := readUpstream(h.state.GetNextUpstream())
		if err != nil {
			return err
		}
		if h.rootKey != nil {
			template := caTemplate(a.cfg.TrustDomain, "", 0, a.cfg.Now(), intermediateLife)
			template.RawSubject = next.chain[0].RawSubject
			cross, err := certify(template, &next.key.PublicKey, h.root, h.rootKey)
			if err != nil {
				return err
			}
			next.cross = cross.Raw
		}
		before := h.issuer(false).certificate
		h.upstream, h.state.NextUpstream = next, nil
		return a.recall(h, before, spread, h.roster.GetDelegation())
	})
}

// LeaveUpstream lets the mesh's own root issue again in the place of an authority outside. Nodes are asked to renew. The
// authority's roots are trusted until Withdraw.
func (a *Authority) LeaveUpstream(spread time.Duration) error {
	return a.step("let the own root issue", NotRotating, func(h *holding) error {
		if h.upstream == nil {
			return errors.New("it does already")
		}
		before := h.upstream.chain[0]
		h.upstream = nil
		h.state.Rotation = &RotationState{Upstream: true, BegunUnixMs: a.cfg.Now().UnixMilli()}
		return a.recall(h, before, spread, h.roster.GetDelegation())
	})
}

// An issuer signs leaves.
type issuer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	behind      [][]byte  // what is shown behind a leaf
	ends        time.Time // which leaves do not outlive
}

// issuer is what signs certificates; own: those that hang on the mesh's own root, whoever issues for nodes.
func (h *holding) issuer(own bool) issuer {
	if own || h.upstream == nil {
		return issuer{h.intermediate, h.intermediateKey, h.chain(), h.intermediate.NotAfter}
	}
	u := h.upstream
	by := issuer{certificate: u.chain[0], key: u.key, ends: u.ends}
	for _, one := range u.chain {
		by.behind = append(by.behind, one.Raw)
	}
	if r := h.state.GetRotation(); u.cross != nil && r.GetUpstream() && r.GetPhase() == RotationPhase_ROTATION_PHASE_RENEWING {
		by.behind = append(by.behind, u.cross)
	}
	return by
}

// trusted are the roots that a roster has when nothing is rotated.
func (h *holding) trusted() [][]byte {
	roots := [][]byte{h.root.Raw}
	if h.upstream != nil {
		roots = append(roots, h.upstream.roots...)
	}
	return roots
}

// ofUpstream reports whether a root in the roster is that of an authority outside: there for it, or not yet taken out.
func (h *holding) ofUpstream(root []byte) bool {
	own := func(der []byte) bool { return bytes.Equal(der, root) }
	return !own(h.root.Raw) && !own(h.state.GetNextRoot()) && !slices.ContainsFunc(h.state.GetPast(), func(p *PastRoot) bool { return own(p.GetRoot()) })
}

// endOf is when a chain is believed no more: when the first of its certificates ends, or the last of the roots above it.
func endOf(chain, roots []*x509.Certificate) (ends time.Time) {
	for _, root := range roots {
		above := slices.ContainsFunc(chain, func(one *x509.Certificate) bool { return one.CheckSignatureFrom(root) == nil })
		if above && root.NotAfter.After(ends) {
			ends = root.NotAfter
		}
	}
	for _, one := range chain {
		if one.NotAfter.Before(ends) {
			ends = one.NotAfter
		}
	}
	return ends
}

// message is how an upstream is stored.
func (u *upstream) message() (*UpstreamIssuer, error) {
	key, err := x509.MarshalPKCS8PrivateKey(u.key)
	if err != nil {
		return nil, err
	}
	m := &UpstreamIssuer{Roots: u.roots, Key: key, Authority: u.authority, Cross: u.cross}
	for _, one := range u.chain {
		m.Chain = append(m.Chain, one.Raw)
	}
	return m, nil
}

// readUpstream reads what message made; nil of none.
func readUpstream(m *UpstreamIssuer) (*upstream, error) {
	if m == nil {
		return nil, nil
	}
	chain, err := parseChain(m.GetChain())
	if err != nil {
		return nil, fmt.Errorf("%w: chain of %s: %w", ErrCorrupt, m.GetAuthority(), err)
	}
	_, key, err := parsePair(m.GetChain()[0], m.GetKey())
	if err != nil {
		return nil, fmt.Errorf("%w: intermediate of %s: %w", ErrCorrupt, m.GetAuthority(), err)
	}
	var roots []*x509.Certificate
	for _, der := range m.GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: root of %s: %w", ErrCorrupt, m.GetAuthority(), err)
		}
		roots = append(roots, root)
	}
	return &upstream{authority: m.GetAuthority(), chain: chain, roots: m.GetRoots(), ends: endOf(chain, roots), key: key, cross: m.GetCross()}, nil
}
