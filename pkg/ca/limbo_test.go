package ca

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// A limboCase is one case of x509-limbo (https://x509-limbo.com), as limbo.json has it.
type limboCase struct {
	ID       string   `json:"id"`
	Features []string `json:"features"`
	Trusted  []string `json:"trusted_certs"`
	Others   []string `json:"untrusted_intermediates"`
	Peer     string   `json:"peer_certificate"`
	Time     *string  `json:"validation_time"`
	Expected string   `json:"expected_result"`
}

// verify runs a case through the way that peers' chains are verified.
func (c limboCase) verify() error {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	if c.Time != nil {
		var err error
		if now, err = time.Parse(time.RFC3339, *c.Time); err != nil {
			return err
		}
	}
	roots := x509.NewCertPool()
	for _, text := range c.Trusted {
		root, err := limboCertificate(text)
		if err != nil {
			return err
		}
		roots.AddCert(root)
	}
	var ders [][]byte
	for _, text := range append([]string{c.Peer}, c.Others...) {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return errors.New("no PEM")
		}
		ders = append(ders, block.Bytes)
	}
	chain, err := parseChain(ders)
	if err != nil {
		return err
	}
	if err := checkLeaf(chain[0]); err != nil {
		return err
	}
	return leadsTo(chain, roots, now)
}

func limboCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// TestLimbo runs the published cases of x509-limbo. The file is not part of this repository: it is named by
// SENNIT_LIMBO_JSON (CONTRIBUTING.md says where it is).
func TestLimbo(t *testing.T) {
	file := os.Getenv("SENNIT_LIMBO_JSON")
	if file == "" {
		t.Skip("SENNIT_LIMBO_JSON names no copy of limbo.json")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var limbo struct {
		Cases []limboCase `json:"testcases"`
	}
	if err := json.Unmarshal(data, &limbo); err != nil || len(limbo.Cases) == 0 {
		t.Fatalf("%s holds %d cases: %v", file, len(limbo.Cases), err)
	}
	counts := map[string]int{}
	for _, c := range limbo.Cases {
		err := c.verify()
		good := c.Expected == "SUCCESS"
		switch reason := exempt(c); {
		case (err == nil) == good:
			counts["as expected"]++
		case reason != "":
			counts[reason]++
		default:
			t.Errorf("%s %v: %v, expected %s", c.ID, c.Features, err, c.Expected)
		}
	}
	t.Logf("%d cases: %v", len(limbo.Cases), counts)
}

// Why what is expected of those who verify the certificates of web servers is not expected of peers.
const (
	notAName    = "about names of hosts: a peer's name is its SPIFFE ID, the only URI"
	ofRoots     = "about a root's own extensions: roots come with the roster, and a key is what is trusted (RFC 5280 §6.1.1)"
	ofIssuers   = "asked of who issues, not of who verifies (RFC 5280 §4.2)"
	ofPublicCAs = "asked of public authorities"
	eitherWay   = "about a server's certificate that is for clients alone: peers call and are called, and one of the two is enough"
	stricter    = "refused, where it need not be"
	noLists     = "about lists of revoked certificates: what is revoked comes as configuration"
	soon        = "bounded otherwise: by the size of a handshake; all names and constraints are compared within milliseconds"
	fixedDepth  = "about a bound that the caller chooses: ours is fixed"
)

// exemptions are cases that turn out otherwise than x509-limbo has it, and why that is right here. No other may.
var exemptions = map[string]string{
	"pathlen::self-issued-certs-pathlen":              stricter, // Go counts self-issued ones
	"pathlen::validation-ignores-pathlen-in-leaf":     stricter, // the leaf is an authority
	"pathlen::max-chain-depth-0-exhausted":            fixedDepth,
	"pathlen::max-chain-depth-1-exhausted":            fixedDepth,
	"rfc5280::nc::permitted-dn-match":                 stricter, // Go knows no constraints on these names
	"rfc5280::nc::permitted-self-issued":              stricter,
	"rfc5280::aki::leaf-missing-aki":                  ofIssuers,
	"rfc5280::aki::intermediate-missing-aki":          ofIssuers,
	"rfc5280::aki::cross-signed-root-missing-aki":     ofIssuers,
	"rfc5280::nc::permitted-dns-match-noncritical":    ofIssuers, // the constraint is enforced
	"rfc5280::nc::not-allowed-in-ee-noncritical":      ofIssuers,
	"rfc5280::nc::not-allowed-in-ee-critical":         ofIssuers,
	"rfc5280::san::noncritical-with-empty-subject":    ofIssuers,
	"rfc5280::serial::too-long":                       ofIssuers,
	"rfc5280::serial::zero":                           ofIssuers,
	"rfc5280::ski::intermediate-missing-ski":          ofIssuers,
	"rfc5280::ee-empty-issuer":                        ofIssuers,
	"rfc5280::ca-empty-subject":                       ofIssuers,
	"rfc5280::ski::root-missing-ski":                  ofRoots,
	"rfc5280::root-non-critical-basic-constraints":    ofRoots,
	"rfc5280::root-inconsistent-ca-extensions":        ofRoots,
	"rfc5280::eku::ee-wrong-eku":                      eitherWay,
	"rfc5280::no-keyusage":                            stricter,    // X509-SVID §4.3
	"webpki::forbidden-dsa-spki-leaf":                 ofPublicCAs, // and no TLS 1.3 with it
	"webpki::eku::ee-anyeku":                          ofPublicCAs,
	"webpki::eku::ee-critical-eku":                    ofPublicCAs,
	"webpki::eku::ee-without-eku":                     ofPublicCAs,
	"webpki::eku::root-has-eku":                       ofPublicCAs,
	"webpki::forbidden-signature-algorithm-in-leaf":   ofPublicCAs,
	"webpki::san::public-suffix-wildcard-san":         notAName,
	"webpki::san::san-critical-with-nonempty-subject": ofIssuers,

	// Of the cases as their generator makes them today.
	"pathological::nc-dos-1":                               soon,
	"pathological::nc-dos-2":                               soon,
	"pathological::nc-dos-3":                               soon,
	"rfc5280::nc::invalid-dnsname-leading-period":          notAName,
	"rfc5280::nc::nc-forbids-othername-noop":               stricter,
	"rfc5280::pc::ica-noncritical-pc":                      ofIssuers,
	"rfc5280::san::underscore-dns":                         notAName,
	"rfc5280::san::ip-in-dns":                              notAName,
	"rfc5280::validity::notafter-fractional":               stricter,    // by less than a second
	"rfc5280::ca-as-leaf":                                  stricter,    // X509-SVID §5.2
	"webpki::forbidden-dsa-leaf":                           ofPublicCAs, // and no TLS 1.3 with it
	"webpki::forbidden-weak-rsa-key-in-root":               ofPublicCAs,
	"webpki::forbidden-rsa-not-divisible-by-8-in-root":     ofPublicCAs,
	"webpki::forbidden-rsa-key-not-divisible-by-8-in-leaf": ofPublicCAs,
}

func exempt(c limboCase) string {
	switch {
	case exemptions[c.ID] != "":
		return exemptions[c.ID]
	case strings.HasPrefix(c.ID, "webpki::san::"), strings.HasPrefix(c.ID, "webpki::cn::"):
		return notAName
	case strings.HasPrefix(c.ID, "crl::"):
		return noLists
	case strings.HasPrefix(c.ID, "webpki::aki::root-"):
		return ofRoots
	}
	return ""
}
