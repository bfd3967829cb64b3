package http1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/internal/rawsock"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// output is the writing side of a connection. It collects what is written until a buffer is full or flush is
// called; what is too large for the buffer goes out directly behind it in the same system call. It has a buffer
// only while there is something in it.
type output struct {
	dst     net.Conn
	socket  rawsock.Writer
	direct  bool // socket is dst's
	buf     *buffer
	n       int
	framing framing
	left    int64 // bytes of the stated length that were not written
	open    bool  // a body was begun and not finished
	err     error // sticky: what was written is not known any more
}

// pieces is what goes out in one system call. It is lent for that call only.
type pieces struct {
	vector [3][]byte
	rest   net.Buffers
}

var piecesPool = sync.Pool{New: func() any { return new(pieces) }}

// write writes all that is not empty, in order.
func (v *pieces) write(to net.Conn, all ...[]byte) error {
	v.rest = v.vector[:0]
	for _, piece := range all {
		if len(piece) > 0 {
			v.rest = append(v.rest, piece)
		}
	}
	_, err := v.rest.WriteTo(to)
	clear(v.vector[:])
	v.rest = nil
	return err
}

var crlf = []byte("\r\n")

// init makes o write to dst; raw reaches dst's socket, or is nil.
func (o *output) init(dst net.Conn, raw syscall.RawConn) {
	o.dst, o.direct = dst, raw != nil
	if o.direct {
		o.socket.Init(raw)
	}
}

// begin starts a body behind a head that was written.
func (o *output) begin(f framing, length int64) {
	o.framing, o.left, o.open = f, 0, true
	if f == byLength {
		o.left = length
	}
}

func (o *output) str(s string) {
	for len(s) > 0 {
		if o.buf == nil {
			o.buf = takeBuffer(smallest)
		}
		n := copy(o.buf.b[o.n:], s)
		o.n += n
		if s = s[n:]; s != "" {
			o.push(nil, nil)
		}
	}
}

func (o *output) field(name, value string) {
	o.str(name)
	o.str(": ")
	o.str(value)
	o.str("\r\n")
}

func (o *output) number(n int64, base int) {
	if o.buf == nil {
		o.buf = takeBuffer(smallest)
	}
	if len(o.buf.b)-o.n < 20 {
		o.push(nil, nil)
		o.buf = takeBuffer(smallest)
	}
	o.n = len(strconv.AppendInt(o.buf.b[:o.n], n, base))
}

func (o *output) statusLine(status int) {
	o.str("HTTP/1.1 ")
	o.number(int64(status), 10)
	o.str(" ")
	o.str(http.StatusText(status))
	o.str("\r\n")
}

func (o *output) requestLine(r *exchange.Request) {
	o.str(r.Method)
	o.str(" ")
	if r.Method == "CONNECT" {
		o.str(r.Authority)
	} else {
		o.str(r.Path)
	}
	o.str(" HTTP/1.1\r\n")
}

// fields writes those of fields that are end to end.
func (o *output) fields(fields exchange.Fields) {
	for i := range fields {
		if meaningOf(fields[i].Name) == endToEnd {
			o.field(fields[i].Name, fields[i].Value)
		}
	}
}

// framed writes the field that says how the body is framed.
func (o *output) framed(f framing, length int64) {
	switch f {
	case inChunks:
		o.str("Transfer-Encoding: chunked\r\n")
	case byLength:
		o.length(length)
	case noBody, untilClose, otherProtocol:
	}
}

func (o *output) length(n int64) {
	o.str("Content-Length: ")
	o.number(n, 10)
	o.str("\r\n")
}

// data writes bytes of the body.
func (o *output) data(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if !o.open {
		return 0, sequence("write body: no body was begun, or it was finished")
	}
	switch o.framing {
	case inChunks:
		o.number(int64(len(p)), 16)
		o.str("\r\n")
		o.bytes(p, crlf)
	case byLength:
		if int64(len(p)) > o.left {
			return 0, sequence("write body: more than the stated length")
		}
		o.left -= int64(len(p))
		o.bytes(p, nil)
	case untilClose:
		o.bytes(p, nil)
	default:
		return 0, sequence("write body: this message has none")
	}
	if o.err != nil {
		return 0, o.err
	}
	return len(p), nil
}

func (o *output) bytes(p, tail []byte) {
	if o.buf == nil {
		o.buf = takeBuffer(smallest)
	}
	if len(p)+len(tail) > len(o.buf.b)-o.n {
		o.push(p, tail)
		return
	}
	o.n += copy(o.buf.b[o.n:], p)
	o.n += copy(o.buf.b[o.n:], tail)
}

// finish ends the body, with trailers where its framing has room for them, and flushes.
func (o *output) finish(trailers exchange.Fields) error {
	if o.err != nil {
		return o.err
	}
	if !o.open {
		return sequence("finish: nothing was begun")
	}
	if o.left > 0 {
		return sequence("finish: less was written than the stated length")
	}
	if o.framing == inChunks {
		if err := checkFields(trailers); err != nil {
			return fmt.Errorf("write trailers: %w", err)
		}
		o.str("0\r\n")
		for i := range trailers {
			if isTrailer(trailers[i].Name) {
				o.field(trailers[i].Name, trailers[i].Value)
			}
		}
		o.str("\r\n")
	}
	o.open = false
	return o.flush()
}

// isTrailer reports whether a field may stand in a trailer section (RFC 9110 §6.5.1).
func isTrailer(name string) bool {
	return meaningOf(name) == endToEnd && !grammar.IsName(name, "trailer")
}

// flush sends what was collected.
func (o *output) flush() error {
	if o.n > 0 {
		o.push(nil, nil)
	}
	return o.err
}

// push sends what was collected with p and tail behind it, and gives the buffer back.
func (o *output) push(p, tail []byte) {
	if o.err == nil {
		o.send(p, tail)
	}
	o.drop()
}

// drop forgets what was collected.
func (o *output) drop() {
	giveBuffer(o.buf)
	o.buf, o.n = nil, 0
}

func (o *output) send(p, tail []byte) {
	var collected []byte
	if o.n > 0 {
		collected = o.buf.b[:o.n]
	}
	var err error
	switch {
	case len(p) == 0 && o.direct:
		_, err = o.socket.Write(collected)
	case len(p) == 0:
		_, err = o.dst.Write(collected)
	default:
		v := piecesPool.Get().(*pieces)
		err = v.write(o.dst, collected, p, tail)
		piecesPool.Put(v)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		o.err = fmt.Errorf("write: %w", err)
	}
}

// checkFields refuses fields that would not be read as what they are.
func checkFields(fields exchange.Fields) error {
	if why := grammar.WrongField(fields); why != "" {
		return malformed(why)
	}
	return nil
}
