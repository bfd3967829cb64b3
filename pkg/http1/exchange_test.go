package http1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A queue is one end of a connection within one goroutine: what one end writes, the other reads, in pieces whose
// sizes split says.
type queue struct {
	script
	from, to *[]byte
	split    func() int
}

func (q *queue) Read(p []byte) (int, error) {
	if len(*q.from) == 0 {
		return 0, errors.New("would wait for ever")
	}
	n := copy(p[:min(len(p), q.split())], *q.from)
	*q.from = (*q.from)[n:]
	return n, nil
}

func (q *queue) Write(p []byte) (int, error) {
	*q.to = append(*q.to, p...)
	return len(p), nil
}

func queues(split func() int) (client, server net.Conn) {
	var forth, back []byte
	return &queue{from: &back, to: &forth, split: split}, &queue{from: &forth, to: &back, split: split}
}

var (
	token     = rapid.StringMatching(`[A-Za-z0-9!#$%&'*+.^_|~-]{1,20}`)
	value     = rapid.StringMatching(`([!-~\x{80}-\x{ff}]([ \t!-~]{0,60}[!-~])?)?`)
	authority = rapid.StringMatching(`([a-z][a-z0-9_.-]{0,20}|\[(::1|2001:db8::[0-9a-f]{1,4})\])(:[1-9][0-9]{0,3})?`)
	path      = rapid.StringMatching(`/([A-Za-z0-9._~:@!$&'()*+,;=/|{}-]|%[0-9A-Fa-f]{2}){0,60}(\?[ -~]{0,60})?`)
)

func drawFields(t *rapid.T, label string, trailers bool) (fields exchange.Fields) {
	for range rapid.IntRange(0, 12).Draw(t, label) {
		name := token.Draw(t, "name")
		if meaningOf(name) != endToEnd || trailers && !isTrailer(name) {
			continue
		}
		fields = append(fields, exchange.Field{Name: name, Value: value.Draw(t, "value")})
	}
	return fields
}

// A message is what goes over the connection apart from its head.
type message struct {
	body     []byte
	chunked  bool
	trailers exchange.Fields
	pieces   int
}

func drawMessage(t *rapid.T, label string) (m message) {
	size := rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 300), rapid.IntRange(1, 40_000)).Draw(t, label+" bytes")
	m.body = bytes.Repeat([]byte("0\r\n\r\nHTTP/1.1 200 OK\r\n"), size/22+1)[:size]
	m.pieces = rapid.IntRange(1, 5).Draw(t, "pieces")
	if m.chunked = rapid.Bool().Draw(t, "chunked"); m.chunked {
		m.trailers = drawFields(t, "trailers", true)
	}
	return m
}

func (m message) length() int64 {
	if m.chunked {
		return exchange.LengthUnknown
	}
	return int64(len(m.body))
}

type writer interface {
	io.Writer
	WriteTrailers(exchange.Fields) error
	Flush() error
}

func (m message) write(t *rapid.T, w writer) {
	for rest := range slices.Chunk(m.body, len(m.body)/m.pieces+1) {
		if _, err := w.Write(rest); err != nil {
			t.Fatal(err)
		}
		if m.pieces%2 == 0 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.WriteTrailers(m.trailers); err != nil {
		t.Fatal(err)
	}
}

func (m message) check(t *rapid.T, b exchange.Body, readSize int) {
	var got bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{b}, make([]byte, readSize)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), m.body) {
		t.Fatalf("body of %d bytes, want %d", got.Len(), len(m.body))
	}
	if diff := cmp.Diff(m.trailers, b.Trailers(), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("trailers (-want +got):\n%s", diff)
	}
}

