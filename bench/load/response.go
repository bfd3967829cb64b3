package load

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
)

// readResponse reads one response with a Content-Length or chunked coding and throws its body away. body is the
// body's length in bytes.
func readResponse(r *bufio.Reader) (status int, body int64, err error) {
	chunked := false
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, 0, err
		}
		switch {
		case first:
			if len(line) < 12 {
				return 0, 0, fmt.Errorf("status line %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, 0, fmt.Errorf("status line %q: %w", line, err)
			}
		case len(line) <= 2:
			if chunked {
				body, err = discardChunks(r)
				return status, body, err
			}
			return status, body, discard(r, body)
		case len(line) > 15 && (line[0]|0x20) == 'c' && strings.EqualFold(string(line[:15]), "content-length:"):
			length, err := strconv.ParseUint(strings.TrimSpace(string(line[15:])), 10, 63)
			if err != nil {
				return 0, 0, err
			}
			body = int64(length)
		case len(line) > 18 && (line[0]|0x20) == 't' && strings.EqualFold(string(line[:18]), "transfer-encoding:"):
			chunked = true
		}
	}
}

func discardChunks(r *bufio.Reader) (body int64, err error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return body, err
		}
		size, err := strconv.ParseUint(strings.TrimSpace(string(line)), 16, 62)
		if err != nil {
			return body, err
		}
		if err := discard(r, int64(size)+2); err != nil || size == 0 {
			return body, err
		}
		body += int64(size)
	}
}

// discard reads n bytes, as many at a time as the reader holds.
func discard(r *bufio.Reader, n int64) error {
	for n > 0 {
		did, err := r.Discard(int(min(n, 1<<30)))
		if n -= int64(did); err != nil {
			return err
		}
	}
	return nil
}
