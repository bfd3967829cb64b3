package snapshot

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
)

var (
	// ErrMalformed is returned for what is no message of configuration.
	ErrMalformed = errors.New("not a message of configuration")
	// ErrCluster is returned for a message of another cluster.
	ErrCluster = errors.New("message of another cluster")
	// ErrSubject is returned for a message that arrived under another subject than it was signed for.
	ErrSubject = errors.New("message arrived under another subject than it was signed for")
	// ErrFeature is returned for a message that requires what this reader does not know: it keeps what it had.
	ErrFeature = errors.New("requires a feature that this version does not know (upgrade it)")
)

// Opened is one verified message.
type Opened struct {
	*Envelope
	KeyID string // which key signed it
	Raw   Raw    // as it was stored
}

// rememberedRoots bounds the roots that an Opener remembers. Messages of one batch come close to each other.
const rememberedRoots = 64

// An Opener verifies messages. It remembers the roots whose signature it verified, so that a batch costs one
// verification however many of its messages arrive. It is owned by one goroutine.
type Opener struct {
	cluster  string
	keys     Keys
	features map[string]bool
	roots    map[signedRoot]bool
	ring     [rememberedRoots]signedRoot // the roots in the order in which they were verified
	next     int
	verified uint64
	by       Verify
}

// A signedRoot holds the key itself and not its name, which another roster might give to another key.
type signedRoot struct {
	root      hash
	leaves    uint32
	key       [32]byte
	signature [64]byte
}

// NewOpener opens messages of one cluster for a reader that knows these features. SetKeys must be called
// before anything verifies.
func NewOpener(cluster string, features []string) *Opener {
	o := &Opener{cluster: cluster, features: map[string]bool{}, roots: map[signedRoot]bool{}, by: ed25519.Verify}
	for _, feature := range features {
		o.features[feature] = true
	}
	return o
}

// SetKeys replaces the keys that are believed. The opener keeps the map.
func (o *Opener) SetKeys(keys Keys) { o.keys = keys }

// SetVerify replaces ed25519.Verify. Its one use is a process that holds many readers, as the benchmark does,
// and counts what they verify or lets them share it.
func (o *Opener) SetVerify(by Verify) { o.by = by }

// Verifications returns how many signatures were verified so far, for metrics.
func (o *Opener) Verifications() uint64 { return o.verified }

// Open verifies one message that arrived under a subject, stored (sennit.config.…) or live (sennit.live.…).
// The error wraps ErrMalformed, ErrKey, ErrSignature, ErrCluster, ErrSubject or ErrFeature; with the last one
// the message was verified and is returned as well. The result refers to data.
func (o *Opener) Open(subject string, data []byte) (Opened, error) {
	opened, err := o.open(StoredSubject(subject), data)
	if err != nil {
		return opened, fmt.Errorf("open message of %s: %w", subject, err)
	}
	return opened, nil
}

func (o *Opener) open(stored string, data []byte) (Opened, error) {
	var m Message
	if err := proto.Unmarshal(data, &m); err != nil {
		return Opened{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	root, ok := rootOf(leafHash(m.GetEnvelope()), m.GetIndex(), m.GetLeaves(), m.GetPath())
	if !ok || m.GetLeaves() > maxLeaves {
		return Opened{}, fmt.Errorf("%w: no such path in a batch of %d", ErrMalformed, m.GetLeaves())
	}
	if err := o.verify(&m, root); err != nil {
		return Opened{}, err
	}
	e := new(Envelope)
	if err := proto.Unmarshal(m.GetEnvelope(), e); err != nil {
		return Opened{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if e.GetCluster() != o.cluster {
		return Opened{}, fmt.Errorf("%w %q (this is %q)", ErrCluster, e.GetCluster(), o.cluster)
	}
	if e.GetChunk() >= e.GetChunks() || e.GetChunks() > MaxChunks || len(e.GetBody()) > ChunkSize {
		return Opened{}, fmt.Errorf("%w: chunk %d of %d with %d bytes", ErrMalformed, e.GetChunk(), e.GetChunks(), len(e.GetBody()))
	}
	if ChunkSubject(e.GetSubject(), e.GetChunk()) != stored {
		return Opened{}, fmt.Errorf("%w (%s, chunk %d)", ErrSubject, e.GetSubject(), e.GetChunk())
	}
	opened := Opened{Envelope: e, KeyID: m.GetKeyId(), Raw: Raw{Subject: stored, Data: data}}
	for _, feature := range e.GetRequires() {
		if !o.features[feature] {
			return opened, fmt.Errorf("%w: %q", ErrFeature, feature)
		}
	}
	return opened, nil
}

func (o *Opener) verify(m *Message, root hash) error {
	key, ok := o.keys[m.GetKeyId()]
	if !ok {
		return fmt.Errorf("%w (key %q)", ErrKey, m.GetKeyId())
	}
	signed := signedRoot{root: root, leaves: m.GetLeaves()}
	if len(m.GetSignature()) != len(signed.signature) || len(key) != len(signed.key) {
		return ErrSignature
	}
	copy(signed.signature[:], m.GetSignature())
	copy(signed.key[:], key)
	if o.roots[signed] {
		return nil
	}
	o.verified++
	if err := o.keys.verify(o.by, batchDomain, m.GetKeyId(), batchSigned(root, m.GetLeaves()), m.GetSignature()); err != nil {
		return err
	}
	delete(o.roots, o.ring[o.next])
	o.ring[o.next], o.roots[signed] = signed, true
	o.next = (o.next + 1) % rememberedRoots
	return nil
}