// TestWhatOneRoleWritesTheOtherReads sends random exchanges over one kept connection, split at random.
func TestWhatOneRoleWritesTheOtherReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		split := func() int { return rapid.SampledFrom([]int{1, 2, 3, 100, 5_000, 100_000}).Draw(t, "split") }
		near, far := queues(split)
		client, server := NewClientConn(near, Limits{}), NewServerConn(far, Limits{})
		for range rapid.IntRange(1, 4).Draw(t, "exchanges") {
			sent := exchange.Request{
				Method:    rapid.SampledFrom([]string{"GET", "HEAD", "POST", "OPTIONS", "PATCH", "purge"}).Draw(t, "method"),
				Scheme:    "http",
				Authority: authority.Draw(t, "authority"),
				Path:      strings.NewReplacer("#", "", " ", "").Replace(path.Draw(t, "path")),
				Fields:    drawFields(t, "fields", false),
			}
			m := drawMessage(t, "request")
			sent.BodyLength = m.length()
			sent.ExpectContinue = sent.BodyLength != 0 && rapid.Bool().Draw(t, "expect")
			if err := client.WriteRequest(&sent); err != nil {
				t.Fatal(err)
			}
			m.write(t, client)
			var got exchange.Request
			if err := server.ReadRequest(&got); err != nil {
				t.Fatal(err)
			}
			readSize := rapid.SampledFrom([]int{1, 100, 2_000, 50_000}).Draw(t, "read")
			m.check(t, server.Body(), readSize)
			if diff := cmp.Diff(sent, got, cmpopts.EquateEmpty()); diff != "" { // after the body: it must not disturb the head
				t.Fatalf("request (-sent +got):\n%s", diff)
			}

			if sent.ExpectContinue {
				if err := server.WriteInformational(&exchange.Response{Status: 100}); err != nil {
					t.Fatal(err)
				}
			}
			reply := exchange.Response{
				Status: rapid.SampledFrom([]int{200, 201, 204, 304, 404, 503}).Draw(t, "status"),
				Fields: drawFields(t, "fields", false),
			}
			m = drawMessage(t, "response")
			reply.BodyLength = m.length()
			if exchange.BodyForbidden(sent.Method, reply.Status) {
				m.body, m.trailers = nil, nil
			}
			if reply.Status == 204 {
				reply.BodyLength = 0
			}
			if err := server.WriteResponse(&reply); err != nil {
				t.Fatal(err)
			}
			m.write(t, server)
			var back exchange.Response
			for back.Informational() {
				if err := client.ReadResponse(&back); err != nil {
					t.Fatal(err)
				}
			}
			m.check(t, client.Body(), readSize)
			if diff := cmp.Diff(reply, back, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("response (-sent +got):\n%s", diff)
			}
			if !server.KeepAlive() || !client.Reusable() {
				t.Fatalf("server goes on: %v, client goes on: %v", server.KeepAlive(), client.Reusable())
			}
			client.Release()
		}
	})
}

// TestPipelinedRequests reads requests that arrived in one piece, each in its turn (RFC 9112 §9.3.2).
func TestPipelinedRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var messages []message
		for range rapid.IntRange(2, 5).Draw(t, "requests") {
			m := drawMessage(t, "request")
			peer := &script{}
			c := NewClientConn(peer, Limits{})
			if err := c.WriteRequest(&exchange.Request{Method: "POST", Authority: "a", Path: "/", BodyLength: m.length()}); err != nil {
				t.Fatal(err)
			}
			m.write(t, c)
			wire, messages = append(wire, peer.out...), append(messages, m)
		}
		peer := &script{in: string(wire), step: rapid.SampledFrom([]int{0, 1, 100, 9_000}).Draw(t, "split")}
		server := NewServerConn(peer, Limits{})
		var r exchange.Request
		for _, m := range messages {
			if err := server.ReadRequest(&r); err != nil {
				t.Fatal(err)
			}
			m.check(t, server.Body(), 3_000)
			if err := errors.Join(server.WriteResponse(&exchange.Response{Status: 204}), server.Finish()); err != nil {
				t.Fatal(err)
			}
		}
		if err := server.ReadRequest(&r); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last: %v", err)
		}
		if n := strings.Count(string(peer.out), "HTTP/1.1 204"); n != len(messages) {
			t.Fatalf("%d responses to %d requests", n, len(messages))
		}
	})
}

// TestHeadOutlivesBody reads a body that is larger than any buffer and finds the head as it was: a retry needs it.
func TestHeadOutlivesBody(t *testing.T) {
	for _, size := range []int{10, 3_000, 7_000, 7_150, 8_000, 8_192, 20_000, 31_000} {
		long := strings.Repeat("x", size)
		wire := "POST /" + long + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("1000\r\n"+strings.Repeat("y", 4096)+"\r\n", 50) + "0\r\nSum: " + strings.Repeat("z", 5_000) + "\r\n\r\n"
		for _, step := range []int{0, 999} {
			r, body, trailers, err := readRequest(wire, step)
			if err != nil {
				t.Fatalf("head of %d bytes: %v", size, err)
			}
			if r.Path != "/"+long || len(body) != 50*4096 || len(trailers) != 1 || len(trailers[0].Value) != 5_000 {
				t.Errorf("head of %d bytes: path of %d, body of %d, trailers %d", size, len(r.Path), len(body), len(trailers))
			}
		}
	}
}
