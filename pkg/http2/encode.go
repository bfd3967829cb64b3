package http2

import (
	"hash/maphash"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// An encoder writes blocks of fields. The connection's lock is over it: blocks must leave in the order in which they
// were encoded.
//
// THE HPACK ENCODER KEEPS THE STRINGS THAT IT PUTS INTO ITS TABLE, and those of an exchange are valid for a while only.
// So it is given strings of our own, or a field that it may not keep. A field is worth a place in the table when it
// comes twice within a short time; what differs in each exchange costs neither memory nor a place.
type encoder struct {
	hpack *hpack.Encoder
	block []byte // of the outbox's size, and only while a block is made
	recur []recurring

	digits [20]byte
}

// A recurring is one field that came before.
type recurring struct {
	last        uint64 // hash of what came last
	name, value string // a field that came twice; our own memory
}

// recurringFields is how many are remembered, a power of two.
const recurringFields = 64

var seed = maphash.MakeSeed()

func (e *encoder) init() { e.hpack = hpack.NewEncoder(e) }

// Write is io.Writer's, for the HPACK encoder.
func (e *encoder) Write(p []byte) (int, error) {
	e.block = append(e.block, p...)
	return len(p), nil
}

// field encodes one field. name is in lower case.
func (e *encoder) field(name, value string) {
	f := hpack.HeaderField{Name: name, Value: value, Sensitive: true}
	if !isSecret(name) {
		if e.recur == nil {
			e.recur = make([]recurring, recurringFields)
		}
		hash := maphash.String(seed, value) ^ maphash.String(seed, name)*31
		known := &e.recur[hash%recurringFields]
		if known.name == name && known.value == value {
			f = hpack.HeaderField{Name: known.name, Value: known.value}
		} else if known.last == hash && len(name)+len(value) < hpackTable/8 {
			known.name, known.value = strings.Clone(name), strings.Clone(value)
			f = hpack.HeaderField{Name: known.name, Value: known.value}
		}
		known.last = hash
	}
	_ = e.hpack.WriteField(f) // Write does not fail
}

// isSecret reports whether a field is to be kept out of tables: what else they hold, and how well it is compressed,
// tells about it (RFC 7541 §7.1).
func isSecret(name string) bool {
	switch name {
	case "authorization", "cookie", "set-cookie", "proxy-authorization":
		return true
	}
	return false
}

// fields encodes those that are end to end.
func (e *encoder) fields(fields exchange.Fields) {
	for i := range fields {
		name := lower(fields[i].Name)
		if m := meaningOf(name); m == endToEnd || m == cookieField {
			e.field(name, grammar.Trim(fields[i].Value))
		}
	}
}

func (e *encoder) length(n int64) {
	b := strconv.AppendInt(e.digits[:0], n, 10)
	e.field("content-length", unsafe.String(&b[0], len(b))) // cloned where it is kept
}

var statusTexts = func() (t [600]string) {
	for i := range t {
		t[i] = strconv.Itoa(i)
	}
	return t
}()

// sizeOf is the most that fields take as a block, in bytes.
func sizeOf(fields exchange.Fields) int {
	size := 0
	for i := range fields {
		size += len(fields[i].Name) + len(fields[i].Value) + fieldOverhead
	}
	return size
}

// fieldOverhead is for two lengths and an index.
const fieldOverhead = 12

// put puts the block, which was encoded since begin, into the outbox, as HEADERS and as many CONTINUATION frames as it
// takes (RFC 9113 §6.10).
func (e *encoder) put(o *outbox, id uint32, largest int, end bool) {
	var flags http2.Flags
	if end {
		flags = http2.FlagHeadersEndStream
	}
	t := http2.FrameHeaders
	for rest := e.block; ; {
		n := min(len(rest), largest)
		if n == len(rest) {
			flags |= http2.FlagHeadersEndHeaders
		}
		o.frame(n, t, flags, id)
		_, _ = o.Write(rest[:n])
		if rest = rest[n:]; len(rest) == 0 {
			break
		}
		t, flags = http2.FrameContinuation, 0
	}
	outboxBuffers.Put((*[outboxSize]byte)(e.block[:outboxSize]))
	e.block = nil
}

// begin begins a block.
func (e *encoder) begin() { e.block = outboxBuffers.Get().(*[outboxSize]byte)[:0] }

// lower returns a field's name in lower case. The usual ones cost nothing.
func lower(name string) string {
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' {
			if known, ok := lowerNames[name]; ok {
				return known
			}
			return strings.ToLower(name)
		}
	}
	return name
}

var lowerNames = func() map[string]string {
	names := map[string]string{}
	for _, name := range strings.Fields(`Accept Accept-Charset Accept-Encoding Accept-Language Accept-Ranges
		Access-Control-Allow-Credentials Access-Control-Allow-Headers Access-Control-Allow-Methods Access-Control-Allow-Origin
		Access-Control-Expose-Headers Access-Control-Max-Age Access-Control-Request-Headers Access-Control-Request-Method Age
		Allow Alt-Svc Authorization Cache-Control Content-Disposition Content-Encoding Content-Language Content-Location
		Content-Range Content-Security-Policy Content-Type Cookie Date Dnt Etag ETag Expires Forwarded From Grpc-Message
		Grpc-Status Grpc-Timeout If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Last-Modified Link
		Location Max-Forwards Origin Pragma Proxy-Authenticate Proxy-Authorization Range Referer Referrer-Policy Retry-After
		Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Server Server-Timing Set-Cookie Strict-Transport-Security Traceparent
		Tracestate Trailer Upgrade-Insecure-Requests User-Agent Vary Via Warning Www-Authenticate WWW-Authenticate
		X-Content-Type-Options X-Forwarded-For X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto X-Frame-Options
		X-Powered-By X-Real-Ip X-Request-Id X-Request-ID X-User-Id`) {
		names[name] = strings.ToLower(name)
	}
	return names
}()

func checkFields(fields exchange.Fields) error {
	if why := grammar.WrongField(fields); why != "" {
		return malformed(why)
	}
	return nil
}
