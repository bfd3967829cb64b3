package workload

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

const (
	contentType  = "application/grpc"
	statusTime   = time.Second // for the status behind the deadline of a call
	prefixLength = 5           // before each message: whether it is compressed, and four bytes of its length
	// securityHeader must be there, so that no browser or proxy is made to ask for somebody else (SPIFFE Workload Endpoint §6).
	securityHeader = "workload.spiffe.io"
)

// A call is one of gRPC over HTTP/2 (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md): a request of one message,
// and any number of answers. It belongs to the goroutine that serves the request.
type call struct {
	w http.ResponseWriter
	r *http.Request
}

// serveCall answers one request, whatever it is, with what answer sends and returns.
func serveCall(w http.ResponseWriter, r *http.Request, answer func(context.Context, *call) error) {
	if kind := r.Header.Get("Content-Type"); r.Method != http.MethodPost || !isGRPC(kind) {
		// Whoever does not speak gRPC would not find its status.
		http.Error(w, "this is the SPIFFE Workload API, which speaks gRPC", http.StatusUnsupportedMediaType)
		return
	}
	c := &call{w, r}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusOK)
	as, words := outcome(c.run(answer))
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(int(as)))
	if words != "" {
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", escape(words))
	}
	_ = http.NewResponseController(w).Flush() // fails where nobody is left to read it
}

// isGRPC says whether a content type is gRPC's with messages of protobuf.
func isGRPC(kind string) bool {
	kind, _, _ = strings.Cut(kind, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == contentType || kind == contentType+"+proto"
}

func (c *call) run(answer func(context.Context, *call) error) error {
	ctx := c.r.Context()
	if given := c.r.Header.Values("Grpc-Timeout"); len(given) > 0 {
		left, err := timeout(given)
		if err != nil {
			return fail(codeInvalidArgument, err.Error())
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
		// Reading and writing end then too, by the server's timers: nothing of ours may touch w once the call has ended.
		at, _ := ctx.Deadline()
		control := http.NewResponseController(c.w)
		if err := errors.Join(control.SetReadDeadline(at), control.SetWriteDeadline(at.Add(statusTime))); err != nil {
			return failf(codeInternal, "grpc-timeout cannot be kept: %v", err)
		}
	}
	if values := c.r.Header.Values(securityHeader); len(values) != 1 || values[0] != "true" {
		return fail(codeInvalidArgument, "security header missing from request")
	}
	err := answer(ctx, c)
	if ended := ctx.Err(); ended != nil && err != nil { // the reason, and not what it did to reading or writing
		return ended
	}
	return err
}

// read reads the message of the request, which is one, of at most maxMessage bytes.
func (c *call) read(message proto.Message) error {
	var prefix [prefixLength]byte
	if err := c.fill(prefix[:]); err != nil {
		return err
	}
	switch length := binary.BigEndian.Uint32(prefix[1:]); {
	case prefix[0] == 1:
		return fail(codeUnimplemented, "compressed messages are not read: send them as they are")
	case prefix[0] != 0:
		return failf(codeInternal, "a message begins with %d, which is no flag of gRPC", prefix[0])
	case length > maxMessage:
		return failf(codeResourceExhausted, "a message of %d bytes is too long: send at most %d", length, maxMessage)
	default:
		raw := make([]byte, length)
		if err := c.fill(raw); err != nil {
			return err
		}
		if err := proto.Unmarshal(raw, message); err != nil {
			return failf(codeInvalidArgument, "the request's message cannot be read: %v", err)
		}
	}
	switch n, err := io.ReadFull(c.r.Body, prefix[:1]); {
	case n > 0:
		return fail(codeInternal, "a request is one message, and this one goes on")
	case !errors.Is(err, io.EOF):
		return unread(err)
	}
	return nil
}

// fill reads as many bytes as there is room for.
func (c *call) fill(into []byte) error {
	if _, err := io.ReadFull(c.r.Body, into); err != nil {
		return unread(err)
	}
	return nil
}

func unread(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fail(codeDeadlineExceeded, "the call's time was over before its request had come")
	}
	return failf(codeInternal, "the request's message cannot be read: %v", err)
}

// send sends an answer at once. It blocks while the process reads none, until the call ends.
func (c *call) send(message proto.Message) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, prefixLength), message)
	if err != nil || len(frame)-prefixLength > math.MaxUint32 {
		return failf(codeInternal, "an answer cannot be written: %v", err)
	}
	binary.BigEndian.PutUint32(frame[1:prefixLength], uint32(len(frame)-prefixLength))
	if _, err := c.w.Write(frame); err != nil {
		return fmt.Errorf("send an answer: %w", err)
	}
	return http.NewResponseController(c.w).Flush()
}

// timeout reads grpc-timeout: at most eight digits, and a unit.
func timeout(given []string) (time.Duration, error) {
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
	value := given[0]
	if len(given) == 1 && len(value) >= 2 && len(value) <= 9 {
		n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
		if unit := units[value[len(value)-1]]; err == nil && unit > 0 {
			if n > uint64(math.MaxInt64/unit) {
				return math.MaxInt64, nil // longer than anything runs
			}
			return time.Duration(n) * unit, nil
		}
	}
	return 0, fmt.Errorf("grpc-timeout %q is not up to eight digits and a unit", value)
}

// escape writes a text as grpc-message carries it: what is not printable ASCII, and the per cent sign, as %XX.
func escape(words string) string {
	var out strings.Builder
	for _, b := range []byte(words) {
		if b < ' ' || b > '~' || b == '%' {
			fmt.Fprintf(&out, "%%%02X", b)
		} else {
			out.WriteByte(b)
		}
	}
	return out.String()
}
