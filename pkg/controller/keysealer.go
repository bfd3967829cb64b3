package controller

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A keySealer seals private keys to nodes, and remembers what it sealed: sealing the same again gives other bytes, which
// would be published as a change. It holds ciphertexts and hashes, and no key. One goroutine uses it.
type keySealer struct {
	sealed map[[32]byte][]byte // by what was sealed to whom
	used   map[[32]byte][]byte // since forget was called
}

// seal is compile.Input's.
func (s *keySealer) seal(recipient []byte, gateway string, key []byte) ([]byte, error) {
	var of []byte
	for _, part := range [][]byte{recipient, []byte(gateway), key} {
		of = binary.BigEndian.AppendUint32(of, uint32(len(part)))
		of = append(of, part...)
	}
	id := sha256.Sum256(of)
	clear(of)
	sealed := s.sealed[id]
	if sealed == nil {
		var err error
		if sealed, err = snapshot.SealKey(recipient, gateway, key); err != nil {
			return nil, err
		}
	}
	if s.used == nil {
		s.used = map[[32]byte][]byte{}
	}
	s.used[id] = sealed
	return sealed, nil
}

// forget drops what was not asked for since it was called before.
func (s *keySealer) forget() { s.sealed, s.used = s.used, nil }
