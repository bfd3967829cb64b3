package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A reading is what some reader makes of one message: its head, its body, and where it ends.
type reading struct {
	start    string // method, authority and target, or status
	body     string
	fields   http.Header
	trailers http.Header
	rest     string
}

// agrees reports a difference between our reading and net/http's, "" where there is none. net/http keeps a few
// fields that we do not and takes Trailer apart; of the fields that we handed on none may differ.
func (ours reading) agrees(other reading) string {
	switch {
	case ours.start != other.start:
		return "start line: " + ours.start + " / " + other.start
	case ours.body != other.body:
		return "body: " + ours.body + " / " + other.body
	case ours.rest != other.rest:
		return "rest: " + ours.rest + " / " + other.rest
	}
	for name, values := range ours.fields {
		if name != "Trailer" && !slices.Equal(values, other.fields[name]) {
			return "field " + name
		}
	}
	for name, values := range ours.trailers {
		if !slices.Equal(values, other.trailers[name]) {
			return "trailer " + name
		}
	}
	return ""
}

func asHeader(fields exchange.Fields) http.Header {
	h := make(http.Header)
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	return h
}

func readByNetHTTP(rd *bufio.Reader, start string, h http.Header, trailer *http.Header, b io.Reader) (reading, error) {
	body, err := io.ReadAll(b)
	rest, _ := io.ReadAll(rd)
	return reading{start: start, body: string(body), fields: h, trailers: *trailer, rest: string(rest)}, err
}

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /a?b=c HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"\r\nPOST / HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nSum: 5\r\n\r\nrest",
		"PUT http://a/b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n\x16\x03",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\nX: 1\r\n\r\n",
		"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\nHost: a\nA: b\n c\n\n",
	} {
		f.Add(seed, byte(0))
		f.Add(seed, byte(1))
	}
	f.Fuzz(func(t *testing.T, wire string, step byte) {
		peer := &script{in: wire, step: int(step)}
		c := NewServerConn(peer, Limits{})
		var r exchange.Request
		if err := c.ReadRequest(&r); err != nil {
			mustBeKnown(t, err)
			return
		}
		body, err := io.ReadAll(c.Body())
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		target := r.Path
		if r.Method == "CONNECT" {
			target = r.Authority
		}
		ours := reading{
			start: r.Method + " " + r.Authority + " " + target, body: string(body),
			fields: asHeader(r.Fields), trailers: asHeader(c.Body().Trailers()),
			rest: string(c.in.unread()) + peer.in,
		}

		again := &script{}
		out := NewClientConn(again, Limits{})
		err = out.WriteRequest(&r)
		if err == nil && len(body) > 0 {
			_, err = out.Write(body)
		}
		if err = errors.Join(err, out.WriteTrailers(c.Body().Trailers())); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		theirs, err := requestByNetHTTP(string(again.out) + ours.rest)
		if err != nil && announcesTrailers(r.Fields) {
			return // names a field that net/http does not want there
		}
		if err != nil {
			t.Fatalf("net/http refuses what was written: %v\n%q", err, again.out)
		}
		if diff := ours.agrees(theirs); diff != "" {
			t.Fatalf("what was written is read differently: %s\n%q", diff, again.out)
		}

		// What both accept in the first place must be the same to both.
		if theirs, err = requestByNetHTTP(strings.TrimPrefix(wire, "\r\n")); err != nil {
			return
		}
		if _, rest, absolute := strings.Cut(theirs.start, "://"); absolute && !strings.Contains(r.Path, "://") {
			theirs.start, ours.start = "", "" // net/http gives the target as it was sent
			if !strings.Contains(rest, r.Authority) {
				t.Fatalf("read for %q, sent to %q", r.Authority, rest)
			}
		}
		if diff := ours.agrees(theirs); diff != "" {
			t.Fatalf("net/http reads it differently: %s", diff)
		}
	})
}

func requestByNetHTTP(wire string) (reading, error) {
	rd := bufio.NewReader(strings.NewReader(wire))
	r, err := http.ReadRequest(rd)
	if err != nil {
		return reading{}, err
	}
	return readByNetHTTP(rd, r.Method+" "+r.Host+" "+r.RequestURI, r.Header, &r.Trailer, r.Body)
}

func FuzzResponse(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n5\r\nhello\r\n0\r\nSum: 5\r\n\r\n",
		"HTTP/1.1 200\r\n\r\nuntil the end",
		"HTTP/1.0 404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nConnection: x\r\nX: 1\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\nA: b\n c\n\n",
	} {
		f.Add(seed, byte(0), false)
		f.Add(seed, byte(1), true)
	}
	f.Fuzz(func(t *testing.T, wire string, step byte, head bool) {
		method := map[bool]string{true: "HEAD", false: "GET"}[head]
		peer := &script{in: wire, step: int(step)}
		c := NewClientConn(peer, Limits{})
		if c.WriteRequest(&exchange.Request{Method: method, Authority: "a", Path: "/"}) != nil || c.Finish() != nil {
			t.Fatal("could not write the request")
		}
		var r exchange.Response
		informational := -1
		for r.Status = 100; r.Informational(); informational++ {
			if err := c.ReadResponse(&r); err != nil {
				mustBeKnown(t, err)
				return
			}
		}
		body, err := io.ReadAll(c.Body())
		if err != nil {
			mustBeKnown(t, err)
			return
		}
		ours := reading{
			start: http.StatusText(r.Status), body: string(body), fields: asHeader(r.Fields), trailers: asHeader(c.Body().Trailers()),
			rest: string(c.in.unread()) + peer.in,
		}
		if c.Reusable() && c.in.buffered() > 0 {
			t.Fatal("reusable with bytes left")
		}

		again := &script{in: method + " / HTTP/1.1\r\nHost: a\r\n\r\n"}
		out := NewServerConn(again, Limits{})
		err = errors.Join(out.ReadRequest(new(exchange.Request)), out.WriteResponse(&r))
		if err == nil && len(body) > 0 {
			_, err = out.Write(body)
		}
		if err = errors.Join(err, out.WriteTrailers(c.Body().Trailers())); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		theirs, err := responseByNetHTTP(method, string(again.out)+ours.rest)
		if err != nil && announcesTrailers(r.Fields) {
			return // names a field that net/http does not want there
		}
		if err != nil {
			t.Fatalf("net/http refuses what was written: %v\n%q", err, again.out)
		}
		if diff := ours.agrees(theirs); diff != "" {
			t.Fatalf("what was written is read differently: %s\n%q", diff, again.out)
		}

		if informational > 0 {
			return
		}
		if theirs, err = responseByNetHTTP(method, wire); err != nil {
			return
		}
		if diff := ours.agrees(theirs); diff != "" {
			t.Fatalf("net/http reads it differently: %s", diff)
		}
	})
}

func responseByNetHTTP(method, wire string) (reading, error) {
	rd := bufio.NewReader(strings.NewReader(wire))
	r, err := http.ReadResponse(rd, &http.Request{Method: method})
	if err != nil {
		return reading{}, err
	}
	return readByNetHTTP(rd, http.StatusText(r.StatusCode), r.Header, &r.Trailer, r.Body)
}

// mustBeKnown fails where an error is none of those that a caller can decide on.
func mustBeKnown(t *testing.T, err error) {
	t.Helper()
	for _, known := range []error{ErrMalformed, ErrTooLarge, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return
		}
	}
	t.Fatalf("an error of no kind: %v", err)
}

func announcesTrailers(fields exchange.Fields) bool {
	_, ok := fields.Get("Trailer")
	return ok
}
