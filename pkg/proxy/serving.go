package proxy

import (
	"errors"
	"io"
	"sync"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/http2"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// A serving is what one inbound exchange needs besides its stream. It is used again by the next.
type serving struct {
	request  exchange.Request
	response exchange.Response
	asks     authz.Request // of Inbound.Access
	hears    hearing
	// plaintext says that the caller shows no identity: its own node's name is in the certificate of the lane.
	plaintext bool
	spot      spot
	upgrade   string // that is asked of a process of HTTP/2
	accept    string // what the caller waits for where that is a WebSocket
	seen      Observation
}

var servings = sync.Pool{New: func() any { return new(serving) }}

// A process is the codec's side of an exchange with the process that is called.
type process interface {
	bodyWriter
	io.Closer // breaks the exchange off
	WriteRequest(r *exchange.Request) error
	ReadResponse(r *exchange.Response) error
	Body() exchange.Body
	Ready() bool // reading the body need not wait
}

// send writes the request to the process, or starts to pump its body.
func (e *serving) send(c process, request *body, stream *transport.Stream) error {
	if err := c.WriteRequest(&e.request); err != nil {
		return err
	}
	if !request.whole {
		if err := c.Flush(); err != nil {
			return err
		}
		request.pump = &pump{done: make(chan struct{})}
		go request.pump.toProcess(c, stream, e.hears)
		return nil
	}
	if request.length > 0 {
		if _, err := c.Write(request.held[:request.length]); err != nil {
			return err
		}
	}
	if s, ok := c.(*http2.ClientStream); ok && e.request.Upgrade != "" {
		return s.Flush() // its end would be that of the tunnel
	}
	return finishBody(c, e.hears.of(stream.Trailers()))
}

// toProcess passes the request's body on as it arrives.
func (p *pump) toProcess(c process, stream *transport.Stream, hears hearing) {
	defer close(p.done)
	var window window
	defer window.release()
	for {
		piece, err := window.read(stream)
		if len(piece) > 0 {
			if _, werr := c.Write(piece); werr != nil {
				return // the process may have answered and closed: its response decides
			}
			if werr := c.Flush(); werr != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			_ = finishBody(c, hears.of(stream.Trailers())) // as above
			return
		}
		if err != nil {
			p.err.Store(&err)
			c.Close() // wakes whoever waits for a response to a request that will never be whole
			return
		}
	}
}

// readHead reads the response's head and passes it, and informational ones before it, on.
func (e *serving) readHead(c process, stream *transport.Stream) error {
	for {
		if err := c.ReadResponse(&e.response); err != nil {
			return err
		}
		if !e.response.Informational() {
			return nil
		}
		if err := stream.WriteInformational(&e.response); err != nil {
			return err
		}
	}
}

// passOn writes the response, with its body, to the stream.
func (e *serving) passOn(c process, stream *transport.Stream) error {
	if err := stream.WriteResponse(&e.response); err != nil {
		return err
	}
	from := c.Body()
	if exchange.BodyForbidden(e.request.Method, e.response.Status) || e.response.BodyLength == 0 {
		return stream.End()
	}
	if !c.Ready() { // what comes as it happens, events or a call that streams, may begin with its head alone
		if err := stream.Flush(); err != nil {
			return err
		}
	}
	var window window
	defer window.release()
	left := e.response.BodyLength
	calls, _ := c.(*http2.ClientStream)
	for {
		piece, err := window.read(from)
		if len(piece) > 0 {
			if _, werr := stream.Write(piece); werr != nil {
				return werr
			}
			// The end of a stated length leaves together with its last bytes, and so do trailers that are there.
			if left -= int64(len(piece)); left != 0 && (calls == nil || !calls.Ready()) {
				if werr := stream.Flush(); werr != nil {
					return werr
				}
			}
		}
		if errors.Is(err, io.EOF) {
			if trailers := from.Trailers(); len(trailers) > 0 {
				if werr := stream.WriteTrailers(trailers); werr != nil {
					return werr
				}
			}
			return stream.End()
		}
		if err != nil {
			return err
		}
	}
}

// switchProtocols passes bytes both ways after a 101, until both sides have ended.
func (e *serving) switchProtocols(c *upstream, stream *transport.Stream) error {
	if err := stream.WriteResponse(&e.response); err != nil {
		c.net.Close()
		return err
	}
	if err := stream.Flush(); err != nil {
		c.net.Close()
		return err
	}
	conn, early := c.Hijack()
	defer conn.Close()
	stream.Interrupt(aborted{conn}) // a caller that breaks off is no end of what it said
	defer stream.Interrupt(nil)
	_, _, err := tunnel(conn, stream, early)
	return err
}
