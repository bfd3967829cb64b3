package http1

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unsafe"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// framing is how the end of a body is known (RFC 9112 §6.3).
type framing uint8

const (
	noBody framing = iota
	byLength
	inChunks
	untilClose
	otherProtocol // what follows the head is no HTTP: a switched protocol or a tunnel
)

// body reads the body of the current message. It implements exchange.Body.
type body struct {
	in       *input
	framing  framing
	left     int64 // bytes of the length, or of the current chunk, that were not read
	at       place
	done     bool
	err      error // sticky
	limits   Limits
	trailers exchange.Fields
}

// place says what is next in a chunked body.
type place uint8

const (
	sizeLine place = iota
	chunkData
	chunkEnd
	trailerSection
)

// begin starts a body. length counts with byLength only.
func (b *body) begin(f framing, length int64) {
	b.framing, b.left, b.at, b.err = f, 0, sizeLine, nil
	b.trailers = b.trailers[:0]
	if f == byLength {
		b.left = length
	}
	b.done = f == noBody || f == otherProtocol || f == byLength && length == 0
}

// Trailers returns the trailer fields once Read has returned io.EOF. They are valid until the next head is read.
func (b *body) Trailers() exchange.Fields { return b.trailers }

// Read returns io.EOF at the end of the body, with its last bytes where its length was stated, and an error that
// wraps io.ErrUnexpectedEOF where the peer closed before it. It returns what is there rather than wait for p to be full.
func (b *body) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.done {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	switch b.framing {
	case noBody, otherProtocol: // begun as done
	case byLength:
		n, err = b.in.read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		if b.done = b.left == 0; b.done {
			return n, io.EOF
		}
		err = broken(err)
	case untilClose:
		n, err = b.in.read(p)
		if errors.Is(err, io.EOF) {
			b.done = true
			return n, io.EOF
		}
	case inChunks:
		n, err = b.readChunks(p)
		if errors.Is(err, io.EOF) && b.done {
			return n, io.EOF
		}
		err = broken(err)
	}
	if err != nil {
		b.err = fmt.Errorf("read body: %w", err)
		if n == 0 {
			return 0, b.err
		}
	}
	return n, nil
}

// readChunks reads the data of as many chunks as are there (RFC 9112 §7.1). It never waits once it has some.
func (b *body) readChunks(p []byte) (n int, err error) {
	for {
		switch b.at {
		case sizeLine:
			if n > 0 && !b.in.hasLine() {
				return n, nil
			}
			line, err := b.in.line(longestSizeLine)
			if err != nil {
				return n, err
			}
			if b.left, err = parseSizeLine(line); err != nil {
				return n, err
			}
			b.at = chunkData
			if b.left == 0 {
				b.at = trailerSection
			}
		case chunkData:
			if n == len(p) || n > 0 && b.in.buffered() == 0 {
				return n, nil
			}
			k, err := b.in.read(p[n:min(int64(len(p)), int64(n)+b.left)])
			n += k
			if b.left -= int64(k); b.left == 0 {
				b.at = chunkEnd
			}
			if err != nil {
				return n, err
			}
		case chunkEnd:
			if n > 0 && !b.in.hasLine() {
				return n, nil
			}
			if err := b.in.crlf(); err != nil {
				return n, err
			}
			b.at = sizeLine
		case trailerSection:
			if n > 0 {
				return n, nil
			}
			if err := b.readTrailers(); err != nil {
				return 0, err
			}
			b.done = true
			return 0, io.EOF
		}
	}
}

// readTrailers reads the trailer section (RFC 9112 §7.1.2). A field that says something about the framing or the
// connection has no place there (RFC 9110 §6.5.1).
func (b *body) readTrailers() error {
	section, err := b.in.section(b.limits.Trailers, 0, "a trailer section")
	if err != nil {
		return err
	}
	rest := unsafe.String(unsafe.SliceData(section), len(section))
	for len(rest) > 2 {
		if len(b.trailers) == b.limits.Fields {
			return tooLarge("more trailer fields than allowed")
		}
		end := strings.IndexByte(rest, '\n')
		name, value, err := parseField(rest[:end-1])
		if err != nil {
			return err
		}
		if !isTrailer(name) {
			return malformed("a trailer field that belongs into a head (RFC 9110 §6.5.1)")
		}
		b.trailers = append(b.trailers, exchange.Field{Name: name, Value: value})
		rest = rest[end+1:]
	}
	return nil
}

// drain reads and drops the rest of the body, at most limit bytes of it.
func (b *body) drain(limit int64) error {
	scratch := takeBuffer(smallest)
	defer giveBuffer(scratch)
	for {
		n, err := b.Read(scratch.b)
		if limit -= int64(n); limit < 0 {
			return tooLarge("the rest of a body that nobody reads")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
