package transport

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A tcpLink is what stands for one QUIC connection where UDP does not get through: a control connection, which
// lives as long as the link, and a connection for each stream. All are TLS over TCP, and each is a handshake in which
// both ends are verified. docs/reference/wire.md has what is said on them.
//
// The control connection says how streams are cancelled, so that nobody has to read a stream in order to hear of it,
// and that the peer is still there. A link ends with it.
type tcpLink struct {
	t       *Transport
	conn    *plainConn // below control
	control *tls.Conn
	dialled *dialled // nil at the end that was dialled
	token   linkToken
	peer    exchange.ServiceName // of one that was dialled
	silence time.Duration        // without a word for so long, the peer is lost
	away    chan struct{}        // closed when the peer said that it drains
	arrived chan *tcpStream
	ctx     context.Context
	cancel  context.CancelCauseFunc
	trip    atomic.Int64 // nanoseconds that the last ping took

	mu      sync.Mutex
	streams map[uint32]*tcpStream // that Streams use
	last    uint32                // number of the last stream that this end opened
	words   []byte                // to be written on the control connection
	then    []*tcpStream          // to be closed when those are
	wake    chan struct{}         // has one token while there are any
	mute    bool                  // nothing is written any more
	early   map[uint32]cancelled  // of streams whose connection the words overtook
}

// A linkToken is how a stream's connection says to which link it belongs. The dialled end makes it, and only the
// dialler learns it; beside it the certificate must be the same.
type linkToken [16]byte

// cancelled is what was said of a stream that is not there; nil for a direction of which nothing was.
type cancelled struct{ reading, writing error }

var (
	errSilent  = errors.New("peer is silent")
	errStreams = errors.New("all streams of the connection are in use")
)

func newTCPLink(t *Transport, conn *plainConn, control *tls.Conn) *tcpLink {
	k := &tcpLink{
		t: t, conn: conn, control: control, silence: t.limits.Silence,
		away: make(chan struct{}), arrived: make(chan *tcpStream), streams: make(map[uint32]*tcpStream), wake: make(chan struct{}, 1),
		early: make(map[uint32]cancelled),
	}
	k.ctx, k.cancel = context.WithCancelCause(context.Background())
	_, _ = rand.Read(k.token[:]) // never fails
	return k
}

// Context ends with the link.
func (k *tcpLink) Context() context.Context { return k.ctx }

func (k *tcpLink) handshake() tls.ConnectionState { return k.control.ConnectionState() }
func (k *tcpLink) rtt() time.Duration             { return time.Duration(k.trip.Load()) }

// OpenStream returns a stream whose connection is being made; who writes or reads waits for that.
func (k *tcpLink) OpenStream() (pipe, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := context.Cause(k.ctx); err != nil {
		return nil, err
	}
	if len(k.streams) >= k.t.limits.Streams {
		return nil, errStreams
	}
	k.last++
	s := newTCPStream(k, k.last)
	if !k.t.spawn(s.dial) {
		return nil, errStops
	}
	k.streams[s.number] = s
	return s, nil
}

// AcceptStream returns the next stream that the peer opened.
func (k *tcpLink) AcceptStream(ctx context.Context) (pipe, error) {
	select {
	case s := <-k.arrived:
		return s, nil
	case <-k.ctx.Done():
		return nil, context.Cause(k.ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// take hands over a stream that arrived, and refuses it where it is one too many.
func (k *tcpLink) take(ctx context.Context, s *tcpStream) error {
	k.mu.Lock()
	if k.ctx.Err() != nil {
		k.mu.Unlock()
		return context.Cause(k.ctx)
	}
	if k.streams[s.number] != nil {
		k.mu.Unlock()
		return fmt.Errorf("%w: stream %d twice", ErrMalformed, s.number)
	}
	full := len(k.streams) >= k.t.limits.Streams
	k.streams[s.number] = s
	early := k.early[s.number]
	delete(k.early, s.number)
	k.mu.Unlock()
	s.cancelled(early)
	if full {
		s.CancelRead(codeRefused)
		s.CancelWrite(codeRefused)
		return nil
	}
	select {
	case k.arrived <- s:
		return nil
	case <-k.ctx.Done():
		return context.Cause(k.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// goAway says that this end drains.
func (k *tcpLink) goAway() { k.say(wordGoAway, nil) }

func (k *tcpLink) awaitGoAway(ctx context.Context) {
	select {
	case <-k.away:
	case <-k.ctx.Done():
	case <-ctx.Done():
	}
}

// CloseWithError ends the link with all streams and tells the peer.
func (k *tcpLink) CloseWithError(code quic.ApplicationErrorCode, why string) error {
	k.say(wordClose, nil, uint64(code))
	k.end(&quic.ApplicationError{ErrorCode: code, ErrorMessage: why})
	return nil
}

// end ends the link and whatever waits for it. What was to be said is still written (see write).
func (k *tcpLink) end(err error) {
	k.cancel(err)
	k.mu.Lock()
	streams := make([]*tcpStream, 0, len(k.streams))
	for _, s := range k.streams {
		streams = append(streams, s)
	}
	clear(k.streams)
	k.mu.Unlock()
	for _, s := range streams {
		s.fail(context.Cause(k.ctx))
	}
}

// hearCancelled takes word of a stream, and keeps it where the stream is not there: it has ended, or its connection is
// slower than the word.
func (k *tcpLink) hearCancelled(number uint32, said cancelled) {
	k.mu.Lock()
	s := k.streams[number]
	if s == nil && k.dialled == nil {
		before := k.early[number]
		if len(k.early) >= k.t.limits.Streams {
			clear(k.early) // mostly of streams that have ended
		}
		k.early[number] = cancelled{cmp.Or(before.reading, said.reading), cmp.Or(before.writing, said.writing)}
	}
	k.mu.Unlock()
	if s != nil {
		s.cancelled(said)
	}
}

func (k *tcpLink) forget(s *tcpStream) {
	k.mu.Lock()
	if k.streams[s.number] == s {
		delete(k.streams, s.number)
	}
	k.mu.Unlock()
}
