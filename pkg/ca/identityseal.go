package ca

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

const (
	// NodeCredentialName is the systemd credential that seals a node's keys where the unit has one
	// (LoadCredentialEncrypted=sennit-node-key): 32 random bytes or more.
	NodeCredentialName = "sennit-node-key"

	identityPurpose = "node identity"
)

// sealedValue begins what a node seals. Nothing else that it stores does.
var sealedValue = []byte("sennit sealed v1\x00")

// ErrSealed is returned for a node's keys that are sealed where the key that they are sealed under was not given.
var ErrSealed = errors.New("it is sealed")

// nodeSealer is systemd's credential, or the key file that is named; nil where there is neither.
func nodeSealer(file string) (*sealer, error) {
	secret, from, err := credential(NodeCredentialName)
	if err == nil && secret == nil && file != "" {
		from = file
		secret, err = readKeyFile(file, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key that the node's keys are sealed under: %w", err)
	}
	if secret == nil {
		return nil, nil //nolint:nilnil // there is none: keys are protected by the mode of their file
	}
	return newSealer(secret, from)
}

// Seal seals what else the node keeps, under the key that its identity is sealed under. Where there is none, it returns
// plain. purpose says what it is, so that values cannot be swapped.
func (i *Identity) Seal(purpose string, plain []byte) []byte {
	if i.sealer == nil {
		return plain
	}
	return append(bytes.Clone(sealedValue), i.sealer.seal(purpose, plain)...)
}

// Open opens what Seal returned, also before there was a key. It returns ErrSealed where a key is missing.
func (i *Identity) Open(purpose string, value []byte) ([]byte, error) {
	sealed, is := bytes.CutPrefix(value, sealedValue)
	switch {
	case !is:
		return value, nil
	case i.sealer == nil:
		return nil, fmt.Errorf("%w: %s needs the systemd credential %s, or the file of --key-file", ErrSealed, purpose, NodeCredentialName)
	}
	return i.sealer.open(purpose, sealed)
}

// encodeIdentity is how an identity is stored: with a sum over it, and sealed where there is a key.
func (i *Identity) encodeIdentity(state *NodeIdentity) ([]byte, error) {
	data, err := proto.Marshal(state)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return i.Seal(identityPurpose, append(sum[:], data...)), nil
}

func (i *Identity) decodeIdentity(value []byte) (*NodeIdentity, error) {
	value, err := i.Open(identityPurpose, value)
	if err != nil {
		return nil, err
	}
	if len(value) < sha256.Size {
		return nil, ErrCorrupt
	}
	if sum := sha256.Sum256(value[sha256.Size:]); !bytes.Equal(sum[:], value[:sha256.Size]) {
		return nil, ErrCorrupt
	}
	state := &NodeIdentity{}
	return state, proto.Unmarshal(value[sha256.Size:], state)
}
