package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// termSubject holds the term record of the configuration stream.
const termSubject = snapshot.ConfigPrefix + "term"

var (
	// ErrDeposed is returned when another controller has taken the term over.
	ErrDeposed = errors.New("another controller leads")
	// ErrEpoch is returned where a newer epoch than this controller's has begun: the root signed a roster of it, or the
	// stream holds a term of it.
	ErrEpoch = errors.New("another controller was restored into a newer epoch than this one's")
	// errRefused is returned for a write whose condition on the term did not hold. Whoever gets it reads the
	// term before it believes that it was deposed.
	errRefused = errors.New("write was refused")
)

// configStream is the configuration stream as a leader uses it.
type configStream interface {
	// term returns the term record and its sequence, from the stream's leader; nil and 0 where there is none.
	term(ctx context.Context) (*TermRecord, uint64, error)
	// write stores all messages or none, where the term record still has this sequence, and returns the
	// sequence of the last. After any other error than errRefused they may be stored or not.
	write(ctx context.Context, fence uint64, messages []snapshot.Raw) (uint64, error)
}

// jetConfig is the configStream in JetStream, and any other stream that one controller alone writes.
type jetConfig struct {
	conn   *nats.Conn
	stream jetstream.Stream
	// subject holds the term record; every write is conditional on it.
	subject string
}

func (j *jetConfig) term(ctx context.Context) (*TermRecord, uint64, error) {
	raw, err := j.stream.GetLastMsgForSubject(ctx, j.subject) // the stream's leader answers, not a replica
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the term in %s: %w", j.subject, err)
	}
	record := new(TermRecord)
	if err := proto.Unmarshal(raw.Data, record); err != nil {
		return nil, 0, fmt.Errorf("read the term in %s: %w", j.subject, err)
	}
	return record, raw.Sequence, nil
}

// The headers of conditional and of atomic writes (ADR-50 of NATS).
const (
	headerExpectSequence = "Nats-Expected-Last-Subject-Sequence"
	headerExpectSubject  = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerBatchID        = "Nats-Batch-Id"
	headerBatchSequence  = "Nats-Batch-Sequence"
	headerBatchCommit    = "Nats-Batch-Commit"

	codeWrongLastSequence = 10071 // JSStreamWrongLastSequenceErrF
	codeWrongLastConstant = 10164 // the same, while another write to the subject is in flight
)

func (j *jetConfig) write(ctx context.Context, fence uint64, messages []snapshot.Raw) (uint64, error) {
	if len(messages) == 0 {
		return 0, nil
	}
	sequence, err := publishAll(ctx, j.conn, j.subject, fence, messages)
	if err != nil {
		return 0, fmt.Errorf("store under a term: %w", err)
	}
	return sequence, nil
}

// publishAll stores all messages or none, where the last sequence of a subject is expect, else it fails with
// errRefused. It returns the sequence of the last.
func publishAll(ctx context.Context, conn *nats.Conn, subject string, expect uint64, messages []snapshot.Raw) (uint64, error) {
	id := rand.Text()
	for i, raw := range messages {
		m := nats.NewMsg(raw.Subject)
		m.Data = raw.Data
		if i == 0 {
			m.Header.Set(headerExpectSequence, strconv.FormatUint(expect, 10))
			m.Header.Set(headerExpectSubject, subject)
		}
		if len(messages) > 1 {
			m.Header.Set(headerBatchID, id)
			m.Header.Set(headerBatchSequence, strconv.Itoa(i+1))
		}
		if i < len(messages)-1 {
			if err := conn.PublishMsg(m); err != nil {
				return 0, err
			}
			continue
		}
		if len(messages) > 1 {
			m.Header.Set(headerBatchCommit, "1")
		}
		reply, err := conn.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, err
		}
		return storedAt(reply.Data)
	}
	return 0, nil
}

// storedAt reads the server's answer to a write.
func storedAt(reply []byte) (uint64, error) {
	var ack struct {
		Sequence uint64              `json:"seq"`
		Error    *jetstream.APIError `json:"error"`
	}
	err := json.Unmarshal(reply, &ack)
	switch {
	case err != nil:
		return 0, err
	case ack.Error == nil && ack.Sequence > 0:
		return ack.Sequence, nil
	case ack.Error == nil:
		return 0, fmt.Errorf("the server's answer %q has no sequence", reply)
	case ack.Error.ErrorCode == codeWrongLastSequence || ack.Error.ErrorCode == codeWrongLastConstant:
		return 0, fmt.Errorf("%w: %s", errRefused, ack.Error.Description)
	}
	return 0, ack.Error
}
