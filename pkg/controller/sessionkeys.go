package controller

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/sennit-mesh/sennit/pkg/ca"
)

// sessionsSecret is where the authority keeps the key that those of sessions are made from.
const sessionsSecret = "sessions"

// sessionKeys makes the keys of sessions of those who sign in at gateways, one for each AuthenticationPolicy. A policy that is
// deleted and written again has another.
func sessionKeys(authority *ca.Authority) (func(origin, uid string) []byte, error) {
	root, err := authority.Secret(sessionsSecret)
	if err != nil {
		return nil, fmt.Errorf("key of sessions: %w", err)
	}
	if root == nil {
		root = make([]byte, 32)
		_, _ = rand.Read(root) // does not fail
		if err := authority.PutSecret(sessionsSecret, root); err != nil {
			return nil, fmt.Errorf("key of sessions: %w", err)
		}
	}
	return func(origin, uid string) []byte {
		mac := hmac.New(sha256.New, root)
		fmt.Fprintf(mac, "sennit sessions v1 %q %q", origin, uid)
		return mac.Sum(nil)
	}, nil
}
