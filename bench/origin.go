package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
)

// originResponse is what the origin answers to everything: a small body, as an API would.
var originResponse = func() []byte {
	body := bytes.Repeat([]byte("0123456789abcdef"), 16)
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
}()

// serveOrigin answers HTTP/1.1 GET requests on l as cheaply as Go can, so that what is measured is the proxies.
// It reads heads up to their empty line and looks at nothing else.
func serveOrigin(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReaderSize(conn, 4096)
	for {
		for {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) <= 2 {
				break
			}
		}
		if _, err := conn.Write(originResponse); err != nil {
			return
		}
	}
}
