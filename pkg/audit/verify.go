package audit

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// maxProblems bounds what a Verifier keeps to say; all are counted.
const maxProblems = 100

// A Verifier reads both logs and finds what was not stored so by a controller. Take every record of the log of
// documents first, then every record of the audit, each in the order of the stream; then ask for the Findings. It is
// owned by one goroutine, does no I/O, and keeps the hash of each document's revision and what is behind the newest
// checkpoint.
type Verifier struct {
	cluster  string
	keys     snapshot.Keys
	expected []*Head // records that must be there, not found yet

	documents    map[uint64][]byte // hashes, by sequence
	lastDocument uint64
	recorded     map[uint64]bool // sequences of documents that a change is recorded of
	chains       map[string]*chain
	read         uint64 // sequence of the audit's stream
	found        Findings
}

// A chain is what is known of a writer's.
type chain struct {
	number  uint64 // of the newest record
	hash    []byte
	covered Head        // by the newest checkpoint whose signature is good
	behind  []uncovered // the records behind it, in order
}

type uncovered struct {
	number uint64
	hash   []byte
	record *Record
}

// Findings are what verifying has found.
type Findings struct {
	Records     int // of the audit
	Checkpoints int
	Documents   int      // revisions in the log of documents
	Uncovered   int      // records behind the newest checkpoint: a signature each says that they are whole, nothing that they are all
	Newest      *Head    // the newest checkpoint; nil: there is none
	Problems    []string // at most maxProblems
	More        int      // problems that are not in Problems
}

// NewVerifier returns a verifier of a cluster's audit. keys are those that the roster lists; expected are checkpoints of
// which a copy was kept elsewhere, and nil is none.
func NewVerifier(cluster string, keys snapshot.Keys, expected ...*Head) *Verifier {
	return &Verifier{
		cluster: cluster, keys: keys, expected: slices.DeleteFunc(slices.Clone(expected), func(h *Head) bool { return h == nil }), documents: map[uint64][]byte{}, recorded: map[uint64]bool{}, chains: map[string]*chain{},
	}
}

func (v *Verifier) problem(format string, args ...any) {
	if len(v.found.Problems) == maxProblems {
		v.found.More++
		return
	}
	v.found.Problems = append(v.found.Problems, fmt.Sprintf(format, args...))
}

// Document takes a revision of a document.
func (v *Verifier) Document(e bus.Entry) {
	if e.Sequence != v.lastDocument+1 {
		v.problem("revisions %d to %d are missing from the log of documents", v.lastDocument+1, e.Sequence-1)
	}
	v.lastDocument = e.Sequence
	v.found.Documents++
	v.documents[e.Sequence] = RevisionOf(e).GetHash()
}

// Record takes a record of the audit.
func (v *Verifier) Record(e bus.Entry) {
	if e.Sequence != v.read+1 {
		v.problem("records %d to %d of the stream are missing", v.read+1, e.Sequence-1)
	}
	v.read = e.Sequence
	v.found.Records++
	record, entry, err := open(e.Data)
	if err != nil {
		v.problem("record %d of the stream: %v", e.Sequence, err)
		return
	}
	if e.Subject != Subject(entry.GetWriter()) {
		v.problem("record %d of the stream is stored as %s and says that it is of %q", e.Sequence, e.Subject, entry.GetWriter())
	}
	if entry.GetCluster() != v.cluster {
		v.problem("record %d of the stream is of cluster %q", e.Sequence, entry.GetCluster())
	}
	c := v.chains[entry.GetWriter()]
	if c == nil {
		c = &chain{covered: Head{Writer: entry.GetWriter()}}
		v.chains[entry.GetWriter()] = c
	}
	name := fmt.Sprintf("record %d of %s", entry.GetNumber(), entry.GetWriter())
	switch {
	case entry.GetNumber() != c.number+1:
		v.problem("%s comes behind number %d: records were removed, moved or inserted", name, c.number)
	case !bytes.Equal(entry.GetPrevious(), c.hash):
		v.problem("%s does not follow the record that is before it: one of the two was changed", name)
	}
	c.number, c.hash = entry.GetNumber(), HashOf(e.Data)
	c.behind = append(c.behind, uncovered{c.number, c.hash, record})
	v.expected = slices.DeleteFunc(v.expected, func(h *Head) bool {
		if h.GetWriter() != entry.GetWriter() || h.GetNumber() != entry.GetNumber() {
			return false
		}
		if !bytes.Equal(h.GetHash(), c.hash) {
			v.problem("%s is not the checkpoint of which a copy was kept", name)
		}
		return true
	})
	if entry.GetEvent().GetKind() == Damage {
		v.problem("%s says: %s", name, entry.GetEvent().GetDetail())
	}
	if entry.GetCheckpoint() != nil {
		v.checkpoint(name, record, entry)
	}
	for _, revision := range []*Revision{entry.GetEvent().GetBefore(), entry.GetEvent().GetAfter()} {
		if revision == nil {
			continue
		}
		if have := v.documents[revision.GetSequence()]; !bytes.Equal(have, revision.GetHash()) {
			v.problem("%s: revision %d of %s %s is not in the log of documents as it was recorded", name,
				revision.GetSequence(), entry.GetEvent().GetResource(), entry.GetEvent().GetName())
		}
	}
	if after := entry.GetEvent().GetAfter(); after != nil {
		v.recorded[after.GetSequence()] = true
	}
}

