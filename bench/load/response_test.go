package load

import (
	"bufio"
	"strings"
	"testing"
)

func TestReadResponse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		status   int
		body     int64
		bad      bool
	}{
		{"with a length", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", 200, 3, false},
		{"in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", 200, 4, false},
		{"an error", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, 0, false},
		{"cut off", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na", 200, 3, true},
		{"no HTTP", "hello world, this is no response\r\n", 0, 0, true},
		{"a negative length", "HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\n", 200, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tt.in))
			status, body, err := readResponse(r)
			if (err != nil) != tt.bad || !tt.bad && (status != tt.status || body != tt.body) {
				t.Errorf("%d, %d bytes, %v", status, body, err)
			}
			if !tt.bad && r.Buffered() != 0 {
				t.Errorf("%d bytes of the response were left", r.Buffered())
			}
		})
	}
}
