package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	queueGroup = "controllers"

	// handlerTime leaves the answer time to arrive before the server forgets where it goes.
	handlerTime = responseThreshold - 500*time.Millisecond

	serveWorkers = 16   // requests of a verb that are handled at once
	serveQueue   = 1024 // requests of a verb that wait; a node's ones beyond are told to come again

	// serveBacklog bounds what a flood can make this process hold before it is cut off, in messages of a
	// verb. Beyond, the client drops them and says that it is slow.
	serveBacklog = 4096

	// importedReply starts the reply subject of every request that crossed from the account of nodes.
	importedReply = "_R_."
)

// A Handler answers a verb. node is who asks, by the permissions of its bus user; what changes state must be
// signed with the node's key all the same. It is called from many goroutines, and its context ends before
// the answer would come too late.
type Handler func(ctx context.Context, node string, request []byte) (reply []byte, err error)

// A PartsHandler answers a verb in parts. It yields an error last.
type PartsHandler func(ctx context.Context, node string, request []byte) iter.Seq2[[]byte, error]

// RequestsConfig is what NewRequests needs.
type RequestsConfig struct {
	Conn   *Conn
	Limits Limits
	CutOff func(node, verb string) // Server.CutOff; must not block
	// Refused is told of each request that is refused, and why: by a code, or RefusedFlood. It must not block. nil: nobody is.
	Refused func(node, verb, why string)
	Log     *slog.Logger
}

// Requests answers what nodes ask. Every request is answered, if only with an error, except those of a
// flood; controllers share them as one queue group. It is safe for concurrent use.
type Requests struct {
	cfg RequestsConfig

	mu    sync.Mutex
	meter *meter
}

// NewRequests prepares answering; Serve and ServeParts do it, a call for each verb.
func NewRequests(cfg RequestsConfig) *Requests {
	return &Requests{cfg: cfg, meter: newMeter(cfg.Limits)}
}

// Serve answers a verb until ctx ends, and returns when all its requests are answered.
func (r *Requests) Serve(ctx context.Context, verb string, handler Handler) error {
	return r.ServeParts(ctx, verb, func(ctx context.Context, node string, request []byte) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) { yield(handler(ctx, node, request)) }
	})
}

// ServeParts is Serve for answers in parts.
func (r *Requests) ServeParts(ctx context.Context, verb string, handler PartsHandler) error {
	queue := make(chan *question, serveQueue)
	var workers sync.WaitGroup
	for range serveWorkers {
		workers.Go(func() {
			for q := range queue {
				r.answer(ctx, q, handler)
			}
		})
	}
	defer workers.Wait()
	defer close(queue)
	arrived := make(chan *nats.Msg, serveBacklog)
	subscription, err := r.cfg.Conn.nc.ChanQueueSubscribe(nodePrefix+"*."+verb, queueGroup, arrived)
	if err != nil {
		return fmt.Errorf("serve %s: %w", verb, err)
	}
	defer subscription.Unsubscribe()
	for {
		select {
		case <-ctx.Done():
			return nil
		case message, ok := <-arrived:
			if !ok {
				return fmt.Errorf("serve %s: the connection was closed", verb)
			}
			if q := r.admit(verb, message); q != nil {
				select {
				case queue <- q:
				default:
					r.fail(q, &Error{ErrorCode_ERROR_CODE_UNAVAILABLE, "the controller has too much to do: ask again in a moment"})
				}
			}
		}
	}
}

// question is a request that is due an answer.
type question struct {
	node, verb string
	nonce      []byte
	payload    []byte
	message    *nats.Msg
	arrived    time.Time
}

