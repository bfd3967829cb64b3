package sim

import (
	"crypto/ed25519"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"time"
)

// A verifier verifies for all nodes, and counts it. While it shares, the first node to see a signature
// verifies it and the others take its word: what is measured then is everything but the verifying.
type verifier struct {
	sharing  atomic.Bool
	asked    atomic.Int64
	verified atomic.Int64

	mu    sync.Mutex
	known map[signed]*verdict
}

type signed struct {
	public    [ed25519.PublicKeySize]byte
	signature [ed25519.SignatureSize]byte
	message   string
}

type verdict struct {
	once sync.Once
	good bool
}

func newVerifier() *verifier { return &verifier{known: map[signed]*verdict{}} }

// share begins or ends sharing.
func (v *verifier) share(on bool) {
	v.sharing.Store(on)
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.known)
}

// verify is a snapshot.Verify.
func (v *verifier) verify(public ed25519.PublicKey, message, signature []byte) bool {
	v.asked.Add(1)
	if !v.sharing.Load() {
		v.verified.Add(1)
		return ed25519.Verify(public, message, signature)
	}
	key := signed{[ed25519.PublicKeySize]byte(public), [ed25519.SignatureSize]byte(signature), string(message)}
	v.mu.Lock()
	found := v.known[key]
	if found == nil {
		found = new(verdict)
		v.known[key] = found
	}
	v.mu.Unlock()
	found.once.Do(func() {
		v.verified.Add(1)
		found.good = ed25519.Verify(public, message, signature)
	})
	return found.good
}

// verifyCost measures what one verification costs here: the fastest of several runs, since whatever else the
// machine does only adds to it.
func verifyCost() time.Duration {
	const runs, each = 20, 50
	public, private, _ := ed25519.GenerateKey(rand.Reader) // never fails
	message := make([]byte, 64)
	signature := ed25519.Sign(private, message)
	fastest := time.Hour
	for range runs {
		start := time.Now()
		for range each {
			ed25519.Verify(public, message, signature)
		}
		fastest = min(fastest, time.Since(start)/each)
	}
	return fastest
}
