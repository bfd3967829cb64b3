package ca

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// States of a certificate that was issued.
const (
	CertificateCurrent  = "current"
	CertificateRenewing = "renewing" // it is time for another, which its holder has not got yet
	CertificateReplaced = "replaced" // its holder has a newer one
	CertificateRevoked  = "revoked"
	CertificateExpired  = "expired"
)

// A Certificate is what the controller that issued it knows of one.
type Certificate struct {
	Issued
	State string
}

// Certificates lists those that this controller issued and that have not been expired for more than a day, by node, then
// identity, the newest first. It keeps those for which want, which must not block, is true.
func (r *Registrar) Certificates(ctx context.Context, want func(Issued) bool) ([]Certificate, error) {
	revoked, err := r.revoked(ctx)
	if err != nil {
		return nil, err
	}
	now := r.cfg.Now()
	newest := map[heldBy]Issued{}
	var all []Certificate
	err = r.cfg.Authority.IssuedSince(time.Time{}, func(one Issued) error {
		of := heldBy{one.Node, one.SPIFFEID}
		if known, ok := newest[of]; !ok || known.before(one) {
			newest[of] = one
		}
		if want(one) {
			all = append(all, Certificate{Issued: one})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		one := &all[i]
		life := one.NotAfter.Sub(one.NotBefore.Add(backdate))
		switch {
		case revoked.serials[one.Serial] || one.NotBefore.UnixMilli() <= revoked.bound(one.Node, one.SPIFFEID):
			one.State = CertificateRevoked
		case now.After(one.NotAfter):
			one.State = CertificateExpired
		case newest[heldBy{one.Node, one.SPIFFEID}].Serial != one.Serial:
			one.State = CertificateReplaced
		case one.NotAfter.Sub(now) < time.Duration(float64(life)*(1-rotateFrom)):
			one.State = CertificateRenewing
		default:
			one.State = CertificateCurrent
		}
	}
	slices.SortStableFunc(all, func(a, b Certificate) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.SPIFFEID, b.SPIFFEID), b.NotBefore.Compare(a.NotBefore), strings.Compare(a.Serial, b.Serial))
	})
	return all, nil
}

// before reports whether one was issued earlier than another. Certificates tell the second alone, and a node that is told of a
// service while it starts renews twice in one.
func (i Issued) before(other Issued) bool {
	return cmp.Or(cmp.Compare(i.number, other.number), i.NotBefore.Compare(other.NotBefore)) < 0
}
