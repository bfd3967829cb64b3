package attest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// googleClaims is what of an instance identity token, in its full format, is looked at.
type googleClaims struct {
	Issuer   string  `json:"iss"`
	Audience string  `json:"aud"`
	Issued   float64 `json:"iat"`
	Expires  float64 `json:"exp"`
	Google   struct {
		Engine struct {
			Project string `json:"project_id"`
			Zone    string `json:"zone"`
			ID      string `json:"instance_id"`
		} `json:"compute_engine"`
	} `json:"google"`
}

var googleIssuers = []string{"https://accounts.google.com", "accounts.google.com"}

// google reads an instance identity token: a JWT that is signed with RS256, for one audience, good for an hour.
func (v *Verifier) google(evidence []byte, audience string, now time.Time) (*Instance, error) {
	token, err := parseGoogle(evidence)
	if err != nil {
		return nil, err
	}
	keys, err := v.Google()
	if err != nil {
		return nil, err
	}
	found := keys.Key(token.Signatures[0].Protected.KeyID)
	if len(found) != 1 {
		return nil, refused("it was signed with a key %q that Google does not publish", token.Signatures[0].Protected.KeyID)
	}
	content, err := token.Verify(found[0])
	if err != nil {
		return nil, refused("its signature: %w", err)
	}
	var claims googleClaims
	if err := json.Unmarshal(content, &claims); err != nil {
		return nil, refused("the token's claims: %w", err)
	}
	issued, expires := time.Unix(int64(claims.Issued), 0), time.Unix(int64(claims.Expires), 0)
	switch {
	case !slices.Contains(googleIssuers, claims.Issuer):
		return nil, refused("it is of %q", claims.Issuer)
	case claims.Audience != audience:
		return nil, refused("it was made for another request")
	case now.Before(issued.Add(-leeway)) || now.After(expires.Add(leeway)):
		return nil, refused("it is good from %s to %s", issued.UTC().Format(time.RFC3339), expires.UTC().Format(time.RFC3339))
	}
	return claims.instance(), nil
}

func readGoogle(evidence []byte) (*Instance, error) {
	token, err := parseGoogle(evidence)
	if err != nil {
		return nil, err
	}
	var claims googleClaims
	if err := json.Unmarshal(token.UnsafePayloadWithoutVerification(), &claims); err != nil {
		return nil, refused("the token's claims: %w", err)
	}
	return claims.instance(), nil
}

func parseGoogle(evidence []byte) (*jose.JSONWebSignature, error) {
	token, err := jose.ParseSignedCompact(strings.TrimSpace(string(evidence)), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, refused("the token: %w", err)
	}
	return token, nil
}

func (c *googleClaims) instance() *Instance {
	engine := c.Google.Engine
	return &Instance{Account: engine.Project, Place: engine.Zone, ID: engine.ID, Since: time.Unix(int64(c.Issued), 0)}
}
