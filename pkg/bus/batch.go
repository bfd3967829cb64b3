package bus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// coalesce is how long further changes of a subject wait after one went out.
	coalesce = 100 * time.Millisecond
	// burst is how many batches may go out right behind each other before there is one in each coalesce: a
	// storm costs a node ten verifications a second.
	burst = 3
	// maxBatchMessages and maxBatchBytes bound one atomic batch: what NATS takes, and what its server should
	// keep in memory for it.
	maxBatchMessages = 500
	maxBatchBytes    = 8 << 20
)

// due says when the next batch may go out; the zero time where there is nothing to publish.
func (l *leader) due() time.Time {
	var due time.Time
	for i, subject := range l.dirty {
		var at time.Time
		if sent, ok := l.sent[subject]; ok {
			at = sent.Add(coalesce)
		}
		if i == 0 || at.Before(due) {
			due = at
		}
	}
	if storm := l.paced.Add(-(burst - 1) * coalesce); len(l.dirty) > 0 && storm.After(due) {
		due = storm
	}
	if len(l.dirty) > 0 && due.IsZero() {
		due = due.Add(1) // long ago, and not never
	}
	return due
}

// flush publishes one batch of what differs and is due.
func (l *leader) flush(ctx context.Context, now time.Time) error {
	if due := l.due(); due.IsZero() || due.After(now) {
		return nil
	}
	for subject, sent := range l.sent {
		if !now.Before(sent.Add(coalesce)) {
			delete(l.sent, subject)
		}
	}
	batch, subjects, err := l.seal()
	if err != nil || len(batch) == 0 {
		return err
	}
	if err := l.store(ctx, batch); err != nil {
		return err
	}
	for _, subject := range subjects {
		l.sent[subject] = now
	}
	if l.paced.Before(now) {
		l.paced = now
	}
	l.paced = l.paced.Add(coalesce)
	l.compare()
	return nil
}

// seal numbers and signs the next batch. What is stored as it is wanted, and by another key, is signed again
// with the number that it has.
func (l *leader) seal() (batch []snapshot.Raw, subjects []string, err error) {
	var fresh []snapshot.Snapshot
	var again []snapshot.Raw
	l.mirror.mu.Lock()
	messages, size := 0, 0
	for _, subject := range l.dirty {
		if _, waits := l.sent[subject]; waits {
			continue
		}
		body, wanted := l.wanted[subject]
		sum := body.sum
		if !wanted {
			sum = goneSum
		}
		chunks := max(1, (len(body.Data)+snapshot.ChunkSize-1)/snapshot.ChunkSize)
		stored := l.mirror.subjects[subject]
		extra := 0
		if stored != nil {
			extra = len(stored.Raw)
		}
		if messages > 0 && (messages+max(chunks, extra) > maxBatchMessages || size+len(body.Data) > maxBatchBytes) {
			break
		}
		messages, size = messages+max(chunks, extra), size+len(body.Data)
		subjects = append(subjects, subject)
		if l.same(stored, sum) {
			again = append(again, stored.Raw...)
			continue
		}
		l.revision++
		fresh = append(fresh, snapshot.Snapshot{
			Subject: subject, Version: snapshot.Version{Epoch: l.epoch, Revision: l.revision}, BuiltFrom: l.from,
			Requires: body.Requires, Canary: body.Canary, Body: body.Data, Gone: !wanted,
		})
		for n := chunks; n < extra; n++ { // an empty message takes the place of a chunk that there is no more
			batch = append(batch, snapshot.Raw{Subject: snapshot.ChunkSubject(subject, uint32(n))})
		}
	}
	l.mirror.mu.Unlock()
	sealed, err := snapshot.Seal(l.cluster, l.signer, fresh)
	if err != nil {
		return nil, nil, fmt.Errorf("publish: %w", err)
	}
	signed, err := snapshot.SealAgain(l.signer, again)
	if err != nil {
		return nil, nil, fmt.Errorf("publish: %w", err)
	}
	return slices.Concat(batch, sealed, signed), subjects, nil
}
