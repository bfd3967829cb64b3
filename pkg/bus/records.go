package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

var (
	// ErrConflict is returned when a record was not stored because its subject has another last sequence
	// than the caller expected: somebody else was faster.
	ErrConflict = errors.New("another record of the subject was stored meanwhile")

	// ErrNotFound is returned when a subject has no record.
	ErrNotFound = errors.New("no such record")
)

// appendTimeout bounds a write where the caller's context does not.
const appendTimeout = 10 * time.Second

// An Entry is one record of a stream.
type Entry struct {
	Subject  string
	Data     []byte
	Sequence uint64 // from 1, of the whole stream
	Time     time.Time
}

// Records is a log of records over one stream, for controllers. Each subject is a compare-and-set register
// over its last record's sequence. WHAT APPEND ACKNOWLEDGED IS ON DISK, and stays there whatever process
// dies at whatever point. It is safe for concurrent use.
type Records struct {
	conn   *Conn
	stream Stream
}

// Records opens a stream that EnsureStreams has made.
func (c *Conn) Records(stream Stream) *Records {
	return &Records{conn: c, stream: stream}
}

// Append stores a record if the last one of its subject has sequence expect (0: it has none), and gives its
// sequence; else it fails with ErrConflict and stores nothing. After any other error the record may have
// been stored or not: Get tells, and appending again with the same expect cannot store it twice.
func (r *Records) Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if r.conn.fault != nil {
		var done func()
		ctx, done = r.conn.fault.bound(ctx)
		defer done()
	}
	message := nats.NewMsg(subject)
	message.Data = data
	message.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expect, 10))
	message.Header.Set(jetstream.ExpectedStreamHeader, string(r.stream))
	ack, err := r.conn.js.PublishMsg(ctx, message, jetstream.WithRetryAttempts(0))
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrFull) {
			err = cause
		}
		return 0, fmt.Errorf("store %s: %w", subject, storeError(err))
	}
	return ack.Sequence, nil
}

// AppendAll stores several records of one subject behind each other, all or none, with the condition of Append and
// one wait for the disk. It gives the sequence of the last.
func (r *Records) AppendAll(ctx context.Context, subject string, all [][]byte, expect uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if r.conn.fault != nil {
		var done func()
		ctx, done = r.conn.fault.bound(ctx)
		defer done()
	}
	messages := make([]snapshot.Raw, len(all))
	for i, data := range all {
		messages[i] = snapshot.Raw{Subject: subject, Data: data}
	}
	last, err := publishAll(ctx, r.conn.nc, subject, expect, messages)
	switch cause := context.Cause(ctx); {
	case err == nil:
		return last, nil
	case errors.Is(cause, ErrFull):
		err = cause
	case errors.Is(err, errRefused):
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return 0, fmt.Errorf("store %s: %w", subject, storeError(err))
}

// Get reads the last record of a subject from the stream's leader, so that it is never older than what was
// acknowledged to anybody. It fails with ErrNotFound where there is none.
func (r *Records) Get(ctx context.Context, subject string) (Entry, error) {
	stream, err := r.open(ctx)
	if err != nil {
		return Entry{}, err
	}
	message, err := stream.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s: %w", subject, storeError(err))
	}
	return Entry{Subject: message.Subject, Data: message.Data, Sequence: message.Sequence, Time: message.Time}, nil
}

// At reads the record with a sequence. It fails with ErrNotFound where there is none.
func (r *Records) At(ctx context.Context, sequence uint64) (Entry, error) {
	stream, err := r.open(ctx)
	if err != nil {
		return Entry{}, err
	}
	message, err := stream.GetMsg(ctx, sequence)
	if err != nil {
		return Entry{}, fmt.Errorf("read record %d of %s: %w", sequence, r.stream, storeError(err))
	}
	return Entry{Subject: message.Subject, Data: message.Data, Sequence: message.Sequence, Time: message.Time}, nil
}

// Last is the sequence of the newest record, or 0 where none was ever stored.
func (r *Records) Last(ctx context.Context) (uint64, error) {
	state, err := r.state(ctx)
	return state.LastSeq, err
}

// First is the sequence of the oldest record that is still there; where none is, one more than Last.
func (r *Records) First(ctx context.Context) (uint64, error) {
	state, err := r.state(ctx)
	if err == nil && state.Msgs == 0 {
		return state.LastSeq + 1, nil
	}
	return state.FirstSeq, err
}

// Forget drops what a subject has stored up to a sequence, that one included. Those who follow are not told:
// append a record that says what happened first, and forget that one. Streams that keep every revision
// refuse it.
func (r *Records) Forget(ctx context.Context, subject string, sequence uint64) error {
	stream, err := r.open(ctx)
	if err != nil {
		return err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(sequence+1)); err != nil {
		return fmt.Errorf("forget %s: %w", subject, storeError(err))
	}
	return nil
}

func (r *Records) state(ctx context.Context) (jetstream.StreamState, error) {
	stream, err := r.open(ctx)
	if err != nil {
		return jetstream.StreamState{}, err
	}
	return stream.CachedInfo().State, nil // as old as the call of open
}

func (r *Records) open(ctx context.Context) (jetstream.Stream, error) {
	stream, err := r.conn.js.Stream(ctx, string(r.stream))
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", r.stream, storeError(err))
	}
	return stream, nil
}
