package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// A body is the body of one request on its way to a stream. A small one is held, so that it can be sent
// again and costs no goroutine; any other is pumped by a goroutine of its own, beside the one that waits
// for the response. It is owned by the exchange's goroutine.
type body struct {
	length int64
	held   *[copyBuffer]byte
	waits  bool // the application holds it back until a 100
	whole  bool // all there was is held: the request can be sent any number of times
	open   bool // the caller asks for an upgrade: what follows the head is not a body, and its end is not known
	pump   *pump
	keep   bool // what the pump passes on is worth being kept, so that it can be sent again

	mirrors []*mirrored // that get what the pump passes on
}

type pump struct {
	done chan struct{}
	err  atomic.Pointer[error] // why the application's side ended early
	read atomic.Bool           // to its end, of which not all may have been passed on
	pace *pace

	kept   *[copyBuffer]byte // what was passed on; nil: it is not kept, or was too large. The pump's until done.
	length int               // of it
	all    bool              // it is the whole body. The pump's until done.
}

// bodyOf begins the body of a request.
func bodyOf(r *exchange.Request) body {
	return body{length: r.BodyLength, open: r.Upgrade != "" && r.BodyLength == 0, waits: r.ExpectContinue}
}

// hold reads the body if it is small and certain to come. ended says that from has nothing to read.
func (b *body) hold(from exchange.Body, ended bool) error {
	if b.open || ended {
		b.whole = true
		return nil
	}
	if b.waits || b.length < 0 || b.length > copyBuffer {
		return nil
	}
	b.held = takeBuffer()
	if _, err := io.ReadFull(from, b.held[:b.length]); err != nil {
		return err
	}
	// Reading on to the end completes the body: on a connection the next request begins there.
	rest := takeBuffer()
	defer giveBack(rest)
	if _, err := from.Read(rest[:1]); !errors.Is(err, io.EOF) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	b.whole = true
	return nil
}

// repeatable reports whether the request can be sent again.
func (b *body) repeatable() bool { return b.whole || b.pump == nil }

// send writes the held body and ends the request, or starts to pump. It does so at a pace, which may be nil.
func (b *body) send(stream *transport.Stream, from interface{ Body() exchange.Body }, at *pace) error {
	if !b.whole {
		if err := stream.Flush(); err != nil {
			return err
		}
		b.pump = &pump{done: make(chan struct{}), pace: at}
		if b.keep {
			b.pump.kept = takeBuffer()
		}
		go b.pump.run(stream, from.Body(), b.mirrors)
		return nil
	}
	if b.length > 0 {
		if err := pass(stream, b.held[:b.length], at); err != nil {
			return err
		}
	}
	if b.open {
		return stream.Flush()
	}
	return stream.End()
}

// run passes the body on as it arrives.
func (p *pump) run(stream *transport.Stream, from exchange.Body, mirrors []*mirrored) {
	defer close(p.done)
	var window window
	defer window.release()
	for {
		piece, err := window.read(from)
		ended := errors.Is(err, io.EOF)
		if ended {
			p.read.Store(true) // before the service gets it all, and can answer
		}
		if len(piece) > 0 {
			for _, m := range mirrors {
				m.feed(piece)
			}
			p.note(piece)
			if pass(stream, piece, p.pace) != nil || !ended && stream.Flush() != nil {
				return // whoever reads the response hears of it too
			}
		}
		if ended {
			trailers := from.Trailers()
			if len(trailers) > 0 && stream.WriteTrailers(trailers) != nil {
				return
			}
			p.all = p.kept != nil && len(trailers) == 0
			_ = stream.End() // as above
			for _, m := range mirrors {
				m.finish()
			}
			return
		}
		if err != nil {
			p.err.Store(&err)
			stream.Reset(exchange.CallerGone)
			return
		}
	}
}

