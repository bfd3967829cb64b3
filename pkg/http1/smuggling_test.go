package http1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// TestSmuggledRequests sends what has split connections between other servers: each hides a request for /admin in what
// some reader takes for a body or a field. It must be refused, or stay in the body where every reader finds it.
func TestSmuggledRequests(t *testing.T) {
	const hidden = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
	post := func(fields ...string) string {
		return "POST / HTTP/1.1\r\nHost: a\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	}
	for _, tt := range []struct {
		name    string
		wire    string
		refused bool
	}{
		{"CL.TE", post("Content-Length: 35", "Transfer-Encoding: chunked") + "0\r\n\r\n" + hidden, true},
		{"TE.CL", post("Transfer-Encoding: chunked", "Content-Length: 4") + "1e\r\n" + hidden + "\r\n0\r\n\r\n", true},
		{"TE.TE another value first", post("Transfer-Encoding: x", "Transfer-Encoding: chunked") + "0\r\n\r\n" + hidden, true},
		{"TE.TE another value last", post("Transfer-Encoding: chunked", "Transfer-Encoding: x") + "0\r\n\r\n" + hidden, true},
		{"TE.TE xchunked", post("Transfer-Encoding: xchunked", "Content-Length: 5") + "0\r\n\r\n" + hidden, true},
		{"TE.TE space before the colon", post("Transfer-Encoding : chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE tab before the colon", post("Transfer-Encoding\t: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE folded name", post("A: b", " Transfer-Encoding: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE folded value", post("Transfer-Encoding:", " chunked") + "0\r\n\r\n" + hidden, true},
		{"TE.TE bare LF in a value", post("A: b\nTransfer-Encoding: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE bare CR in a value", post("A: b\rTransfer-Encoding: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE NUL in the name", post("Transfer-Encoding\x00: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE NUL in the value", post("Transfer-Encoding: chunked\x00", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE quoted", post(`Transfer-Encoding: "chunked"`, "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE comma before", post("Transfer-Encoding: ,chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE comma behind", post("Transfer-Encoding: chunked,", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE identity", post("Transfer-Encoding: identity", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE form feed", post("Transfer-Encoding: \x0cchunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE.TE no-break space", post("Transfer-Encoding: \xa0chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"TE named away by Connection", post("Connection: Transfer-Encoding", "Transfer-Encoding: chunked", "Content-Length: 35") + "0\r\n\r\n" + hidden, true},
		{"CL.CL", post("Content-Length: 0", "Content-Length: 30") + hidden, true},
		{"CL.CL list", post("Content-Length: 0, 30") + hidden, true},
		{"CL.0 a length on GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n" + hidden, false},
		{"CL space within", post("Content-Length: 3 0") + hidden, true},
		{"CL space before the colon", post("Content-Length : 30") + hidden, true},
		{"CL named away by Connection", post("Connection: Content-Length", "Content-Length: 30") + hidden, false},
		{"CL overflow to 0", post("Content-Length: 18446744073709551616") + hidden, true},
		{"CL superscript", post("Content-Length: \xb23") + hidden, true},
		{"chunk size overflow", post("Transfer-Encoding: chunked") + "1000000000000001e\r\n" + hidden + "\r\n0\r\n\r\n", true},
		{"chunk size as words of C", post("Transfer-Encoding: chunked") + "0x1e\r\n" + hidden + "\r\n0\r\n\r\n", true},
		{"chunk size with rubbish", post("Transfer-Encoding: chunked") + "1eg\r\n" + hidden + "\r\n0\r\n\r\n", true},
		{"chunk size negative", post("Transfer-Encoding: chunked") + "-1\r\n\r\n" + hidden, true},
		{"chunk extension ends in bare LF", post("Transfer-Encoding: chunked") + "2;\nxx\r\n1e\r\n0\r\n\r\n" + hidden, true},
		{"chunk extension with bare CR", post("Transfer-Encoding: chunked") + "2;a\rxx\r\n0\r\n\r\n" + hidden, true},
		{"chunk data ends in two other bytes", post("Transfer-Encoding: chunked") + "2\r\nxxyy0\r\n\r\n" + hidden, true},
		{"last chunk ends in bare LF", post("Transfer-Encoding: chunked") + "0\n\n" + hidden, true},
		{"last chunk without its empty line", post("Transfer-Encoding: chunked") + "0\r\n" + hidden, true},
		{"trailer becomes a field", post("Transfer-Encoding: chunked") + "0\r\nTransfer-Encoding: chunked\r\n\r\n" + hidden, true},
		{"request line with bare CR", "GET / HTTP/1.1\rGET /admin HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"request line of two requests", "GET / HTTP/1.1 GET /admin HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"request line with next line of Unicode", "GET /\xc2\x85 HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"a host that is a path", "GET / HTTP/1.1\r\nHost: a/admin?\r\n\r\n", true},
		{"two hosts", "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", true},
		{"two hosts in one", "GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", true},
		{"upgrade to HTTP/2", "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 30\r\n\r\n" + hidden, false},
		{"CONNECT with a body", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 30\r\n\r\n" + hidden, true},
		{"HTTP/0.9", "GET /admin\r\n", true},
		{"1.0 chunked", "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{0, 1, 11} {
				c := NewServerConn(&script{in: tt.wire, step: step}, Limits{})
				var r exchange.Request
				var err error
				for err == nil {
					if err = c.ReadRequest(&r); err != nil {
						break
					}
					if r.Path == "/admin" || r.Upgrade != "" {
						t.Fatalf("read the hidden request %+v", r)
					}
					if _, err = io.ReadAll(c.Body()); err == nil {
						err = errors.Join(c.WriteResponse(&exchange.Response{Status: 204}), c.Finish())
					}
				}
				if tt.refused != errors.Is(err, ErrMalformed) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("reads of %d bytes: ended with %v", step, err)
				}
				if tt.refused && c.KeepAlive() {
					t.Error("goes on")
				}
			}
		})
	}
}

// TestSmuggledResponses sends responses with a second one in them, which another caller of a pooled connection must
// never be given.
func TestSmuggledResponses(t *testing.T) {
	const forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
	for _, tt := range []struct {
		name   string
		method string
		wire   string
	}{
		{"behind a length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + forged},
		{"behind chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + forged},
		{"behind 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n" + forged},
		{"behind 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 48\r\n\r\n" + forged},
		{"a body to HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 48\r\n\r\n" + forged},
		{"a body of 103", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 48\r\n\r\n" + forged},
		{"both framings", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 53\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + forged},
		{"chunked in 1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + forged},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\n" + forged},
		{"a line end in a value", "GET", "HTTP/1.1 200 OK\r\nLocation: /\n\n" + forged},
		{"101 that nobody asked for", "GET", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + forged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 11} {
				c := NewClientConn(&script{in: tt.wire, step: step}, Limits{})
				if r, body, _ := fetch(c, tt.method); body == "forged" {
					t.Errorf("reads of %d bytes: read the forged response %+v", step, r)
				}
			}
			// A kernel's socket can be asked for bytes that were not read.
			near, far := sockets(t, 1)
			if _, err := far[0].Write([]byte(tt.wire)); err != nil {
				t.Fatal(err)
			}
			if err := far[0].(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			c := NewClientConn(near[0], Limits{})
			if _, _, err := fetch(c, tt.method); c.Alive() {
				t.Errorf("usable for another caller; error %v", err)
			}
		})
	}
}

func fetch(c *ClientConn, method string) (r exchange.Response, body string, err error) {
	if err = errors.Join(c.WriteRequest(&exchange.Request{Method: method, Authority: "a", Path: "/"}), c.Finish()); err != nil {
		return
	}
	r.Status = 100
	for r.Informational() {
		if err = c.ReadResponse(&r); err != nil {
			return
		}
	}
	b, err := io.ReadAll(c.Body())
	c.Release()
	return r, string(b), err
}
