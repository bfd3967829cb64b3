package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var update = flag.Bool("update", false, "write testdata/frames.golden anew")

// goldenFrames are the frames that testdata/frames.golden holds to the byte.
var goldenFrames = []struct {
	name  string
	frame frameType
	value any
}{
	{"request", frameHead, &smallRequest},
	{"request with all there is", frameHead, &exchange.Request{
		Target: exchange.Target{Port: 65535, Instance: "i"}, Method: "PROPFIND", Scheme: "https", Authority: "a:1", Path: "/",
		Fields: exchange.Fields{{Name: "accept", Value: "*/*"}, {Name: "X-Own", Value: "v"}, {Name: "etag", Value: ""}}, BodyLength: 16384, Upgrade: "websocket", ExpectContinue: true,
	}},
	{"request without length", frameHead, &exchange.Request{Method: "POST", Scheme: "http", Path: "*", BodyLength: exchange.LengthUnknown}},
	{"tcp", frameHead, &exchange.Request{Kind: exchange.TCP, Target: exchange.Target{Port: 5432, Instance: "db-1"}}},
	{"udp", frameHead, &exchange.Request{Kind: exchange.UDP, Target: exchange.Target{Port: 53, UDP: true, Instance: "dns-1"}}},
	{"request by another Service", frameHead, &exchange.Request{
		Target: exchange.Target{Port: 8443, Instance: "i", Called: "shop/all:443"}, Method: "GET", Scheme: "http", Authority: "a", Path: "/",
	}},
	{"tcp by another Service", frameHead, &exchange.Request{Kind: exchange.TCP, Target: exchange.Target{Port: 8443, Instance: "i", Called: "shop/all:443"}}},
	{"response", frameHead, &smallResponse},
	{"switching", frameHead, &exchange.Response{Status: 101, Upgrade: "websocket"}},
	{"early hints", frameInformational, &exchange.Response{Status: 103, BodyLength: exchange.LengthUnknown, Fields: exchange.Fields{{Name: "Link", Value: "</a>"}}}},
	{"trailers", frameTrailers, exchange.Fields{{Name: "grpc-status", Value: "0"}, {Name: "Grpc-Message", Value: "ok"}}},
	{"data", frameData, []byte("hello")},
	{"end", frameEnd, nil},
	{"reset", frameReset, codeOf(exchange.Timeout)},
}

func encodeGolden(t *testing.T, frame frameType, value any) []byte {
	t.Helper()
	var payload []byte
	var err error
	switch v := value.(type) {
	case *exchange.Request:
		payload, err = appendRequest(nil, v)
	case *exchange.Response:
		payload = appendResponse(nil, v)
	case exchange.Fields:
		payload = appendFields(nil, v)
	case []byte:
		payload = v
	case nil:
	default:
		return appendReset(nil, codeOf(exchange.Timeout))
	}
	if err != nil {
		t.Fatal(err)
	}
	return append(appendFrameHeader(nil, frame, len(payload)), payload...)
}

func TestGolden(t *testing.T) {
	var got bytes.Buffer
	for _, g := range goldenFrames {
		b := encodeGolden(t, g.frame, g.value)
		fmt.Fprintf(&got, "%s\n\t%s\n", g.name, hex.EncodeToString(b))
		typ, length, n, err := parseFrameHeader(b, maxHead)
		if err != nil || typ != g.frame || n+length != len(b) {
			t.Fatalf("%s: header %d, %d, %d, %v", g.name, typ, length, n, err)
		}
		var back any
		switch g.value.(type) {
		case *exchange.Request:
			r := new(exchange.Request)
			err, back = parseRequest(b[n:], r, 256), r
		case *exchange.Response:
			r := new(exchange.Response)
			err, back = parseResponse(b[n:], r, 256), r
		case exchange.Fields:
			var f exchange.Fields
			f, err = parseTrailers(b[n:], nil, 256)
			back = f
		default:
			continue
		}
		if diff := cmp.Diff(g.value, back); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", g.name, err, diff)
		}
	}
	const file = "testdata/frames.golden"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("the format changed: peers of other versions would not understand it\n%s", diff)
	}
}

