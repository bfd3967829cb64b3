package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sample is what one round of load saw.
type sample struct {
	requests int64
	errors   int64
	elapsed  time.Duration
	latency  *hdrhistogram.Histogram // microseconds
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// closedLoop keeps connections busy with one GET after the other each, for the given time: every connection
// sends its next request when the answer to the one before is there.
func closedLoop(ctx context.Context, address string, connections int, duration time.Duration) sample {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	start := time.Now()
	total := sample{latency: newHistogram()}
	var mu sync.Mutex
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			one := sample{latency: newHistogram()}
			for ctx.Err() == nil {
				if err := keepBusy(ctx, address, &one); err != nil && ctx.Err() == nil {
					one.errors++
					time.Sleep(time.Millisecond) // a refused connection must not spin
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.requests += one.requests
			total.errors += one.errors
			total.latency.Merge(one.latency)
		})
	}
	group.Wait()
	total.elapsed = time.Since(start)
	return total
}

// keepBusy runs requests over one connection until ctx ends or something fails.
func keepBusy(ctx context.Context, address string, into *sample) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now().Add(2 * time.Second)) })
	defer stop()
	request := []byte("GET /api/items?page=1 HTTP/1.1\r\nhost: origin\r\nuser-agent: bench\r\naccept: */*\r\n\r\n")
	reader := bufio.NewReaderSize(conn, 4096)
	for ctx.Err() == nil {
		sent := time.Now()
		if _, err := conn.Write(request); err != nil {
			return err
		}
		status, err := readResponse(reader)
		if err != nil {
			return err
		}
		if status != 200 {
			into.errors++
			continue
		}
		into.requests++
		if err := into.latency.RecordValue(max(1, time.Since(sent).Microseconds())); err != nil {
			return err
		}
	}
	return nil
}

// readResponse reads one response with a Content-Length or chunked coding and throws its body away.
func readResponse(r *bufio.Reader) (status int, err error) {
	length, chunked := 0, false
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		switch {
		case first:
			if len(line) < 12 {
				return 0, fmt.Errorf("status line %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, fmt.Errorf("status line %q: %w", line, err)
			}
		case len(line) <= 2:
			if chunked {
				return status, discardChunks(r)
			}
			_, err = r.Discard(length)
			return status, err
		case len(line) > 15 && (line[0]|0x20) == 'c' && strings.EqualFold(string(line[:15]), "content-length:"):
			if length, err = strconv.Atoi(strings.TrimSpace(string(line[15:]))); err != nil {
				return 0, err
			}
		case len(line) > 18 && (line[0]|0x20) == 't' && strings.EqualFold(string(line[:18]), "transfer-encoding:"):
			chunked = true
		}
	}
}

func discardChunks(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(line)), 16, 64)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, size+2); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
	}
}
