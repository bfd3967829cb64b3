package attest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"
)

// azureDocument is what of attested data is looked at.
type azureDocument struct {
	Nonce        string `json:"nonce"`
	Subscription string `json:"subscriptionId"`
	ID           string `json:"vmId"`
	TimeStamp    struct {
		Created string `json:"createdOn"`
		Expires string `json:"expiresOn"`
	} `json:"timeStamp"`
}

const azureTime = "01/02/06 15:04:05 -0700"

// azureNames are those of the public cloud and of Azure Government. China's is not among them: another company runs that
// cloud, and could say of its machines that they are of a subscription of these.
var azureNames = []string{"metadata.azure.com", "metadata.azure.us"}

// azure reads the answer of /metadata/attested/document: JSON with base64 of a SignedData of PKCS #7. The signer's
// certificate must be of Azure's name, and of an authority that is trusted at the time.
func (v *Verifier) azure(evidence []byte, nonce string, now time.Time) (*Instance, error) {
	signed, document, err := openAzure(evidence)
	if err != nil {
		return nil, err
	}
	signed.Certificates = append(signed.Certificates, v.AzureIntermediates...)
	if err := signed.VerifyWithChainAtTime(v.AzureRoots, now); err != nil {
		return nil, refused("its signature: %w", err)
	}
	signer := signed.GetOnlySigner()
	if signer == nil || !slices.ContainsFunc(signer.DNSNames, ofAzure) {
		return nil, refused("it was signed by somebody who is none of %s", strings.Join(azureNames, ", "))
	}
	created, err := time.Parse(azureTime, document.TimeStamp.Created)
	if err != nil {
		return nil, refused("when it was made: %w", err)
	}
	expires, err := time.Parse(azureTime, document.TimeStamp.Expires)
	if err != nil {
		return nil, refused("when it ends: %w", err)
	}
	switch {
	case document.Nonce != nonce:
		return nil, refused("it was made for another request")
	case now.Before(created.Add(-leeway)) || now.After(expires.Add(leeway)):
		return nil, refused("it is good from %s to %s", document.TimeStamp.Created, document.TimeStamp.Expires)
	}
	return &Instance{Account: document.Subscription, ID: document.ID, Since: created}, nil
}

// openAzure reads what is signed, and does not verify it.
func openAzure(evidence []byte) (*pkcs7.PKCS7, *azureDocument, error) {
	var answer struct {
		Encoding  string `json:"encoding"`
		Signature string `json:"signature"`
	}
	if err := json.Unmarshal(evidence, &answer); err != nil || answer.Encoding != "pkcs7" {
		return nil, nil, refused("it is no answer of the attested endpoint: encoding %q, %v", answer.Encoding, err)
	}
	signed, err := parseSigned([]byte(answer.Signature))
	if err != nil {
		return nil, nil, err
	}
	document := &azureDocument{}
	if err := json.Unmarshal(signed.Content, document); err != nil {
		return nil, nil, refused("the attested data: %w", err)
	}
	return signed, document, nil
}

func readAzure(evidence []byte) (*Instance, error) {
	_, document, err := openAzure(evidence)
	if err != nil {
		return nil, err
	}
	return &Instance{Account: document.Subscription, ID: document.ID}, nil
}

// leeway is how far the clocks of clouds and controllers may be apart.
const leeway = time.Minute

// ofAzure reports whether a name is that of the service, or of one of its regions.
func ofAzure(name string) bool {
	return slices.ContainsFunc(azureNames, func(service string) bool {
		return name == service || strings.HasSuffix(name, "."+service)
	})
}
