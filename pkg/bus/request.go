package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	mathrand "math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
)

const (
	nonceSize = 16

	// partTimeout is how long the next part of an answer is waited for: longer than the server remembers
	// where an answer goes.
	partTimeout = responseThreshold + time.Second

	// noResponderPause precedes the second and last try where no responder was found: the server changes
	// the account of nodes in place, and for a moment of that it finds none.
	noResponderPause = 50 * time.Millisecond

	// maxPartsPending bounds the parts of one answer that wait to be read. The client makes room for all of them
	// at each request: 8 bytes each, and not the half MB that is its default.
	maxPartsPending = 256
)

// errBroken ends what was asked over a connection that broke: who was to answer may be gone, and the answer would be lost.
var errBroken = errors.New("the connection broke before the answer came")

// Request asks the controllers something under the node's name, and gives their answer. What a controller
// refuses comes back as an *Error. Where nobody answers the error is ErrNoController.
func (c *Conn) Request(ctx context.Context, verb string, payload []byte) ([]byte, error) {
	for part, err := range c.RequestParts(ctx, verb, payload) {
		return part, err
	}
	return nil, fmt.Errorf("ask a controller to %s: %w", verb, ErrNoController)
}

// RequestParts is Request for an answer in parts, which come in order. It ends after the last part, or with
// an error, and then the answer is not whole. Of an answer that has no part it yields nothing.
func (c *Conn) RequestParts(ctx context.Context, verb string, payload []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		err := c.request(ctx, verb, payload, func(part []byte) bool { return yield(part, nil) })
		if errors.Is(err, nats.ErrNoResponders) {
			select {
			case <-time.After(noResponderPause + mathrand.N(noResponderPause)):
			case <-ctx.Done():
			}
			err = c.request(ctx, verb, payload, func(part []byte) bool { return yield(part, nil) })
		}
		if err != nil {
			yield(nil, c.requestError(verb, err))
		}
	}
}

func (c *Conn) requestError(verb string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, errBroken) {
		err = fmt.Errorf("%w: %w", ErrNoController, err)
	}
	if errors.Is(err, nats.ErrReconnectBufExceeded) { // nothing is held back for a bus that is away
		err = fmt.Errorf("%w: the bus is away", ErrNoController)
		if why := c.Err(); why != nil {
			err = fmt.Errorf("%w: %w", err, why)
		}
	}
	return fmt.Errorf("ask a controller to %s: %w", verb, err)
}

// request asks once, and hands over each part until it returns false.
func (c *Conn) request(ctx context.Context, verb string, payload []byte, fn func([]byte) bool) error {
	request := &RequestMessage{Nonce: make([]byte, nonceSize), Subject: requestSubject(c.cfg.Name, verb), Payload: payload}
	rand.Read(request.Nonce) // never fails
	data, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	if len(data) > maxNodePayload {
		return fmt.Errorf("the request has %d bytes, more than the %d that a node may send", len(data), maxNodePayload)
	}
	// An inbox of its own, so that what somebody else makes the server deliver there ends nothing.
	inbox := c.nc.NewInbox()
	parts, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer parts.Unsubscribe()
	if err := parts.SetPendingLimits(maxPartsPending, maxPartsPending*maxPayload/16); err != nil {
		return err
	}
	broken := c.breaks()
	err = c.nc.PublishRequest(request.Subject, inbox, data)
	if errors.Is(err, nats.ErrReconnectBufExceeded) && c.changing() {
		waiting, cancel := context.WithTimeout(ctx, changeTime)
		_ = c.Ready(waiting) // what is in the way otherwise, publishing says
		cancel()
		broken = c.breaks()
		err = c.nc.PublishRequest(request.Subject, inbox, data)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-broken:
			cancel(errBroken)
		case <-ctx.Done():
		}
	}()
	for due := uint32(0); ; {
		message, err := next(ctx, parts)
		if err != nil {
			return err
		}
		var reply ReplyMessage
		// Anybody can make a controller's answer to somebody else arrive here, by asking with this inbox as
		// the reply subject. Only who saw the request knows its nonce.
		if proto.Unmarshal(message.Data, &reply) != nil || !bytes.Equal(reply.Nonce, request.Nonce) {
			c.cfg.Log.Warn("an answer that was not asked for", "node", c.cfg.Name, "verb", verb)
			continue
		}
		if failure := reply.Error; failure != nil {
			return &Error{Code: failure.Code, Message: failure.Message}
		}
		switch {
		case reply.Part < due:
			continue // delivered twice
		case reply.Part > due:
			return fmt.Errorf("part %d of the answer is missing", due)
		}
		due++
		if !fn(reply.Payload) || reply.Last {
			return nil
		}
	}
}

// next waits for the next part, and tells whether the caller's time ended or the controller's.
func next(ctx context.Context, parts *nats.Subscription) (*nats.Msg, error) {
	wait, cancel := context.WithTimeout(ctx, partTimeout)
	defer cancel()
	message, err := parts.NextMsgWithContext(wait)
	switch {
	case err == nil && len(message.Data) == 0 && message.Header.Get("Status") == "503":
		return nil, nats.ErrNoResponders
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, nats.ErrTimeout
	case err != nil && errors.Is(context.Cause(ctx), errBroken):
		return nil, errBroken
	}
	return message, err
}
