package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/acme"

	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// account is a client of an account that the authority knows.
func (a *Authority) account(ctx context.Context) (*acme.Client, error) {
	key, err := accountKey(a.cfg.AccountKeyFile)
	if err != nil {
		return nil, fmt.Errorf("accountKeyFile: %w", err)
	}
	account, remedies := &acme.Account{}, ofAccounts
	if a.cfg.EAB != nil {
		text, err := upstreamca.ReadSecret(a.cfg.EAB.HMACKeyFile)
		if err != nil {
			return nil, fmt.Errorf("eab.hmacKeyFile: %w", err)
		}
		secret, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(string(text), "="))
		if err != nil || len(secret) == 0 {
			return nil, fmt.Errorf("eab.hmacKeyFile %s: not base64url", a.cfg.EAB.HMACKeyFile) // the error could show parts of it
		}
		remedies = ofBindings
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: a.cfg.EAB.KeyID, Key: secret}
	}
	web := a.client.HTTP()
	web.Transport = paced{next: web.Transport, now: a.now}
	client := &acme.Client{Key: key, HTTPClient: web, DirectoryURL: a.cfg.Directory, RetryBackoff: again}
	if _, err := client.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, failure("open an account", err, remedies)
	}
	return client, nil
}

// accountKey reads a key, or makes it: whole or not at all, for one that two have read in different states is two accounts.
func accountKey(file string) (crypto.Signer, error) {
	text, err := upstreamca.ReadSecret(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(file); err != nil {
			return nil, err
		}
		text, err = upstreamca.ReadSecret(file)
	}
	if err != nil {
		return nil, err
	}
	return privateKey(file, text)
}

func makeKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	whole, err := os.CreateTemp(filepath.Dir(file), ".account-key-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(whole.Name())
	err = pem.Encode(whole, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(err, whole.Sync(), whole.Close()); err != nil {
		return err
	}
	if err := os.Link(whole.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) { // another made it meanwhile
		return err
	}
	return nil
}

// privateKey reads PKCS #8 in PEM, of a key that ACME signs with.
func privateKey(file string, text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: want a private key of PKCS #8 in PEM", file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: not a key of PKCS #8", file)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T does not sign", file, key)
	}
	return signer, nil
}
