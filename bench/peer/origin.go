package peer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/bench/load"
)

// originResponse is what the origin answers to everything small: a body as an API would have.
var originResponse = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s", len(originBody), originBody)

var originBody = bytes.Repeat([]byte("0123456789abcdef"), 16)

// bulkChunk is what the origin writes at a time of a large body.
var bulkChunk = bytes.Repeat([]byte("0123456789abcdef"), 16<<10)

// ServeOrigin is what stands behind every system, as cheap as Go can make it, so that what is measured is the
// proxies. web answers HTTP/1.1 GETs: it reads heads up to their empty line and looks at nothing but a path of
// /bytes/N, which it answers with N bytes. raw speaks what load.EchoMode and load.BodyMode say. multiplexed answers
// GETs and unary calls of gRPC over HTTP/2.
func ServeOrigin(ctx context.Context, web, raw, multiplexed net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return accept(ctx, web, answer) })
	group.Go(func() error { return accept(ctx, raw, answerRaw) })
	group.Go(func() error { return accept(ctx, multiplexed, answerMultiplexed) })
	return group.Wait()
}

// accept serves each connection in a goroutine, which the process outlives only until its end.
func accept(ctx context.Context, l net.Listener, serve func(net.Conn) error) error {
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
		go func() {
			defer conn.Close()
			_ = serve(conn) // the other end says what was wrong, if anything was
		}()
	}
}

var bytesPath = []byte("GET /bytes/")

func answer(conn net.Conn) error {
	reader := bufio.NewReaderSize(conn, 4096)
	for {
		size := int64(-1)
		for first := true; ; first = false {
			line, err := reader.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= 2 {
				break
			}
			if rest, ok := bytes.CutPrefix(line, bytesPath); ok && first {
				digits, _, _ := bytes.Cut(rest, []byte(" "))
				if size, err = strconv.ParseInt(string(digits), 10, 63); err != nil {
					return err
				}
			}
		}
		if size < 0 {
			if _, err := conn.Write(originResponse); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n", size); err != nil {
			return err
		}
		if err := send(conn, size); err != nil {
			return err
		}
	}
}

func answerRaw(conn net.Conn) error {
	var mode [1]byte
	if _, err := io.ReadFull(conn, mode[:]); err != nil {
		return err
	}
	if mode[0] == load.BodyMode {
		for {
			var size [8]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				return err
			}
			if err := send(conn, int64(binary.BigEndian.Uint64(size[:]))); err != nil {
				return err
			}
		}
	}
	message := make([]byte, 4096)
	for {
		n, err := conn.Read(message)
		if err != nil {
			return err
		}
		if _, err := conn.Write(message[:n]); err != nil {
			return err
		}
	}
}

func send(conn net.Conn, size int64) error {
	for size > 0 {
		n, err := conn.Write(bulkChunk[:min(size, int64(len(bulkChunk)))])
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}