func TestMalformedHeads(t *testing.T) {
	long := strings.Repeat("a", 300)
	for _, tt := range []struct {
		name    string
		payload string
		want    error
	}{
		{"empty", "", ErrMalformed},
		{"unknown form", "\x07\x00\x00\x50\x00\x00\x00\x01/\x00", ErrMalformed},
		{"unknown flag", "\x00\x80\x00\x50\x00\x00\x00\x01/\x00", ErrMalformed},
		{"unknown method", "\x00\x00\x00\x50\x00\x30\x00\x01/\x00", ErrMalformed},
		{"empty method", "\x00\x00\x00\x50\x00\xff\x00\x00\x01/\x00", ErrMalformed},
		{"space in the path", "\x00\x00\x00\x50\x00\x00\x00\x02/ \x00", ErrMalformed},
		{"line end in the authority", "\x00\x00\x00\x50\x00\x00\x01\n\x01/\x00", ErrMalformed},
		{"string longer than the head", "\x00\x00\x00\x50\x00\x00\x00\x3f/\x00", ErrMalformed},
		{"integer not in its shortest form", "\x00\x00\x00\x50\x00\x00\x00\x40\x01/\x00", ErrMalformed},
		{"line end in a value", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x01\x03a\r\n", ErrMalformed},
		{"colon in a name", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x00\x02a:\x00", ErrMalformed},
		{"empty name", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x00\x00\x00", ErrMalformed},
		{"content-length as a field", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x00\x0eContent-Length\x011", ErrMalformed},
		{"transfer-encoding as a field", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x00\x11transfer-encoding\x011", ErrMalformed},
		{"index behind the names", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x3f\x00", ErrMalformed},
		{"index behind the table", "\x00\x00\x00\x50\x00\x00\x00\x01/\x01\x7f\xff", ErrMalformed},
		{"fewer fields than stated", "\x00\x00\x00\x50\x00\x00\x00\x01/\x02\x01\x00", ErrMalformed},
		{"bytes behind the end", "\x00\x00\x00\x50\x00\x00\x00\x01/\x00\x00", ErrMalformed},
		{"too many fields", "\x00\x00\x00\x50\x00\x00\x00\x01/\x41\x01" + long, ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r exchange.Request
			if err := parseRequest([]byte(tt.payload), &r, 256); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestMalformedFrameHeaders(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    string
		want error // nil: more is needed
	}{
		{"type 0", "\x00\x00", ErrMalformed},
		{"type that must be known", "\x07\x00", ErrMalformed},
		{"type that may be skipped, too long", "\x20\x80\x01\x00\x01", ErrMalformed},
		{"head over the limit", "\x01\x80\x01\x00\x01", ErrTooLarge},
		{"data over the limit", "\x03\x80\x01\x00\x01", ErrMalformed},
		{"empty data", "\x03\x00", ErrMalformed},
		{"end with a payload", "\x05\x01", ErrMalformed},
		{"empty reset", "\x06\x00", ErrMalformed},
		{"length of 8 bytes", "\x03\xc0", ErrMalformed},
		{"length not in its shortest form", "\x03\x40\x01", ErrMalformed},
		{"half a length", "\x03\x40", nil},
		{"type alone", "\x03", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, n, err := parseFrameHeader([]byte(tt.b), maxHead); n != 0 || !errors.Is(err, tt.want) {
				t.Errorf("%d, %v; want %v", n, err, tt.want)
			}
		})
	}
}

func TestCodecAllocatesNothing(t *testing.T) {
	b := make([]byte, 0, smallBuffer)
	var req exchange.Request
	var resp exchange.Response
	round := func() {
		payload, err := appendRequest(b, &smallRequest)
		if err != nil || parseRequest(payload, &req, 256) != nil {
			t.Fatal("request")
		}
		if parseResponse(appendResponse(b, &smallResponse), &resp, 256) != nil {
			t.Fatal("response")
		}
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations for a request and a response", n)
	}
}

func BenchmarkCodec(b *testing.B) {
	buf := make([]byte, 0, smallBuffer)
	var req exchange.Request
	b.ReportAllocs()
	for b.Loop() {
		payload, _ := appendRequest(buf, &smallRequest)
		if err := parseRequest(payload, &req, 256); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzFrames reads anything as frames and heads: it never panics, and what is accepted encodes to the same
// meaning again.
func FuzzFrames(f *testing.F) {
	for _, g := range goldenFrames {
		if r, ok := g.value.(*exchange.Request); ok {
			payload, _ := appendRequest(nil, r)
			f.Add(append(appendFrameHeader(nil, frameHead, len(payload)), payload...))
		}
		if r, ok := g.value.(*exchange.Response); ok {
			payload := appendResponse(nil, r)
			f.Add(append(appendFrameHeader(nil, frameHead, len(payload)), payload...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, length, n, err := parseFrameHeader(b, maxHead)
		if err != nil || n == 0 || n+length > len(b) {
			return
		}
		payload := b[n : n+length]
		var req, req2 exchange.Request
		if parseRequest(payload, &req, 256) == nil {
			again, err := appendRequest(nil, &req)
			if err != nil {
				t.Fatal(err)
			}
			if err := parseRequest(again, &req2, 256); err != nil || !cmp.Equal(req, req2) {
				t.Fatalf("%+v became %+v, %v", req, req2, err)
			}
		}
		var resp, resp2 exchange.Response
		if parseResponse(payload, &resp, 256) == nil {
			if err := parseResponse(appendResponse(nil, &resp), &resp2, 256); err != nil || !cmp.Equal(resp, resp2) {
				t.Fatalf("%+v became %+v, %v", resp, resp2, err)
			}
		}
	})
}
