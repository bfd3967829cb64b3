package attest

import (
	"encoding/asn1"
	"encoding/base64"
	"strings"

	"github.com/smallstep/pkcs7"
)

var (
	sha256OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	sha384OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	sha512OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}

	sha256WithRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11} // names a signature (RFC 8017 §A.2.4)
)

// parseSigned reads base64 (with or without line breaks) of a SignedData with one signer and its content (RFC 2315 §9).
// Its signature is not verified yet. A hash that is broken is refused here: the library takes SHA-1.
func parseSigned(text []byte) (*pkcs7.PKCS7, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		return nil, refused("%w", err)
	}
	signed, err := pkcs7.Parse(der)
	if err != nil {
		return nil, refused("%w", err)
	}
	if len(signed.Signers) != 1 || len(signed.Content) == 0 {
		return nil, refused("a document with %d signatures", len(signed.Signers))
	}
	if digest := &signed.Signers[0].DigestAlgorithm.Algorithm; digest.Equal(sha256WithRSA) {
		*digest = sha256OID // Azure has the signature's algorithm where its hash's belongs
	}
	digest := signed.Signers[0].DigestAlgorithm.Algorithm
	if !digest.Equal(sha256OID) && !digest.Equal(sha384OID) && !digest.Equal(sha512OID) {
		return nil, refused("its signature is over a hash of kind %s", digest)
	}
	return signed, nil
}
