package attest

import (
	"encoding/json"
	"time"
)

// amazonDocument is what of an instance identity document is looked at.
type amazonDocument struct {
	Account string    `json:"accountId"`
	Region  string    `json:"region"`
	ID      string    `json:"instanceId"`
	Pending time.Time `json:"pendingTime"`
}

// amazon reads the answer of /latest/dynamic/instance-identity/rsa2048: base64 of a SignedData of PKCS #7 that holds the
// document. The certificate of the signature must be one of those that are known, whatever certificates are in there.
func (v *Verifier) amazon(evidence []byte) (*Instance, error) {
	signed, err := parseSigned(evidence)
	if err != nil {
		return nil, err
	}
	signed.Certificates = v.Amazon
	if err := signed.Verify(); err != nil {
		return nil, refused("its signature: %w", err)
	}
	return amazonInstance(signed.Content)
}

func readAmazon(evidence []byte) (*Instance, error) {
	signed, err := parseSigned(evidence)
	if err != nil {
		return nil, err
	}
	return amazonInstance(signed.Content)
}

func amazonInstance(content []byte) (*Instance, error) {
	var document amazonDocument
	if err := json.Unmarshal(content, &document); err != nil {
		return nil, refused("the instance identity document: %w", err)
	}
	return &Instance{Account: document.Account, Place: document.Region, ID: document.ID, Since: document.Pending}, nil
}
