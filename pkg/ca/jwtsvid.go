package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// JWTLife is how long a JWT-SVID is good for. Whoever reads one can use it, and only nodes know what is revoked
	// (Identity.CheckToken): for others nothing takes it back.
	JWTLife = 5 * time.Minute

	// NodeClaim names the node that a JWT-SVID was made for, so that it ends with that node for whoever knows.
	NodeClaim = "sennit.dev/node"

	// A key signs for jwtKeyLife. Its successor is made and told jwtKeyAhead before, so that all who verify know it when it
	// begins to sign: nodes within seconds, other trust domains when they ask next (federation's refresh hint is less). It
	// is told until the last token that it signed has ended.
	jwtKeyLife  = 7 * 24 * time.Hour
	jwtKeyAhead = time.Hour
	jwtKeyAfter = JWTLife + backdate

	jwtKeysSecret = "jwt keys"
)

// A jwtKey signs JWT-SVIDs from begins on.
type jwtKey struct {
	id     string
	key    *ecdsa.PrivateKey
	begins time.Time
}

// loadJWTKeys reads the keys that were stored. The first call of jwtKeysAt makes one where there is none.
func (a *Authority) loadJWTKeys() ([]jwtKey, error) {
	stored, err := a.Secret(jwtKeysSecret)
	if err != nil || stored == nil {
		return nil, err
	}
	var ring JWTKeys
	if err := proto.Unmarshal(stored, &ring); err != nil {
		return nil, fmt.Errorf("%w: keys of JWT-SVIDs: %w", ErrCorrupt, err)
	}
	var keys []jwtKey
	for _, k := range ring.GetKeys() {
		key, err := parseKey(k.GetKey())
		if err != nil {
			return nil, fmt.Errorf("%w: keys of JWT-SVIDs: %w", ErrCorrupt, err)
		}
		keys = append(keys, jwtKey{k.GetId(), key, time.UnixMilli(k.GetBeginsUnixMs())})
	}
	return keys, nil
}

func (a *Authority) storeJWTKeys(keys []jwtKey) error {
	ring := &JWTKeys{}
	for _, k := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(k.key)
		if err != nil {
			return err
		}
		ring.Keys = append(ring.Keys, &JWTKey{Id: k.id, Key: der, BeginsUnixMs: k.begins.UnixMilli()})
	}
	data, err := proto.Marshal(ring)
	if err != nil {
		return err
	}
	return a.PutSecret(jwtKeysSecret, data)
}

// jwtKeysNow returns the keys that are told now, the oldest first: a successor is made when it is time, and those whose
// tokens have all ended are dropped. What cannot be stored is not used: the keys before go on. The caller holds jwtMu.
func (a *Authority) jwtKeysNow() ([]jwtKey, error) {
	if a.jwtKeys == nil {
		keys, err := a.loadJWTKeys()
		if err != nil {
			return nil, err
		}
		a.jwtKeys = keys
	}
	now := a.cfg.Now()
	keys, changed := a.jwtKeys, false
	for len(keys) > 1 && now.After(keys[1].begins.Add(jwtKeyAfter)) {
		keys, changed = keys[1:], true
	}
	if n := len(keys); n == 0 || !now.Before(keys[n-1].begins.Add(jwtKeyLife-jwtKeyAhead)) {
		next, err := newJWTKey(now, n > 0)
		if err != nil {
			return nil, err
		}
		keys, changed = append(keys[:n:n], next), true
	}
	if !changed {
		return keys, nil
	}
	if err := a.storeJWTKeys(keys); err != nil {
		if len(a.jwtKeys) > 0 {
			return a.jwtKeys, nil
		}
		return nil, fmt.Errorf("store the key of JWT-SVIDs: %w", err)
	}
	a.jwtKeys = keys
	return keys, nil
}

func newJWTKey(now time.Time, ahead bool) (jwtKey, error) {
	key, err := newKey()
	if err != nil {
		return jwtKey{}, err
	}
	begins := now
	if ahead {
		begins = now.Add(jwtKeyAhead)
	}
	return jwtKey{randomID(), key, begins}, nil
}

// randomID is 16 random bytes, hexadecimal.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// JWTKeys are the public keys that verify JWT-SVIDs of the trust domain at this moment, also those that begin to sign soon.
func (a *Authority) JWTKeys() ([]*snapshot.JWTKey, error) {
	a.jwtMu.Lock()
	defer a.jwtMu.Unlock()
	keys, err := a.jwtKeysNow()
	if err != nil {
		return nil, err
	}
	var public []*snapshot.JWTKey
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k.key.Public())
		if err != nil {
			return nil, err
		}
		public = append(public, &snapshot.JWTKey{Id: k.id, PublicKey: der})
	}
	return public, nil
}

// signJWT makes a JWT-SVID (JWT-SVID §3): ES256, for one SPIFFE ID and its audience, on a node. It is of after where that is
// not over: what was before it is revoked.
func (a *Authority) signJWT(id, node string, audience []string, after time.Time) (string, Issued, error) {
	a.jwtMu.Lock()
	keys, err := a.jwtKeysNow()
	a.jwtMu.Unlock()
	if err != nil {
		return "", Issued{}, err
	}
	now := a.cfg.Now()
	if now.Before(after) {
		now = after
	}
	with := keys[0]
	for _, k := range keys[1:] {
		if !now.Before(k.begins) {
			with = k
		}
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: with.key, KeyID: with.id}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", Issued{}, fmt.Errorf("sign a JWT-SVID of %s: %w", id, err)
	}
	issued := Issued{Serial: randomID(), SPIFFEID: id, Node: node, NotBefore: now, NotAfter: now.Add(JWTLife)}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject: id, Audience: audience, ID: issued.Serial, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(issued.NotAfter),
	}).Claims(map[string]any{NodeClaim: node}).Serialize()
	if err != nil {
		return "", Issued{}, fmt.Errorf("sign a JWT-SVID of %s: %w", id, err)
	}
	return token, issued, nil
}

// BundleRoots are the certificates that X.509-SVIDs of the trust domain chain to at this moment, as the newest roster has
// them.
func (a *Authority) BundleRoots() (roots []*x509.Certificate, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, der := range a.roster.GetRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root in the roster: %w", err)
		}
		roots = append(roots, root)
	}
	return roots, nil
}
