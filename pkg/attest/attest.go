package attest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Provider is a cloud.
type Provider string

// The clouds whose documents are understood.
const (
	Amazon Provider = "aws"
	Google Provider = "gcp"
	Azure  Provider = "azure"
)

// Providers are all of them.
var Providers = []Provider{Amazon, Google, Azure}

// ErrEvidence is wrapped by whatever is wrong with evidence itself: its sender did not prove what was asked.
var ErrEvidence = errors.New("the evidence does not prove it")

// MaxEvidence is the size in bytes from which evidence is refused unread. Real ones have 2 to 8 KB.
const MaxEvidence = 32 << 10

// An Instance is what a cloud says of a machine.
type Instance struct {
	Provider Provider
	Account  string    // AWS account, Google project, Azure subscription
	Place    string    // AWS region, Google zone; empty for Azure
	ID       string    // of the machine; no other of the provider has it, ever
	Since    time.Time // AWS: when the instance was launched; else when the document was made
}

// Name is what the machine is called in a mesh: "aws-i-0abc".
func (i *Instance) Name() string { return string(i.Provider) + "-" + strings.ToLower(i.ID) }

// A Challenge is the SHA-256 of the request that evidence comes with.
type Challenge [sha256.Size]byte

// audience is the challenge as Google puts it into a token.
func (c Challenge) audience() string { return "sennit:" + hex.EncodeToString(c[:]) }

// nonce is the challenge as Azure puts it into a document, which has place for ten digits. 33 bits do not keep somebody
// from finding two requests with the same ones who can make both; to find another for a document of somebody else's he
// tries some ten thousand million, within the hours that the document is good for: it is a hurdle and no proof.
func (c Challenge) nonce() string {
	return fmt.Sprintf("%010d", binary.BigEndian.Uint64(c[:8])%10_000_000_000)
}

// Verify returns what evidence says of the instance that sent it, at the time now. An error wraps ErrEvidence, unless
// the verifier has no keys of the provider.
func (v *Verifier) Verify(provider Provider, evidence []byte, challenge Challenge, now time.Time) (*Instance, error) {
	if len(evidence) > MaxEvidence {
		return nil, fmt.Errorf("verify evidence of %s: %w: it has %d bytes", provider, ErrEvidence, len(evidence))
	}
	if slices.Contains(Providers, provider) && !v.Has(provider) {
		return nil, fmt.Errorf("verify evidence of %s: %w", provider, errNoKeys)
	}
	var instance *Instance
	var err error
	switch provider {
	case Amazon:
		instance, err = v.amazon(evidence)
	case Google:
		instance, err = v.google(evidence, challenge.audience(), now)
	case Azure:
		instance, err = v.azure(evidence, challenge.nonce(), now)
	default:
		return nil, fmt.Errorf("%w: no cloud is called %q", ErrEvidence, provider)
	}
	if err != nil {
		return nil, fmt.Errorf("verify evidence of %s: %w", provider, err)
	}
	return instance.named(provider)
}

// Read returns what evidence says of the instance, without any proof: for the host that is about to send it.
func Read(provider Provider, evidence []byte) (instance *Instance, err error) {
	switch provider {
	case Amazon:
		instance, err = readAmazon(evidence)
	case Google:
		instance, err = readGoogle(evidence)
	case Azure:
		instance, err = readAzure(evidence)
	default:
		return nil, fmt.Errorf("%w: no cloud is called %q", ErrEvidence, provider)
	}
	if err != nil {
		return nil, fmt.Errorf("read evidence of %s: %w", provider, err)
	}
	return instance.named(provider)
}

// named refuses an instance without the names that a machine has.
func (i *Instance) named(provider Provider) (*Instance, error) {
	for _, name := range []string{i.Account, i.ID} {
		if name == "" {
			return nil, fmt.Errorf("evidence of %s: %w: it names no machine", provider, ErrEvidence)
		}
	}
	if len(i.Account) > maxName || len(i.ID) > maxName || len(i.Place) > maxName {
		return nil, fmt.Errorf("evidence of %s: %w: its names are too long", provider, ErrEvidence)
	}
	i.Provider = provider
	return i, nil
}

const maxName = 128 // bytes of what a cloud calls something

// refused is an error of evidence.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrEvidence, fmt.Errorf(format, args...))
}