// admit decides whether a request is handled, and answers those that are refused.
func (r *Requests) admit(verb string, message *nats.Msg) *question {
	now := time.Now()
	node, ok := asker(message.Subject, verb)
	// A reply subject that the server did not make is one of our own account: answering there would let a
	// node choose where a controller publishes. The server passes "$JS.ACK…" through as it is.
	if !ok || message.Reply != "" && !strings.HasPrefix(message.Reply, importedReply) {
		r.cfg.Log.Warn("a request that no node sent", "node", node, "verb", verb)
		if ok { // with a reply subject of its own choice
			r.refused(&question{node: node, verb: verb}, refusedCodes[ErrorCode_ERROR_CODE_INVALID])
		}
		return nil
	}
	r.mu.Lock()
	verdict := r.meter.take(flood{node: node, joining: verb == VerbJoin}, costOf(verb), now)
	r.mu.Unlock()
	q := &question{node: node, verb: verb, message: message, arrived: now}
	switch verdict {
	case cut:
		r.refused(q, RefusedFlood)
		r.cfg.CutOff(node, verb)
		return nil
	case discard:
		r.refused(q, RefusedFlood)
		return nil
	}
	var request RequestMessage
	if err := proto.Unmarshal(message.Data, &request); err != nil || len(request.Nonce) != nonceSize || request.Subject != message.Subject {
		r.fail(q, &Error{ErrorCode_ERROR_CODE_INVALID, "not a request"})
		return nil
	}
	q.nonce, q.payload = request.Nonce, request.Payload
	if verdict == refuse {
		r.fail(q, &Error{ErrorCode_ERROR_CODE_TOO_MANY, "this node asks too often"})
		return nil
	}
	return q
}

// asker is the node that a subject names. The server let only that node publish there.
func asker(subject, verb string) (string, bool) {
	token, ok := strings.CutPrefix(subject, nodePrefix)
	if !ok {
		return "", false
	}
	if token, ok = strings.CutSuffix(token, "."+verb); !ok {
		return "", false
	}
	node, err := snapshot.Unescape(token)
	return node, err == nil && node != ""
}

// answer runs the handler and sends its parts, each as soon as the next is known: the last one says so.
func (r *Requests) answer(ctx context.Context, q *question, handler PartsHandler) {
	ctx, cancel := context.WithDeadline(ctx, q.arrived.Add(handlerTime))
	defer cancel()
	var held []byte
	parts := uint32(0)
	for part, err := range handler(ctx, q.node, q.payload) {
		if err != nil {
			r.fail(q, err)
			return
		}
		if parts > 0 && !r.send(q, &ReplyMessage{Part: parts - 1, Payload: held}) {
			return
		}
		held, parts = part, parts+1
	}
	r.send(q, &ReplyMessage{Part: max(parts, 1) - 1, Last: true, Payload: held})
}

// fail tells the node why. What a handler did not mean for the node stays in the log.
func (r *Requests) fail(q *question, err error) {
	var told *Error
	if !errors.As(err, &told) {
		r.cfg.Log.Error("request failed", "node", q.node, "verb", q.verb, "err", err)
		told = &Error{ErrorCode_ERROR_CODE_INTERNAL, "the controller failed; its log says why"}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			told = &Error{ErrorCode_ERROR_CODE_UNAVAILABLE, "the controller did not manage in time: ask again"}
		}
	}
	if why, is := refusedCodes[told.Code]; is {
		r.refused(q, why)
	}
	r.send(q, &ReplyMessage{Error: &ErrorMessage{Code: told.Code, Message: told.Message}})
}

// refusedCodes are the codes of answers that refuse something, which others would not be.
var refusedCodes = map[ErrorCode]string{
	ErrorCode_ERROR_CODE_DENIED: "denied", ErrorCode_ERROR_CODE_INVALID: "invalid", ErrorCode_ERROR_CODE_TOO_MANY: "too-many",
}

func (r *Requests) refused(q *question, why string) {
	if r.cfg.Refused != nil {
		r.cfg.Refused(q.node, q.verb, why)
	}
}

// send reports whether more can be sent.
func (r *Requests) send(q *question, reply *ReplyMessage) bool {
	if q.message.Reply == "" {
		return true // the node does not want to know
	}
	reply.Nonce = q.nonce
	data, err := proto.Marshal(reply)
	if err == nil {
		err = r.cfg.Conn.nc.Publish(q.message.Reply, data)
	}
	if err != nil {
		r.cfg.Log.Warn("answer could not be sent", "node", q.node, "verb", q.verb, "err", err)
	}
	return err == nil
}
