package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	copyChunk  = 512 << 10 // bytes of a part of a copied stream
	copyWindow = 4 << 20   // bytes that may be on the way
	// copyStall is how long the next part may take.
	copyStall = 30 * time.Second

	snapshotSubject = "$JS.API.STREAM.SNAPSHOT."
	restoreSubject  = "$JS.API.STREAM.RESTORE."
)

// A Copied is what a stream held when it was copied.
type Copied struct {
	Messages, Last uint64
}

// Copy hands a stream to fn in parts of at most copyChunk bytes, as it is at one moment, while others go on to write.
// The parts are the server's own (ADR-9 of NATS) and keep each record's sequence and time. fn must not keep data.
func (r *Records) Copy(ctx context.Context, fn func(part []byte) error) (Copied, error) {
	nc := r.conn.nc
	inbox := nc.NewInbox()
	parts, err := nc.SubscribeSync(inbox)
	if err != nil {
		return Copied{}, fmt.Errorf("copy stream %s: %w", r.stream, err)
	}
	defer parts.Unsubscribe()
	if err := parts.SetPendingLimits(-1, 4*copyWindow); err != nil {
		return Copied{}, fmt.Errorf("copy stream %s: %w", r.stream, err)
	}
	request, err := json.Marshal(map[string]any{
		"deliver_subject": inbox, "no_consumers": true, "jsck": true, "chunk_size": copyChunk, "window_size": copyWindow,
	})
	if err != nil {
		return Copied{}, err
	}
	var begun struct {
		State jetstream.StreamState `json:"state"`
		Error *jetstream.APIError   `json:"error"`
	}
	if err := askServer(ctx, nc, snapshotSubject+string(r.stream), request, &begun); err != nil || begun.Error != nil {
		return Copied{}, fmt.Errorf("copy stream %s: %w", r.stream, apiError(err, begun.Error))
	}
	for {
		part, err := nextPart(ctx, parts)
		if err != nil {
			return Copied{}, fmt.Errorf("copy stream %s: %w", r.stream, err)
		}
		if status := part.Header.Get("Status"); status != "" && status != "204" {
			return Copied{}, fmt.Errorf("copy stream %s: the server gave up: %s %s", r.stream, status, part.Header.Get("Description"))
		}
		if len(part.Data) == 0 {
			return Copied{begun.State.Msgs, begun.State.LastSeq}, nil
		}
		if err := fn(part.Data); err != nil {
			return Copied{}, err
		}
		if part.Reply != "" {
			if err := nc.Publish(part.Reply, nil); err != nil {
				return Copied{}, fmt.Errorf("copy stream %s: %w", r.stream, err)
			}
		}
	}
}

// Restore makes a stream of what Copy gave. The stream must not be there. parts calls its argument for every part, in
// order. It fails where the stream does not hold then what was copied.
func (r *Records) Restore(ctx context.Context, copied Copied, parts func(put func(part []byte) error) error) error {
	nc := r.conn.nc
	request, err := json.Marshal(map[string]any{"config": streamSettings(r.stream, 1), "state": map[string]any{}})
	if err != nil {
		return err
	}
	var begun struct {
		Deliver string              `json:"deliver_subject"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := askServer(ctx, nc, restoreSubject+string(r.stream), request, &begun); err != nil || begun.Error != nil {
		return fmt.Errorf("restore stream %s: %w", r.stream, apiError(err, begun.Error))
	}
	put := func(part []byte) error {
		var answer struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := askServer(ctx, nc, begun.Deliver, part, &answer); err != nil || answer.Error != nil {
			return fmt.Errorf("restore stream %s: %w", r.stream, apiError(err, answer.Error))
		}
		return nil
	}
	if err := parts(put); err != nil {
		return err
	}
	if err := put(nil); err != nil { // all is there
		return err
	}
	state, err := r.state(ctx)
	if err != nil {
		return err
	}
	if state.Msgs != copied.Messages || state.LastSeq != copied.Last {
		return fmt.Errorf("restore stream %s: it holds %d records up to %d, and %d up to %d were copied", r.stream, state.Msgs, state.LastSeq, copied.Messages, copied.Last)
	}
	return nil
}

// askServer sends a request to the server; an empty answer leaves into as it is.
func askServer(ctx context.Context, nc *nats.Conn, subject string, request []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, copyStall)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, subject, request)
	if err != nil || len(reply.Data) == 0 {
		return err
	}
	return json.Unmarshal(reply.Data, into)
}

func nextPart(ctx context.Context, parts *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, copyStall)
	defer cancel()
	return parts.NextMsgWithContext(ctx)
}

func apiError(err error, api *jetstream.APIError) error {
	if err != nil {
		return err
	}
	return storeError(api)
}
