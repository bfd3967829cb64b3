package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streams is how many calls share a connection: clients of gRPC have one connection, and servers let at least 100
// streams on it (RFC 9113, section 6.5.2).
const streams = 64

// window is what the origin may send before it hears more from a connection, in bytes (RFC 9113, section 5.2).
const window = 1 << 30

// GRPCMessage is a message of gRPC of so many bytes, with its prefix (length-prefixed messages, not compressed).
func GRPCMessage(size int) []byte {
	return append([]byte{0, byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, bytes.Repeat([]byte{'0'}, size)...)
}

// grpcRequest is what a unary call sends.
var grpcRequest = GRPCMessage(32)

// Calls keeps so many calls under way at a time over HTTP/2 with prior knowledge, at most streams of them on one
// connection: small GETs, or unary calls of gRPC.
func Calls(ctx context.Context, dial Dial, calls int, grpc bool, duration time.Duration) Sample {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	return fleet((calls+streams-1)/streams, func(index int, into *Sample) {
		mine := min(streams, calls-index*streams)
		repeat(ctx, dial, into, func(ctx context.Context, conn net.Conn) error {
			return newMultiplex(conn, grpc, into).run(ctx, mine)
		})
	})
}

// A multiplex is one connection of HTTP/2 with calls under way on it, used by one goroutine: what there is to read
// is read, each call that ended is followed by the next, and all of these are sent together.
type multiplex struct {
	reader *bufio.Reader
	writer *bufio.Writer
	frames *http2.Framer
	fields *hpack.Encoder
	head   bytes.Buffer
	parse  *hpack.Decoder
	grpc   bool
	into   *Sample
	next   uint32 // identifier of the next call's stream
	credit int    // bytes of DATA that may be sent on the connection
	sent   map[uint32]*call
}

type call struct {
	at time.Time
	ok bool // a status of success was read
}

func newMultiplex(conn net.Conn, grpc bool, into *Sample) *multiplex {
	m := &multiplex{
		reader: bufio.NewReaderSize(conn, 32<<10), writer: bufio.NewWriterSize(conn, 32<<10), grpc: grpc, into: into,
		next: 1, credit: 65_535, parse: hpack.NewDecoder(4096, nil), sent: map[uint32]*call{},
	}
	m.frames = http2.NewFramer(m.writer, m.reader)
	m.frames.SetReuseFrames()
	m.fields = hpack.NewEncoder(&m.head)
	return m
}

// run ends when ctx has ended and every call was answered.
func (m *multiplex) run(ctx context.Context, calls int) error {
	_, err := io.WriteString(m.writer, http2.ClientPreface)
	err = errors.Join(err, m.frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}),
		m.frames.WriteWindowUpdate(0, window))
	for range calls {
		err = errors.Join(err, m.send())
	}
	for err == nil && len(m.sent) > 0 {
		if m.reader.Buffered() == 0 {
			if err = m.writer.Flush(); err != nil {
				break
			}
		}
		var frame http2.Frame
		if frame, err = m.frames.ReadFrame(); err == nil {
			err = m.read(ctx, frame)
		}
	}
	return err
}

// send starts a call, with the next identifier.
func (m *multiplex) send() error {
	m.head.Reset()
	fields := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/api/items?page=1"},
		{Name: ":authority", Value: "origin"}, {Name: "user-agent", Value: "bench"}, {Name: "accept", Value: "*/*"}}
	if m.grpc {
		fields = []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/bench.Items/Get"},
			{Name: ":authority", Value: "origin"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "bench"}}
	}
	for _, f := range fields {
		if err := m.fields.WriteField(f); err != nil {
			return err
		}
	}
	id := m.next
	m.next += 2
	m.sent[id] = &call{at: time.Now()}
	err := m.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: m.head.Bytes(), EndHeaders: true, EndStream: !m.grpc})
	if err != nil || !m.grpc {
		return err
	}
	if m.credit -= len(grpcRequest); m.credit < 0 {
		return errors.New("the receiver gave no window for a small message") // all answers are there before it is used up
	}
	return m.frames.WriteData(id, true, grpcRequest)
}

// read takes one frame of the origin's, and follows a call that it ends by the next one.
func (m *multiplex) read(ctx context.Context, frame http2.Frame) error {
	id, ended := frame.Header().StreamID, false
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		return m.frames.WriteSettingsAck()
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return m.frames.WritePing(true, f.Data)
	case *http2.WindowUpdateFrame:
		if id == 0 {
			m.credit += int(f.Increment)
		}
		return nil
	case *http2.HeadersFrame:
		one := m.sent[id]
		if one == nil || !f.HeadersEnded() {
			return fmt.Errorf("header block on stream %d, in several frames or of no call", id)
		}
		m.parse.SetEmitFunc(func(field hpack.HeaderField) {
			one.ok = one.ok || m.grpc && field.Name == "grpc-status" && field.Value == "0" || !m.grpc && field.Name == ":status" && field.Value == "200"
		})
		if _, err := m.parse.Write(f.HeaderBlockFragment()); err != nil {
			return err
		}
		ended = f.StreamEnded()
	case *http2.DataFrame:
		ended = f.StreamEnded()
	case *http2.RSTStreamFrame:
		return fmt.Errorf("stream %d was reset: %s", id, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Errorf("told to go away: %s", f.ErrCode)
	default:
		return nil
	}
	if !ended {
		return nil
	}
	one := m.sent[id]
	if one == nil || !one.ok {
		return fmt.Errorf("stream %d ended without success", id)
	}
	delete(m.sent, id)
	m.into.record(time.Since(one.at))
	if ctx.Err() != nil {
		return nil
	}
	return m.send()
}
