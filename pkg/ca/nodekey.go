package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/sennit-mesh/sennit/pkg/attest"
)

// A TPM keeps a node's own key, and proves that it does (*tpm.Device).
type TPM interface {
	NewKey() (stored []byte, err error)
	Key(stored []byte) (crypto.Signer, error)
	Attestor() (attest.Attestor, error)
}

// ErrNoTPM is returned where a node's key is in a TPM, or has to be, and the node was given none.
var ErrNoTPM = errors.New("it takes this host's TPM")

// storedInTPM begins what is stored of a key in a TPM. No PKCS #8 does.
var storedInTPM = []byte("sennit tpm key v1\x00")

// A nodeKey is a node's own key, of one generation.
type nodeKey struct {
	crypto.Signer        // P-256
	stored        []byte // PKCS #8; or storedInTPM, and what the TPM wrapped
	spki          []byte // SubjectPublicKeyInfo
}

// inTPM reports whether a key that is stored so is in a TPM.
func inTPM(stored []byte) bool { return bytes.HasPrefix(stored, storedInTPM) }

// newKey makes a key of the node.
func (i *Identity) newKey(toTPM bool) (*nodeKey, error) {
	if !toTPM {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		stored, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return newNodeKey(key, stored)
	}
	if i.cfg.TPM == nil {
		return nil, fmt.Errorf("make the node's key: %w", ErrNoTPM)
	}
	wrapped, err := i.cfg.TPM.NewKey()
	if err != nil {
		return nil, err
	}
	return i.openKey(append(bytes.Clone(storedInTPM), wrapped...))
}

// openKey reads a key of the node. A TPM is not asked before the key signs.
func (i *Identity) openKey(stored []byte) (*nodeKey, error) {
	wrapped, is := bytes.CutPrefix(stored, storedInTPM)
	if !is {
		key, err := parseKey(stored)
		if err != nil {
			return nil, err
		}
		return newNodeKey(key, stored)
	}
	if i.cfg.TPM == nil {
		return nil, fmt.Errorf("read the node's key: %w", ErrNoTPM)
	}
	key, err := i.cfg.TPM.Key(wrapped)
	if err != nil {
		return nil, err
	}
	return newNodeKey(key, stored)
}

func newNodeKey(key crypto.Signer, stored []byte) (*nodeKey, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &nodeKey{key, stored, spki}, nil
}

// KeyInTPM reports whether the key that the node has now is in a TPM.
func (i *Identity) KeyInTPM() bool { return inTPM(i.current().GetKey()) }

// ownCertificate is the node's, with its key.
func (i *Identity) ownCertificate(state *NodeIdentity) (*tls.Certificate, error) {
	if !inTPM(state.GetKey()) {
		return certificateOf(state.GetNodeChain(), state.GetKey())
	}
	chain, err := parseChain(state.GetNodeChain())
	if err != nil {
		return nil, err
	}
	key, err := i.openKey(state.GetKey())
	if err != nil {
		return nil, err
	}
	if !sameKey(key, chain[0].PublicKey) {
		return nil, errors.New("certificate and key do not belong together")
	}
	return &tls.Certificate{Certificate: state.GetNodeChain(), PrivateKey: key.Signer, Leaf: chain[0]}, nil
}

// sameKey reports whether a public key is that of key.
func sameKey(key crypto.Signer, public crypto.PublicKey) bool {
	own, is := key.Public().(*ecdsa.PublicKey)
	return is && own.Equal(public)
}
