package http1

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func TestResponseRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		method string // "UPGRADE": a GET that asks for websocket
		wire   string
		err    error // nil: accepted
	}{
		{"RFC 9112 §4 a response", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", nil},
		{"RFC 9112 §4 no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx", nil},
		{"RFC 9112 §4 no reason nor space", "GET", "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", nil},
		{"RFC 9112 §4 version 1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", nil},
		{"RFC 9112 §2.3 version 1.2", "GET", "HTTP/1.2 200 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §2.3 version 2", "GET", "HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 another protocol", "GET", "ICY 200 OK\r\n\r\n", ErrMalformed},
		{"RFC 9112 §4 empty line before", "GET", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 two spaces", "GET", "HTTP/1.1  200 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 two digits", "GET", "HTTP/1.1 20 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 four digits", "GET", "HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 a sign", "GET", "HTTP/1.1 +20 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9110 §15 status 099", "GET", "HTTP/1.1 099 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9110 §15 status 600", "GET", "HTTP/1.1 600 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §4 NUL in the reason", "GET", "HTTP/1.1 200 O\x00K\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §2.2 bare CR in the reason", "GET", "HTTP/1.1 200 O\rK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §2.2 bare LF", "GET", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", ErrMalformed},
		{"RFC 9112 §5.1 space before the colon", "GET", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §5.2 folded line", "GET", "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.1 both framings", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 both framings, to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 chunked in 1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9112 §6.1 another coding", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 a list of lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1,1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.3 a body that ends early", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx", io.ErrUnexpectedEOF},
		{"RFC 9112 §6.3 chunks that end early", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx", io.ErrUnexpectedEOF},
		{"RFC 9112 §8 a head that ends early", "GET", "HTTP/1.1 200 OK\r\nContent-Le", io.ErrUnexpectedEOF},
		{"RFC 9112 §9 no response", "GET", "", io.EOF},
		{"RFC 9112 §6.3 204 with an empty body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", nil},
		{"RFC 9110 §8.6 204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9112 §6.1 204 with chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrMalformed},
		{"RFC 9110 §8.6 103 with a length", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", ErrMalformed},
		{"RFC 9110 §15.2 an informational response alone", "GET", "HTTP/1.1 103 Early Hints\r\n\r\n", io.EOF},
		{"RFC 9110 §15.2.2 101 that was asked for", "UPGRADE", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", nil},
		{"RFC 9110 §15.2.2 101 that was not", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", ErrMalformed},
		{"RFC 9110 §7.8 101 without Connection", "UPGRADE", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", ErrMalformed},
		{"RFC 9110 §7.8 101 to nothing", "UPGRADE", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n", ErrMalformed},
		{"RFC 9110 §7.8 101 to another protocol", "UPGRADE", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h3\r\n\r\n", ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{0, 1, 7} {
				c, _, _, err := readResponse(tt.method, tt.wire, step)
				if !errors.Is(err, tt.err) {
					t.Errorf("reads of %d bytes: got %v, want %v", step, err, tt.err)
				}
				if tt.err != nil && c.Reusable() {
					t.Errorf("reads of %d bytes: reusable after %v", step, err)
				}
			}
		})
	}
}

func TestResponseIsReadAs(t *testing.T) {
	const unknown = exchange.LengthUnknown
	for _, tt := range []struct {
		name     string
		method   string
		wire     string
		want     exchange.Response
		body     string
		reusable bool
	}{
		{"RFC 9112 §6.3 a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", true},
		{"RFC 9112 §6.3 chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
			exchange.Response{Status: 200, BodyLength: unknown}, "hi", true},
		{"RFC 9112 §6.3 until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: unknown}, "hi", false},
		{"RFC 9112 §6.3 to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
			exchange.Response{Status: 200, BodyLength: 2}, "", true},
		{"RFC 9112 §6.3 to HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			exchange.Response{Status: 200, BodyLength: unknown}, "", true},
		{"RFC 9112 §6.3 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
			exchange.Response{Status: 304, BodyLength: 2}, "", true},
		{"RFC 9112 §6.3 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n",
			exchange.Response{Status: 204}, "", true},
		{"RFC 9112 §6.3 2xx to CONNECT", "CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200}, "", false},
		{"RFC 9110 §9.3.6 CONNECT refused", "CONNECT", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
			exchange.Response{Status: 403, BodyLength: 2}, "no", true},
		{"RFC 9110 §15.2 behind informational ones", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", true},
		{"RFC 9112 §9.6 close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", false},
		{"RFC 9112 §9.3 version 1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", false},
		{"RFC 9112 §9.3 version 1.0 with keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", true},
		{"RFC 9110 §7.6.1 hop-by-hop fields", "GET", "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nStay: 2\r\nContent-Length: 0\r\n\r\n",
			exchange.Response{Status: 200, Fields: exchange.Fields{{Name: "Stay", Value: "2"}}}, "", true},
		{"RFC 9110 §15.5.22 upgrade required", "GET", "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
			exchange.Response{Status: 426, Upgrade: "websocket"}, "", true},
		{"RFC 9110 §15.2.2 101", "UPGRADE", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nhi",
			exchange.Response{Status: 101, Upgrade: "WebSocket"}, "", false},
		{"RFC 9112 §9.2 bytes that no request asked for", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
			exchange.Response{Status: 200, BodyLength: 2}, "hi", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{0, 1, 5} {
				c, r, body, err := readResponse(tt.method, tt.wire, step)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, r, cmpopts.EquateEmpty()); diff != "" || body != tt.body {
					t.Errorf("reads of %d bytes: body %q, head (-want +got):\n%s", step, body, diff)
				}
				// Bytes that are still in the kernel are seen by Alive, and by the reader if they came along.
				if step == 0 && c.Reusable() != tt.reusable {
					t.Errorf("reusable: %v, want %v", c.Reusable(), tt.reusable)
				}
				if r.Status == 101 {
					_, early := c.Hijack()
					if step == 0 && string(early) != "hi" {
						t.Errorf("bytes behind the 101: %q", early)
					}
				}
			}
		})
	}
}
