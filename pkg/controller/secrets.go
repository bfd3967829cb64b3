package controller

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"

	"github.com/sennit-mesh/sennit/pkg/ca"
)

// documentsSecret is where the authority keeps the key that seals Secrets in the log of documents.
const documentsSecret = "documents"

// documentSealer seals what the log of documents must not show, with a key of the authority's, which a first start
// makes.
func documentSealer(authority *ca.Authority) (cipher.AEAD, error) {
	key, err := authority.Secret(documentsSecret)
	if err != nil {
		return nil, fmt.Errorf("key of sealed documents: %w", err)
	}
	if key == nil {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // does not fail
		if err := authority.PutSecret(documentsSecret, key); err != nil {
			return nil, fmt.Errorf("key of sealed documents: %w", err)
		}
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of sealed documents: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}
