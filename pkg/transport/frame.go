package transport

import (
	"encoding/binary"
	"fmt"
)

// A frame is
//
//	+----------+------------------+-----------------+
//	| type (8) | length (varint)  | payload (length)|
//	+----------+------------------+-----------------+
//
// with the variable-length integers of RFC 9000 §16, of which only the shortest form is allowed.
type frameType byte

const (
	frameHead          frameType = 0x01 // request or final response
	frameInformational frameType = 0x02 // a 1xx response other than 101
	frameData          frameType = 0x03 // bytes of the body
	frameTrailers      frameType = 0x04
	frameEnd           frameType = 0x05 // this direction of the exchange is complete
	frameReset         frameType = 0x06 // this side gives the exchange up
	// Types from frameSkipFirst to frameSkipLast may be skipped by who does not know them; any other
	// unknown type is malformed.
	frameSkipFirst frameType = 0x20
	frameSkipLast  frameType = 0x3f
)

// maxFrameHeader is the length of a type and of the longest length that is in bounds.
const maxFrameHeader = 1 + 4

// appendVarint appends v in its shortest form (RFC 9000 §16). v is below 2^62.
func appendVarint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(b, byte(v))
	case v < 1<<14:
		return append(b, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return append(b, byte(v>>24)|0x80, byte(v>>16), byte(v>>8), byte(v))
	default:
		return binary.BigEndian.AppendUint64(b, v|3<<62)
	}
}

// varint reads an integer from the start of b and says how many bytes it took: 0 where b ends too early,
// -1 where it is not in its shortest form.
func varint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	switch n {
	case 1:
		return uint64(b[0]), 1
	case 2:
		v = uint64(binary.BigEndian.Uint16(b)) &^ (3 << 14)
		if v < 1<<6 {
			return 0, -1
		}
	case 4:
		v = uint64(binary.BigEndian.Uint32(b)) &^ (3 << 30)
		if v < 1<<14 {
			return 0, -1
		}
	default:
		v = binary.BigEndian.Uint64(b) &^ (3 << 62)
		if v < 1<<30 {
			return 0, -1
		}
	}
	return v, n
}

// appendFrameHeader appends the type and length of a frame.
func appendFrameHeader(b []byte, t frameType, length int) []byte {
	return appendVarint(append(b, byte(t)), uint64(length))
}

// parseFrameHeader reads type and length from the start of b. n is 0 where more bytes are needed. The
// length is within what the type allows; headLimit is the node's own bound for heads.
func parseFrameHeader(b []byte, headLimit int) (t frameType, length, n int, err error) {
	if len(b) < 2 {
		return 0, 0, 0, nil
	}
	t = frameType(b[0])
	v, vn := varint(b[1:])
	if vn < 0 {
		return 0, 0, 0, fmt.Errorf("%w: length not in its shortest form", ErrMalformed)
	}
	if vn == 0 {
		if b[1]>>6 == 3 {
			return 0, 0, 0, fmt.Errorf("%w: length of 8 bytes", ErrMalformed)
		}
		return 0, 0, 0, nil
	}
	switch {
	case t == frameHead, t == frameInformational, t == frameTrailers:
		if v > uint64(headLimit) {
			return 0, 0, 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, v, headLimit)
		}
	case t == frameData:
		if v == 0 || v > maxData {
			return 0, 0, 0, fmt.Errorf("%w: data of %d bytes", ErrMalformed, v)
		}
	case t == frameEnd:
		if v != 0 {
			return 0, 0, 0, fmt.Errorf("%w: end of %d bytes", ErrMalformed, v)
		}
	case t == frameReset:
		if v == 0 || v > 8 {
			return 0, 0, 0, fmt.Errorf("%w: reset of %d bytes", ErrMalformed, v)
		}
	case t >= frameSkipFirst && t <= frameSkipLast:
		if v > maxData {
			return 0, 0, 0, fmt.Errorf("%w: frame of %d bytes", ErrMalformed, v)
		}
	default:
		return 0, 0, 0, fmt.Errorf("%w: type %#02x", ErrMalformed, byte(t))
	}
	return t, int(v), 1 + vn, nil
}