// checkpoint compares what a checkpoint says with what was read. What it covers needs no other signature, if its own
// is good: its key may have been retired since, and then a later checkpoint covers it.
func (v *Verifier) checkpoint(name string, record *Record, entry *Entry) {
	v.found.Checkpoints++
	signed := v.keys.Verify(domain, record.GetKeyId(), record.GetEntry(), record.GetSignature()) == nil
	for _, head := range entry.GetCheckpoint().GetHeads() {
		c := v.chains[head.GetWriter()]
		if c == nil {
			v.problem("%s is a checkpoint of the chain of %s, which is missing", name, head.GetWriter())
			continue
		}
		at := slices.IndexFunc(c.behind, func(u uncovered) bool { return u.number == head.GetNumber() })
		var hash []byte
		switch {
		case at >= 0:
			hash = c.behind[at].hash
		case head.GetNumber() == c.covered.GetNumber():
			hash = c.covered.GetHash()
		}
		if !bytes.Equal(hash, head.GetHash()) {
			v.problem("%s is a checkpoint of record %d of %s, and that one is missing or was changed", name, head.GetNumber(), head.GetWriter())
			continue
		}
		if signed && at >= 0 {
			c.covered.Number, c.covered.Hash, c.behind = head.GetNumber(), hash, slices.Clone(c.behind[at+1:])
		}
	}
	if signed {
		v.found.Newest = &Head{Writer: entry.GetWriter(), Number: entry.GetNumber(), Hash: v.chains[entry.GetWriter()].hash}
	}
}

// Findings ends the verification. The newest changes of documents may have no record yet: those behind the newest one
// that has.
func (v *Verifier) Findings() Findings {
	for _, c := range v.chains {
		for _, u := range c.behind {
			v.found.Uncovered++
			if err := v.keys.Verify(domain, u.record.GetKeyId(), u.record.GetEntry(), u.record.GetSignature()); err != nil {
				reason := "it was changed, or no controller wrote it"
				if errors.Is(err, snapshot.ErrKey) {
					reason = "no checkpoint covers it, and the roster does not list its key"
				}
				v.problem("record %d of %s: %v (%s)", u.number, c.covered.GetWriter(), err, reason)
			}
		}
	}
	for _, h := range v.expected {
		v.problem("a copy was kept of a checkpoint, record %d of %s, which is missing: the end of the audit was cut off", h.GetNumber(), h.GetWriter())
	}
	newest := uint64(0)
	for sequence := range v.recorded {
		newest = max(newest, sequence)
	}
	for sequence := uint64(1); sequence < newest; sequence++ {
		if v.documents[sequence] != nil && !v.recorded[sequence] {
			v.problem("revision %d in the log of documents has no record in the audit", sequence)
		}
	}
	return v.found
}
