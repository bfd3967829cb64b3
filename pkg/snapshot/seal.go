package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"
)

const (
	// ChunkSize bounds a message's share of a body, in bytes; a message is at most a few KB more, far below
	// what NATS carries (1 MB).
	ChunkSize = 256 << 10
	// MaxChunks bounds a body: 16 MB.
	MaxChunks = 64
	// maxLeaves bounds a batch, and so the path in each of its messages.
	maxLeaves = 1 << 16
)

// ErrTooLarge is returned for a body or a canary's body that is larger than may be published.
var ErrTooLarge = errors.New("larger than may be published")

// A Snapshot is what one subject says: compiled configuration, or that its thing is gone.
type Snapshot struct {
	Subject   string // sennit.config.…, without the chunk's token
	Version   Version
	BuiltFrom Inputs
	Requires  []string // features that a reader must know
	Canary    *Canary  // its body is at most ChunkSize
	Body      []byte   // an encoded message of the subject's kind; at most ChunkSize·MaxChunks
	Gone      bool     // deleted: Body is empty
}

// Inputs are the last sequences of the two input streams that went into a snapshot.
type Inputs struct {
	Resources, Instances uint64
}

// A Raw is one message as it is stored and delivered: Subject has the chunk's token (see ChunkSubject).
// Nobody changes Data.
type Raw struct {
	Subject string
	Data    []byte
}

// Seal cuts bodies into chunks and signs all of it at once: one signature over the root of a tree of the
// envelopes' hashes, which every message carries with its path to that root. So a reader of any part of the
// batch verifies one signature. The messages are in the order of the snapshots and of their chunks.
func Seal(cluster string, signer Signer, snapshots []Snapshot) ([]Raw, error) {
	var subjects []string
	var envelopes [][]byte
	for i := range snapshots {
		s := &snapshots[i]
		chunks := (len(s.Body) + ChunkSize - 1) / ChunkSize
		if chunks > MaxChunks || len(s.Canary.GetBody()) > ChunkSize {
			return nil, fmt.Errorf("seal %s: %w (body %d bytes, at most %d; a canary's %d, at most %d)", s.Subject, ErrTooLarge,
				len(s.Body), MaxChunks*ChunkSize, len(s.Canary.GetBody()), ChunkSize)
		}
		chunks = max(chunks, 1)
		if chunks > 1 && !chunked(s.Subject) {
			return nil, fmt.Errorf("seal %s: %w (this subject has one message of at most %d bytes, has %d)", s.Subject, ErrTooLarge,
				ChunkSize, len(s.Body))
		}
		for n := range chunks {
			e := &Envelope{
				Cluster: cluster, Subject: s.Subject, Epoch: s.Version.Epoch, Revision: s.Version.Revision,
				BuiltFrom: &BuiltFrom{Resources: s.BuiltFrom.Resources, Instances: s.BuiltFrom.Instances},
				Requires:  s.Requires, Chunk: uint32(n), Chunks: uint32(chunks), Gone: s.Gone,
				Body: s.Body[n*ChunkSize : min(len(s.Body), (n+1)*ChunkSize)],
			}
			if n == 0 {
				e.Canary = s.Canary
			}
			envelope, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
			if err != nil {
				return nil, fmt.Errorf("seal %s: %w", s.Subject, err)
			}
			subjects = append(subjects, ChunkSubject(s.Subject, uint32(n)))
			envelopes = append(envelopes, envelope)
		}
	}
	return signBatch(signer, subjects, envelopes)
}

// SealAgain signs stored messages with another key: the envelopes, and so their numbers, stay as they are.
func SealAgain(signer Signer, messages []Raw) ([]Raw, error) {
	var subjects []string
	var envelopes [][]byte
	for _, raw := range messages {
		var m Message
		if err := proto.Unmarshal(raw.Data, &m); err != nil {
			return nil, fmt.Errorf("seal %s again: %w", raw.Subject, err)
		}
		subjects = append(subjects, raw.Subject)
		envelopes = append(envelopes, m.GetEnvelope())
	}
	return signBatch(signer, subjects, envelopes)
}

func signBatch(signer Signer, subjects []string, envelopes [][]byte) ([]Raw, error) {
	if len(envelopes) == 0 {
		return nil, nil
	}
	if len(envelopes) > maxLeaves {
		return nil, fmt.Errorf("sign %d messages: %w (at most %d in one batch)", len(envelopes), ErrTooLarge, maxLeaves)
	}
	leaves := make([]hash, len(envelopes))
	for i, envelope := range envelopes {
		leaves[i] = leafHash(envelope)
	}
	root, paths := tree(leaves)
	signature := signer.Sign(batchDomain, batchSigned(root, uint32(len(leaves))))
	messages := make([]Raw, len(envelopes))
	for i, envelope := range envelopes {
		data, err := proto.Marshal(&Message{
			Envelope: envelope, Path: paths[i], Index: uint32(i), Leaves: uint32(len(leaves)),
			KeyId: signer.ID, Signature: signature,
		})
		if err != nil {
			return nil, fmt.Errorf("seal %s: %w", subjects[i], err)
		}
		messages[i] = Raw{Subject: subjects[i], Data: data}
	}
	return messages, nil
}

// batchSigned is what a batch's signature is over, after the domain. The number of leaves is in it, so that
// an index and a path have one meaning.
func batchSigned(root hash, leaves uint32) []byte {
	return append(binary.BigEndian.AppendUint32(nil, leaves), root[:]...)
}

// Picks reports whether a canary's body is for this node. The choice depends on the seed and the node's
// name alone, so that a node stays with what it got while the share grows.
func (c *Canary) Picks(node string) bool {
	if c == nil {
		return false
	}
	h := leafHash(append(binary.BigEndian.AppendUint64(nil, c.GetSeed()), node...))
	return float64(binary.BigEndian.Uint64(h[:]))/math.MaxUint64*10_000 < float64(c.GetShare())
}
