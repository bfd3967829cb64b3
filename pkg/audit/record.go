package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// The kinds of events.
const (
	Change   = "change"   // of a document, a node or a token
	Join     = "join"     // a host was let in; the issuance of its certificates follows
	Issuance = "issuance" // of certificates to a node, or of a token to an operator
	Reading  = "reading"  // of traffic: an operator looks at exchanges as they happen
	Damage   = "damage"   // a controller found that records of the audit itself are missing
	Refusal  = "refusal"  // of a host's request to join or renew, or of an operator's
	Backup   = "backup"   // somebody took a copy of everything
	Restore  = "restore"  // a controller's state was made from a backup; what was behind it is lost
)

const domain snapshot.Domain = "sennit audit v1\x00"

// ErrMalformed is returned for bytes that are no record, or not as a writer stores them.
var ErrMalformed = errors.New("not a record of an audit")

// Subject is where a writer's chain is stored.
func Subject(writer string) string { return "sennit.audit." + snapshot.Escape(writer) + ".log" }

// HashOf names a stored record.
func HashOf(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

// RevisionOf refers to a record of the log of documents.
func RevisionOf(e bus.Entry) *Revision {
	at := e.Time.UnixNano()
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(append([]byte(e.Subject), 0), uint64(at)))
	h.Write(e.Data)
	return &Revision{Sequence: e.Sequence, Hash: h.Sum(nil), UnixNs: at}
}

var canonical = proto.MarshalOptions{Deterministic: true}

// seal signs an entry and encodes it as it is stored.
func seal(signer snapshot.Signer, entry *Entry) ([]byte, error) {
	body, err := canonical.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("encode an entry of the audit: %w", err)
	}
	return canonical.Marshal(&Record{Entry: body, KeyId: signer.ID, Signature: signer.Sign(domain, body)})
}

// open decodes a stored record. There is one encoding of each: what decodes to the same from other bytes is refused.
func open(data []byte) (*Record, *Entry, error) {
	record, entry := &Record{}, &Entry{}
	if err := errors.Join(proto.Unmarshal(data, record), proto.Unmarshal(record.GetEntry(), entry)); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	body, err := canonical.Marshal(entry)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	whole, err := canonical.Marshal(record)
	if err != nil || !bytes.Equal(body, record.GetEntry()) || !bytes.Equal(whole, data) {
		return nil, nil, fmt.Errorf("%w: it is not encoded as a controller encodes it", ErrMalformed)
	}
	if (entry.GetEvent() == nil) == (entry.GetCheckpoint() == nil) || entry.GetNumber() == 0 {
		return nil, nil, fmt.Errorf("%w: it holds neither an event nor a checkpoint", ErrMalformed)
	}
	return record, entry, nil
}

// Open decodes a stored record without verifying it.
func Open(data []byte) (*Entry, error) {
	_, entry, err := open(data)
	return entry, err
}