// note keeps a piece of a body that is small.
func (p *pump) note(piece []byte) {
	if p.kept == nil {
		return
	}
	if p.length+len(piece) > copyBuffer {
		giveBack(p.kept)
		p.kept = nil
		return
	}
	p.length += copy(p.kept[p.length:], piece)
}

// recall makes a request that was pumped one that can be sent again, where all of it has gone and was kept, and reports
// whether it can be.
func (b *body) recall() bool {
	if b.whole || b.pump == nil || !b.keep {
		return b.whole
	}
	timer := time.NewTimer(lateEnd)
	defer timer.Stop()
	select {
	case <-b.pump.done: // most often it is: the service has answered all of it
	case <-timer.C:
		return false
	}
	if !b.pump.all || b.failure() != nil {
		return false
	}
	b.held, b.length, b.whole = b.pump.kept, int64(b.pump.length), true
	b.pump.kept, b.pump = nil, nil
	return true
}

// pass writes a piece of a body to a stream. With a pace it is flushed, too.
func pass(stream *transport.Stream, piece []byte, at *pace) error {
	if at == nil {
		_, err := stream.Write(piece)
		return err
	}
	return at.pass(piece, func(part []byte) error {
		if _, err := stream.Write(part); err != nil {
			return err
		}
		return stream.Flush()
	})
}

// failure returns why the application's body ended early, or nil.
func (b *body) failure() error {
	if b.pump == nil {
		return nil
	}
	if err := b.pump.err.Load(); err != nil {
		return *err
	}
	return nil
}

// arrived reports whether all of the body was read.
func (b *body) arrived() bool { return b.pump == nil || b.pump.read.Load() }

// settle waits for the pump and reports whether the whole body was passed on. One that still waits for the
// other side when the response has ended is woken, and what it reads from is of no further use.
func (b *body) settle(wake func()) bool {
	if b.pump == nil {
		return true
	}
	timer := time.NewTimer(lateEnd)
	defer timer.Stop()
	select {
	case <-b.pump.done:
		return b.failure() == nil
	case <-timer.C:
	}
	wake()
	<-b.pump.done
	return false
}

// lateEnd is how long the end of a request may come after its response. Where both ends are whole they come
// at almost the same time, and waiting keeps their connections; the response has been passed on already.
const lateEnd = 20 * time.Millisecond

func (b *body) release() {
	for _, m := range b.mirrors { // those that have not got all by now do not get it any more
		m.cutOff()
		m.finish()
	}
	giveBack(b.held)
	b.held = nil
	if b.pump != nil {
		select {
		case <-b.pump.done:
			giveBack(b.pump.kept)
			b.pump.kept = nil
		default: // the collector has it
		}
	}
}

// A bodyWriter is the writing side of a codec behind a head.
type bodyWriter interface {
	io.Writer
	WriteTrailers(exchange.Fields) error
	Finish() error
	Flush() error
}

// copyBody passes the response's body on and ends it. What was read is flushed whenever more is not known to
// be there, so that a stream of events is not held back. An error of the stream goes through onRead.
func copyBody(to bodyWriter, stream *transport.Stream, onRead func(error) error) (int64, error) {
	if stream.Ended() {
		return 0, finishBody(to, stream.Trailers())
	}
	var window window
	defer window.release()
	var total int64
	for {
		piece, err := window.read(stream)
		if len(piece) > 0 {
			total += int64(len(piece))
			if _, werr := to.Write(piece); werr != nil {
				return total, werr
			}
			if !stream.Ended() && !stream.Buffered() {
				if werr := to.Flush(); werr != nil {
					return total, werr
				}
			}
		}
		if errors.Is(err, io.EOF) || err == nil && stream.Ended() {
			return total, finishBody(to, stream.Trailers())
		}
		if err != nil {
			return total, onRead(err)
		}
	}
}

func finishBody(to bodyWriter, trailers exchange.Fields) error {
	if len(trailers) > 0 {
		return to.WriteTrailers(trailers)
	}
	return to.Finish()
}
