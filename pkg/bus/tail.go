package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	followFirst = 50 * time.Millisecond // pause before following again after a failure
	followMost  = 2 * time.Second

	// forgetAfter is when the server drops the consumer of a follower that went without a word. A stream has at
	// most 1,000 of them.
	forgetAfter = time.Minute
	dropTimeout = 2 * time.Second
)

// Follow calls fn for each record from the first with a sequence of at least from on, in order, each once,
// and goes on with those that are stored later. Where a stream keeps only the last record of a subject, the
// others are not seen once they are replaced. It blocks until ctx ends, and then returns nil, or until fn
// fails, and then returns its error. A bus that is away or restarts is waited for, without gap or
// duplicate.
func (r *Records) Follow(ctx context.Context, from uint64, fn func(Entry) error) error {
	next, pause := max(from, 1), followFirst
	for {
		before := next
		err := r.follow(ctx, &next, fn)
		var failed *followerError
		switch {
		case errors.As(err, &failed):
			return failed.err
		case ctx.Err() != nil:
			return nil
		}
		r.conn.cfg.Log.Debug("following a stream was interrupted", "stream", r.stream, "from", next, "err", err)
		if next != before {
			pause = followFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, followMost)
	}
}

// followerError is fn's own, which ends Follow.
type followerError struct{ err error }

func (e *followerError) Error() string { return e.err.Error() }

// follow delivers until something fails. next is the sequence that is due, kept up to date.
func (r *Records) follow(ctx context.Context, next *uint64, fn func(Entry) error) error {
	// An ordered consumer checks the numbers of what is delivered, and makes itself anew behind the last
	// one when a number is missing or the server forgot it.
	consumer, err := r.conn.js.OrderedConsumer(ctx, string(r.stream), jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   *next,

		InactiveThreshold: forgetAfter,
	})
	if err != nil {
		return fmt.Errorf("follow stream %s: %w", r.stream, storeError(err))
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("follow stream %s: %w", r.stream, err)
	}
	defer r.drop(ctx, consumer)
	defer context.AfterFunc(ctx, messages.Stop)()
	defer messages.Stop()
	for {
		message, err := messages.Next()
		if err != nil {
			return fmt.Errorf("follow stream %s: %w", r.stream, err)
		}
		meta, err := message.Metadata()
		if err != nil {
			return fmt.Errorf("follow stream %s: %w", r.stream, err)
		}
		if meta.Sequence.Stream < *next {
			continue // delivered before the interruption
		}
		entry := Entry{Subject: message.Subject(), Data: message.Data(), Sequence: meta.Sequence.Stream, Time: meta.Timestamp}
		if err := fn(entry); err != nil {
			return &followerError{err}
		}
		*next = entry.Sequence + 1
	}
}

// drop takes the consumer of a follower that has ended from the server, which would keep it for forgetAfter:
// whoever reads a stream often would find it full of those before.
func (r *Records) drop(ctx context.Context, consumer jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	if r.conn.nc.IsConnected() {
		_ = r.conn.js.DeleteConsumer(ctx, string(r.stream), consumer.CachedInfo().Name) // else it goes by itself
	}
}
