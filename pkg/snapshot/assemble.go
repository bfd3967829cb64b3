package snapshot

import (
	"slices"
)

// Held is one whole snapshot, verified, with the messages that it came in: what a node applies and keeps.
type Held struct {
	Snapshot
	KeyID string // which key signed it; empty where the messages of several keys were put together
	Raw   []Raw  // in the order of the chunks
}

// An Assembler puts chunks together, in whatever order they arrive. Of each subject it keeps the chunks of
// one version, the newest that it was given; of all subjects together at most a number of bytes, beyond which
// the subject that was begun first is forgotten. What it forgets a catch-up brings again. It is owned by one
// goroutine.
type Assembler struct {
	limit int
	size  int
	parts map[string]*partial
	order []string // subjects in the order in which they were begun
}

type partial struct {
	version Version
	chunks  []Opened // of length Chunks; Envelope is nil where a chunk has not arrived
	missing int
	size    int
}

// NewAssembler returns an assembler that keeps at most limit bytes of messages.
func NewAssembler(limit int) *Assembler {
	return &Assembler{limit: limit, parts: map[string]*partial{}}
}

// Add takes a verified message, and returns the snapshot that it completes, if it does. Chunks of a version
// older than what is being put together are dropped.
func (a *Assembler) Add(o Opened) (held Held, complete bool) {
	subject := o.GetSubject()
	if o.GetChunks() == 1 {
		if p := a.parts[subject]; p == nil || p.version.Compare(o.Version()) <= 0 {
			a.Forget(subject)
			return join([]Opened{o}), true
		}
		return Held{}, false
	}
	p := a.parts[subject]
	if p != nil && (p.version.Compare(o.Version()) < 0 || p.version == o.Version() && len(p.chunks) != int(o.GetChunks())) {
		a.Forget(subject)
		p = nil
	}
	if p == nil {
		p = &partial{version: o.Version(), chunks: make([]Opened, o.GetChunks()), missing: int(o.GetChunks())}
		a.parts[subject] = p
		a.order = append(a.order, subject)
	}
	if p.version.Compare(o.Version()) > 0 {
		return Held{}, false
	}
	at := &p.chunks[o.GetChunk()]
	if at.Envelope == nil {
		p.missing--
	} else {
		p.size -= len(at.Raw.Data)
		a.size -= len(at.Raw.Data)
	}
	*at = o
	p.size += len(o.Raw.Data)
	a.size += len(o.Raw.Data)
	if p.missing == 0 {
		a.Forget(subject)
		return join(p.chunks), true
	}
	for a.size > a.limit {
		a.Forget(a.order[0])
	}
	return Held{}, false
}

// Begun says which version of a subject is being put together and how many chunks of it, from the first on,
// are there without a gap.
func (a *Assembler) Begun(subject string) (Version, uint32) {
	p := a.parts[subject]
	if p == nil {
		return Version{}, 0
	}
	n := slices.IndexFunc(p.chunks, func(o Opened) bool { return o.Envelope == nil })
	return p.version, uint32(n)
}

// Forget drops what there is of a subject.
func (a *Assembler) Forget(subject string) {
	if p := a.parts[subject]; p != nil {
		a.size -= p.size
		delete(a.parts, subject)
		a.order = slices.DeleteFunc(a.order, func(s string) bool { return s == subject })
	}
}

func join(chunks []Opened) Held {
	first := chunks[0]
	held := Held{
		Snapshot: Snapshot{
			Subject: first.GetSubject(), Version: first.Version(), Requires: first.GetRequires(),
			BuiltFrom: Inputs{first.GetBuiltFrom().GetResources(), first.GetBuiltFrom().GetInstances()},
			Canary:    first.GetCanary(), Gone: first.GetGone(), Body: first.GetBody(),
		},
		KeyID: first.KeyID,
		Raw:   make([]Raw, 0, len(chunks)),
	}
	if len(chunks) > 1 {
		held.Body = make([]byte, 0, len(chunks)*ChunkSize)
	}
	for _, o := range chunks {
		if len(chunks) > 1 {
			held.Body = append(held.Body, o.GetBody()...)
		}
		if o.KeyID != held.KeyID {
			held.KeyID = ""
		}
		held.Raw = append(held.Raw, o.Raw)
	}
	return held
}
