package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/sennit-mesh/sennit/pkg/attest"
)

// ErrKey is returned for what is no key of this TPM.
var ErrKey = errors.New("this TPM did not make the key, or it was cleared since")

// A Key signs in the TPM. It is a crypto.Signer with a P-256 key, for SHA-256 alone. It is safe for concurrent use.
type Key struct {
	device  *Device
	public  *ecdsa.PublicKey
	wrapped wrapped
}

// wrapped is a key as the TPM gives it out: its description, and what it alone can open.
type wrapped struct {
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
}

// NewKey makes a key that never leaves the TPM, and returns what is to be stored of it. It says nothing to other TPMs; who
// has it and can use this TPM can sign.
func (d *Device) NewKey() (stored []byte, err error) {
	err = d.use(func(t *session) error {
		made, err := t.create(attest.KeyPublic())
		if err == nil {
			stored = tpm2.Marshal(made.public)
			stored = append(stored, tpm2.Marshal(made.private)...)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return stored, nil
}

// Key reads what NewKey returned, as a *Key. The TPM is not asked yet.
func (d *Device) Key(stored []byte) (crypto.Signer, error) {
	return d.key(stored)
}

func (d *Device) key(stored []byte) (*Key, error) {
	var public, private cryptobyte.String
	s := cryptobyte.String(stored)
	if !s.ReadUint16LengthPrefixed(&public) || !s.ReadUint16LengthPrefixed(&private) || !s.Empty() {
		return nil, fmt.Errorf("%w: what was stored of it is damaged", ErrKey)
	}
	k := &Key{device: d, wrapped: wrapped{public: tpm2.BytesAs2B[tpm2.TPMTPublic](public), private: tpm2.TPM2BPrivate{Buffer: private}}}
	var err error
	if k.public, err = publicOf(k.wrapped.public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return k, nil
}

// Public returns an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign has the TPM sign a SHA-256, and returns ASN.1. The TPM has its own randomness.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("sign with a key in a TPM: a %s of %d bytes, want SHA-256", opts.HashFunc(), len(digest))
	}
	err = k.device.use(func(t *session) error {
		key, err := t.load(k.wrapped)
		if err != nil {
			return err
		}
		signed, err := tpm2.Sign{
			KeyHandle: key, Digest: tpm2.TPM2BDigest{Buffer: digest}, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(t.conn)
		if err != nil {
			return err
		}
		signature, err = encodeSignature(&signed.Signature)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sign with the node's key: %w", err)
	}
	return signature, nil
}

// create makes a key under the storage key, which is not loaded yet.
func (t *session) create(public tpm2.TPMTPublic) (wrapped, error) {
	storage, err := t.storageKey()
	if err != nil {
		return wrapped{}, err
	}
	made, err := tpm2.Create{ParentHandle: storage, InPublic: tpm2.New2B(public)}.Execute(t.conn)
	if err != nil {
		return wrapped{}, err
	}
	return wrapped{made.OutPublic, made.OutPrivate}, nil
}

// load has the TPM open what it wrapped.
func (t *session) load(w wrapped) (tpm2.NamedHandle, error) {
	storage, err := t.storageKey()
	if err != nil {
		return tpm2.NamedHandle{}, err
	}
	loaded, err := tpm2.Load{ParentHandle: storage, InPrivate: w.private, InPublic: w.public}.Execute(t.conn)
	if err != nil {
		return tpm2.NamedHandle{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	t.loaded = append(t.loaded, loaded.ObjectHandle)
	return tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}, nil
}

// publicOf reads the point of a P-256 key.
func publicOf(b tpm2.TPM2BPublic) (*ecdsa.PublicKey, error) {
	public, err := b.Contents()
	if err != nil {
		return nil, err
	}
	if public.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("a key of the type %#x", public.Type)
	}
	point, err := public.Unique.ECC()
	if err != nil {
		return nil, err
	}
	if len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, errors.New("a point of another curve than P-256")
	}
	encoded := make([]byte, 65) // 4, x, y; a TPM may leave leading zeros away
	encoded[0] = 4
	copy(encoded[33-len(point.X.Buffer):], point.X.Buffer)
	copy(encoded[65-len(point.Y.Buffer):], point.Y.Buffer)
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), encoded)
}

func encodeSignature(signature *tpm2.TPMTSignature) ([]byte, error) {
	ecc, err := signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(ecc.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(ecc.SignatureS.Buffer))
	})
	return b.Bytes()
}
