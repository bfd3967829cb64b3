package ca

import (
	"crypto/x509"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// maxOutsideRoots is how many roots of authorities outside a request may name: those of one authority, and of the next.
const maxOutsideRoots = 2 * upstreamca.MaxRoots

// OutsideRoots are the roots of authorities outside that rosters are to list beside the mesh's own. Whoever signs says that
// they are those that he means (AgreedOutside): each can name anybody in the trust domain.
func (r *Request) OutsideRoots() ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for _, der := range r.message.GetOutsideRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root of an authority outside: %w", err)
		}
		roots = append(roots, root)
	}
	return roots, checkOutsideRoots(roots)
}

func checkOutsideRoots(roots []*x509.Certificate) error {
	if len(roots) > maxOutsideRoots {
		return fmt.Errorf("%d roots of authorities outside: at most %d", len(roots), maxOutsideRoots)
	}
	for _, root := range roots {
		if err := upstreamca.CheckRoot(root); err != nil {
			return fmt.Errorf("root of an authority outside: %w", err)
		}
	}
	return nil
}

// checkOutside makes sure that whoever signs agreed to each root of an authority outside, and to no other.
func (r *Request) checkOutside() error {
	roots, err := r.OutsideRoots()
	if err != nil {
		return err
	}
	in := func(all []*x509.Certificate, one *x509.Certificate) bool { return slices.ContainsFunc(all, one.Equal) }
	for _, root := range roots {
		if !in(r.AgreedOutside, root) {
			return fmt.Errorf("%w: %s of an authority outside (name its certificate with --outside-root, if it is the one that you mean)", ErrNotAgreed, outsideName(root))
		}
	}
	for _, agreed := range r.AgreedOutside {
		if !in(roots, agreed) {
			return fmt.Errorf("the request does not name %s of an authority outside", outsideName(agreed))
		}
	}
	return nil
}

func outsideName(root *x509.Certificate) string {
	return fmt.Sprintf("root %s (%s)", RootFingerprint(root), root.Subject)
}

// outside are the roots of authorities outside that the roster lists.
func (h *holding) outside() [][]byte {
	return slices.DeleteFunc(slices.Clone(h.roster.GetRoots()), func(der []byte) bool { return !h.ofUpstream(der) })
}

// allows returns why rosters may not list a root of an authority outside; nil where they may list all.
func (h *holding) allows(roots [][]byte) error {
	if h.rootKey != nil {
		return nil
	}
	delegation := &snapshot.Delegation{}
	if err := proto.Unmarshal(h.state.GetDelegation(), delegation); err != nil {
		return fmt.Errorf("%w: delegation: %w", ErrCorrupt, err)
	}
	if others := without(roots, delegation.GetRoots()); len(others) > 0 {
		root, err := x509.ParseCertificate(others[0])
		if err != nil {
			return err
		}
		return fmt.Errorf("%w, and has not agreed to %s: ask it with `sennit ca request --outside-root FILE`", ErrRootOffline, outsideName(root))
	}
	return nil
}
