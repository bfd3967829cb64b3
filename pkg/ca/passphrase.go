package ca

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/crypto/argon2"
)

const (
	sealedType = "SENNIT SEALED KEY"

	// The cost of a guess: what RFC 9106 §4 recommends where memory is limited.
	argonTime, argonMemory, argonThreads = 3, 64 << 10, 4 // passes, KiB, lanes

	// What a file may ask for at most, so that a foreign one does not exhaust this host.
	maxArgonTime, maxArgonMemory, maxArgonThreads = 16, 1 << 20, 16

	saltSize      = 16
	minPassphrase = 12
	maxPassphrase = 4 << 10
	maxSealedFile = 64 << 10
)

// ErrPassphrase is returned where a key is sealed under another passphrase than the one that was given, or none was.
var ErrPassphrase = errors.New("the passphrase is wrong")

// A Passphrase asks for a passphrase: it reads a file, or asks whoever sits at the terminal. nil: there is none.
type Passphrase func() ([]byte, error)

// get asks for the passphrase, without white space around it, as files end with a line feed.
func (p Passphrase) get() ([]byte, error) {
	if p == nil {
		return nil, fmt.Errorf("%w: none was given (name the file that holds it with --passphrase-file)", ErrPassphrase)
	}
	passphrase, err := p()
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	passphrase = bytes.TrimSpace(passphrase)
	if len(passphrase) < minPassphrase || len(passphrase) > maxPassphrase {
		return nil, fmt.Errorf("%w: it has %d bytes, want %d to %d", ErrPassphrase, len(passphrase), minPassphrase, maxPassphrase)
	}
	return passphrase, nil
}

// sealSecret seals a secret under a passphrase, as a PEM block. purpose says what it is, and is authenticated with it.
func sealSecret(ask Passphrase, purpose string, secret []byte) ([]byte, error) {
	passphrase, err := ask.get()
	if err != nil {
		return nil, err
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	block := &pem.Block{Type: sealedType, Headers: map[string]string{
		"Purpose": purpose, "Kdf": "argon2id", "Time": strconv.Itoa(argonTime), "Memory": strconv.Itoa(argonMemory), "Threads": strconv.Itoa(argonThreads),
		"Salt": base64.StdEncoding.EncodeToString(salt),
	}}
	aead, err := passphraseAEAD(passphrase, salt, argonTime, argonMemory, argonThreads)
	if err != nil {
		return nil, err
	}
	block.Bytes = aead.Seal(nil, nil, secret, []byte(purpose))
	return pem.EncodeToMemory(block), nil
}

// isSealed reports whether a file's content was sealed under a passphrase.
func isSealed(data []byte) bool {
	return bytes.Contains(data, []byte("-----BEGIN "+sealedType+"-----"))
}

// openSecret opens what sealSecret made: the first such block in data. Errors are ErrPassphrase, or ErrCorrupt.
func openSecret(ask Passphrase, purpose string, data []byte) ([]byte, error) {
	if len(data) > maxSealedFile {
		return nil, fmt.Errorf("%w: a sealed key of %d bytes", ErrCorrupt, len(data))
	}
	var block *pem.Block
	for rest := data; ; {
		if block, rest = pem.Decode(rest); block == nil || block.Type == sealedType {
			break
		}
	}
	if block == nil {
		return nil, fmt.Errorf("%w: no sealed key is in it", ErrCorrupt)
	}
	number := func(name string, most int) int {
		n, err := strconv.Atoi(block.Headers[name])
		if err != nil || n < 1 || n > most {
			return 0
		}
		return n
	}
	time, memory, threads := number("Time", maxArgonTime), number("Memory", maxArgonMemory), number("Threads", maxArgonThreads)
	salt, err := base64.StdEncoding.DecodeString(block.Headers["Salt"])
	switch {
	case block.Headers["Purpose"] != purpose:
		return nil, fmt.Errorf("%w: it is a sealed %q, and a %q is wanted", ErrCorrupt, block.Headers["Purpose"], purpose)
	case block.Headers["Kdf"] != "argon2id", time == 0, memory == 0, threads == 0, err != nil, len(salt) < saltSize:
		return nil, fmt.Errorf("%w: the head of the sealed key is not one that this version writes", ErrCorrupt)
	}
	passphrase, err := ask.get()
	if err != nil {
		return nil, err
	}
	aead, err := passphraseAEAD(passphrase, salt, uint32(time), uint32(memory), uint8(threads))
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nil, block.Bytes, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("%w, or the file is damaged", ErrPassphrase)
	}
	return secret, nil
}

func passphraseAEAD(passphrase, salt []byte, time, memory uint32, threads uint8) (cipher.AEAD, error) {
	block, err := aes.NewCipher(argon2.IDKey(passphrase, salt, time, memory, threads, 32))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
