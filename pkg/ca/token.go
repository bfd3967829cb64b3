package ca

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// A token's string is "sjt1." and, in base64url without padding, the encoded TokenBody followed by the
// first tokenSumSize bytes of its SHA-256, so that a token that was cut or mistyped is recognised before
// anybody is asked.
const (
	tokenPrefix  = "sjt1."
	tokenSumSize = 6
	maxToken     = 16 << 10 // bytes of the string

	tokenIDSize = 16
	seedSize    = ed25519.SeedSize

	// DefaultTokenTTL is how long a join token may be used.
	DefaultTokenTTL = time.Hour
	minTokenTTL     = time.Minute
	maxTokenTTL     = 30 * 24 * time.Hour

	maxServices  = 256 // of one node
	maxAddresses = 16
)

// A Token lets one host join once. It is secret until it was used or has expired.
type Token struct {
	body *TokenBody
	raw  []byte // body as it was encoded
}

// ParseToken reads the string that `sennit join-token create` printed; white space around and within it
// (a terminal's line breaks) is ignored. It returns ErrTokenMalformed for what is no whole token. The
// token's expiry is not looked at: see Expired.
func ParseToken(s string) (*Token, error) {
	const remedy = "copy all of it, or make another with `sennit join-token create`"
	s = strings.Join(strings.Fields(s), "")
	encoded, found := strings.CutPrefix(s, tokenPrefix)
	if !found || len(s) > maxToken {
		return nil, refuse(ErrTokenMalformed, "it does not begin with %q; %s", tokenPrefix, remedy)
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(data) <= tokenSumSize {
		return nil, refuse(ErrTokenMalformed, "characters are missing or were changed; %s", remedy)
	}
	raw, sum := data[:len(data)-tokenSumSize], data[len(data)-tokenSumSize:]
	if want := sha256.Sum256(raw); subtle.ConstantTimeCompare(want[:tokenSumSize], sum) != 1 {
		return nil, refuse(ErrTokenMalformed, "its check sum is wrong, so it was cut or mistyped; %s", remedy)
	}
	body := &TokenBody{}
	if err := proto.Unmarshal(raw, body); err != nil {
		return nil, refuse(ErrTokenMalformed, "%v; %s", err, remedy)
	}
	if err := checkToken(body); err != nil {
		return nil, refuse(ErrTokenMalformed, "%v; %s", err, remedy)
	}
	return &Token{body: body, raw: raw}, nil
}

// checkToken makes sure that the rest of the package need not.
func checkToken(body *TokenBody) error {
	if err := CheckNodeName(body.GetNode()); err != nil {
		return err
	}
	if err := checkTrustDomain(body.GetTrustDomain()); err != nil {
		return err
	}
	if _, err := parseServices(body.GetServices()); err != nil {
		return err
	}
	switch {
	case len(body.GetId()) != tokenIDSize, len(body.GetSeed()) != seedSize, len(body.GetRootHash()) != sha256.Size:
		return fmt.Errorf("a field has the wrong length")
	case body.GetCluster() == "", len(body.GetCluster()) > maxClusterName:
		return fmt.Errorf("the cluster's name has %d bytes", len(body.GetCluster()))
	case len(body.GetAddresses()) == 0, len(body.GetAddresses()) > maxAddresses:
		return fmt.Errorf("%d bus addresses", len(body.GetAddresses()))
	}
	return nil
}

// newToken encodes a body.
func newToken(body *TokenBody) (*Token, error) {
	if err := checkToken(body); err != nil {
		return nil, err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &Token{body: body, raw: raw}, nil
}

// Secret is the token's string. (It is not called String, so that no log prints a token by accident.)
func (t *Token) Secret() string {
	sum := t.digest()
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.raw[:len(t.raw):len(t.raw)], sum[:tokenSumSize]...))
}

// String says which token it is, without what makes it one.
func (t *Token) String() string {
	return fmt.Sprintf("join token %x for node %s", t.body.GetId()[:4], t.body.GetNode())
}

// Cluster is the cluster that the token is for.
func (t *Token) Cluster() string { return t.body.GetCluster() }

// Node is the name that the host will have.
func (t *Token) Node() string { return t.body.GetNode() }

// ID names the token: 32 hexadecimal digits.
func (t *Token) ID() string { return fmt.Sprintf("%x", t.body.GetId()) }

// Addresses are those of the bus, host:port.
func (t *Token) Addresses() []string { return t.body.GetAddresses() }

// Expires is when the controllers stop taking the token.
func (t *Token) Expires() time.Time { return time.UnixMilli(t.body.GetExpiresUnixMs()) }

// Expired returns ErrTokenExpired where now is past the token's end.
func (t *Token) Expired(now time.Time) error {
	if !now.After(t.Expires()) {
		return nil
	}
	return refuse(ErrTokenExpired, "it ended %s, and this host's clock says %s; if the clock is right, make another with `sennit join-token create --node %s`",
		t.Expires().UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), t.Node())
}

func (t *Token) digest() [sha256.Size]byte { return sha256.Sum256(t.raw) }

func (t *Token) key() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(t.body.GetSeed()) }
