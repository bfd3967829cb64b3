package proxy

import (
	"context"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

const (
	// maxMirrors bounds how many mirrored requests a node has on their way; more are not mirrored.
	maxMirrors = 1024
	// mirrorPieces is how many pieces of a body may wait for a mirror. One that takes them more slowly than the
	// service does not get the rest: mirroring holds nothing up.
	mirrorPieces = 8
	// mirrorTime bounds one mirrored request.
	mirrorTime = 15 * time.Second
)

// A mirrored request is a copy of one that is sent to another backend too. Its response is read and dropped.
type mirrored struct {
	decision routing.Decision
	call     routing.Call
	request  exchange.Request
	body     []byte      // the whole one
	pieces   chan []byte // or where it comes in pieces; nil: it does not
	broken   bool        // the rest of the pieces is not sent: of whoever feeds
	ended    bool        // pieces is closed: of whoever feeds
}

// mirror begins to send the request to each of the rule's mirrors that its share gives it to.
func (c *caller) mirror(ctx context.Context, request *body) {
	for i := range c.decision.Mirrors() {
		if c.mirrors.Add(1) > maxMirrors {
			c.mirrors.Add(-1)
			return
		}
		m := &mirrored{call: c.call}
		if request.open || !c.decision.PickMirror(i, &m.call, &c.request, &m.decision) {
			c.mirrors.Add(-1)
			continue
		}
		m.request = copyOf(&c.request)
		m.request.ExpectContinue, m.request.Target = false, m.decision.Target
		if request.whole {
			if request.length > 0 {
				m.body = append(m.body, request.held[:request.length]...)
			}
		} else {
			m.pieces = make(chan []byte, mirrorPieces)
			request.mirrors = append(request.mirrors, m)
		}
		c.copies.Go(func() {
			defer c.mirrors.Add(-1)
			defer m.decision.Done()
			ctx, cancel := context.WithTimeout(ctx, mirrorTime)
			defer cancel()
			if err := m.send(ctx, c.Lanes); err != nil {
				c.Log.Debug("request was not mirrored", "service", m.decision.Service.String(), "err", err)
			}
		})
	}
}

// copyOf copies a head whose text belongs to a connection.
func copyOf(r *exchange.Request) exchange.Request {
	c := *r
	c.Method, c.Scheme, c.Authority, c.Path, c.Upgrade = strings.Clone(r.Method), strings.Clone(r.Scheme), strings.Clone(r.Authority), strings.Clone(r.Path), ""
	c.Fields = make(exchange.Fields, len(r.Fields))
	for i, f := range r.Fields {
		c.Fields[i] = exchange.Field{Name: strings.Clone(f.Name), Value: strings.Clone(f.Value)}
	}
	return c
}

func (m *mirrored) send(ctx context.Context, lanes Lanes) error {
	class := transport.Interactive
	if m.pieces != nil {
		class = transport.Bulk
	}
	stream, err := lanes.Open(ctx, laneOf(&m.call, &m.decision), m.decision.Instance.Address, class)
	if err != nil {
		return err
	}
	defer stream.Release()
	var g guard
	g.begin(stream, mirrorTime)
	defer g.end()
	if err := stream.WriteRequest(&m.request); err != nil {
		return err
	}
	if err := m.sendBody(stream); err != nil {
		return err
	}
	var response exchange.Response
	for {
		if err := stream.ReadResponse(&response); err != nil {
			return err
		}
		if !response.Informational() {
			break
		}
	}
	return drop(stream)
}

func (m *mirrored) sendBody(stream *transport.Stream) error {
	if m.pieces == nil {
		if len(m.body) > 0 {
			if _, err := stream.Write(m.body); err != nil {
				return err
			}
		}
		return stream.End()
	}
	for piece := range m.pieces {
		if piece == nil { // the body broke off, or came too fast
			stream.Reset(exchange.CallerGone)
			continue
		}
		if _, err := stream.Write(piece); err != nil {
			return err
		}
	}
	return stream.End()
}

// feed hands a piece of a body on, or gives up where the mirror does not keep up.
func (m *mirrored) feed(piece []byte) {
	if m.broken {
		return
	}
	if len(m.pieces) == mirrorPieces-1 { // the last place is for saying so
		m.cutOff()
		return
	}
	m.pieces <- append([]byte(nil), piece...)
}

// cutOff says that the rest does not come. There is a place for that: feed leaves one.
func (m *mirrored) cutOff() {
	if !m.broken && !m.ended {
		m.broken = true
		m.pieces <- nil
	}
}

// finish ends the body; a second call does nothing.
func (m *mirrored) finish() {
	if !m.ended {
		m.ended = true
		close(m.pieces)
	}
}

// drop reads a response to its end.
func drop(stream *transport.Stream) error {
	var window window
	defer window.release()
	for !stream.Ended() {
		if _, err := window.read(stream); err != nil && !stream.Ended() {
			return err
		}
	}
	return nil
}
