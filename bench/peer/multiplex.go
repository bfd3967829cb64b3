package peer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/bench/load"
)

// grpcResponse is the message that the origin answers unary calls with, as large as originBody.
var grpcResponse = load.GRPCMessage(len(originBody))

// answerMultiplexed serves one connection of HTTP/2 with prior knowledge in one goroutine: GETs are answered as
// answer does, everything else as a unary call of gRPC, when it has ended. What it writes goes out when there is
// nothing left to read.
func answerMultiplexed(conn net.Conn) error {
	reader, writer := bufio.NewReaderSize(conn, 32<<10), bufio.NewWriterSize(conn, 32<<10)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(reader, preface); err != nil || string(preface) != http2.ClientPreface {
		return fmt.Errorf("no connection preface of HTTP/2: %q, %w", preface, err)
	}
	frames := http2.NewFramer(writer, reader)
	frames.SetReuseFrames()
	a := &multiplexed{frames: frames, parse: hpack.NewDecoder(4096, func(hpack.HeaderField) {}), credit: 65_535}
	a.fields = hpack.NewEncoder(&a.head)
	if err := frames.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000}); err != nil {
		return err
	}
	for {
		if reader.Buffered() == 0 {
			if err := writer.Flush(); err != nil {
				return err
			}
		}
		frame, err := frames.ReadFrame()
		if err != nil {
			return err
		}
		if err := a.read(frame); err != nil {
			return err
		}
	}
}

// multiplexed is one connection to the origin.
type multiplexed struct {
	frames *http2.Framer
	fields *hpack.Encoder
	head   bytes.Buffer
	parse  *hpack.Decoder
	taken  int     // bytes of DATA since the connection's window was last given back
	credit int     // bytes of DATA that may be sent
	held   []asked // until there is window for their answers
}

type asked struct {
	stream uint32
	grpc   bool
}

func (a *multiplexed) read(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return a.frames.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return a.frames.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			a.credit += int(f.Increment)
			return a.release()
		}
	case *http2.HeadersFrame:
		if !f.HeadersEnded() {
			return errors.New("header block in several frames")
		}
		if _, err := a.parse.Write(f.HeaderBlockFragment()); err != nil { // for its dynamic table
			return err
		}
		if f.StreamEnded() {
			return a.answer(asked{f.StreamID, false})
		}
	case *http2.DataFrame:
		const give = 32 << 10
		if a.taken += int(f.Length); a.taken >= give {
			if err := a.frames.WriteWindowUpdate(0, uint32(a.taken)); err != nil {
				return err
			}
			a.taken = 0
		}
		if f.StreamEnded() {
			return a.answer(asked{f.StreamID, true})
		}
	}
	return nil
}

// answer answers a call when the connection's window has room for the body. The window of a stream always has: it
// is larger than any body here.
func (a *multiplexed) answer(c asked) error {
	body, content := originBody, "text/plain"
	if c.grpc {
		body, content = grpcResponse, "application/grpc"
	}
	if a.credit < len(body) {
		a.held = append(a.held, c)
		return nil
	}
	a.credit -= len(body)
	if err := a.headers(c.stream, false, ":status", "200", "content-type", content); err != nil {
		return err
	}
	if err := a.frames.WriteData(c.stream, !c.grpc, body); err != nil || !c.grpc {
		return err
	}
	return a.headers(c.stream, true, "grpc-status", "0")
}

func (a *multiplexed) release() error {
	held := a.held
	a.held = nil
	for _, c := range held {
		if err := a.answer(c); err != nil {
			return err
		}
	}
	return nil
}

func (a *multiplexed) headers(id uint32, last bool, fields ...string) error {
	a.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		if err := a.fields.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	return a.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: a.head.Bytes(), EndHeaders: true, EndStream: last})
}
