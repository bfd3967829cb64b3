package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// resetting is a process that resets each stream with a code: before its head, or behind it, once the caller says that he
// has read it (a reset overtakes what is on its way). asked counts the requests.
func resetting(t *testing.T, code http2.ErrCode, read <-chan struct{}, asked *atomic.Int64) netip.AddrPort {
	t.Helper()
	return netip.MustParseAddrPort(rawProcess(t, func(conn *net.TCPConn, in *bufio.Reader) {
		if _, err := io.ReadFull(in, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(conn, in)
		_ = framer.WriteSettings()
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				return
			}
			request, ok := frame.(*http2.HeadersFrame)
			if !ok {
				continue
			}
			asked.Add(1)
			if read != nil {
				var block bytes.Buffer
				_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
				_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: request.StreamID, BlockFragment: block.Bytes(), EndHeaders: true})
				_ = framer.WriteData(request.StreamID, false, []byte("hel"))
				<-read
			}
			_ = framer.WriteRSTStream(request.StreamID, code)
		}
	}))
}

// TestResetsOfProcesses wants a caller to hear of the code with which a process broke off: by the stream where the head
// is on its way, and by what gRPC makes of it.
func TestResetsOfProcesses(t *testing.T) {
	for _, tt := range []struct {
		code     http2.ErrCode
		seen     string // of a stream behind its head
		grpc     string
		attempts int64 // of a POST at one process
	}{
		{code: http2.ErrCodeCancel, seen: "CANCEL", grpc: "1", attempts: 1},
		{code: http2.ErrCodeEnhanceYourCalm, seen: "ENHANCE_YOUR_CALM", grpc: "8", attempts: 1},
		{code: http2.ErrCodeInternal, seen: "INTERNAL_ERROR", grpc: "13", attempts: 1},
		{code: http2.ErrCodeHTTP11Required, seen: "HTTP_1_1_REQUIRED", grpc: "13", attempts: 1},
		{code: http2.ErrCodeRefusedStream, seen: "INTERNAL_ERROR", grpc: "14", attempts: streamTries}, // looked at nothing, and did
	} {
		t.Run(tt.code.String(), func(t *testing.T) {
			var asked atomic.Int64
			early := startHTTP2(t, nil, http2Process(resetting(t, tt.code, nil, &asked)))
			resp, err := early.client2().Post("http://orders/", "", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 502 || resp.Header.Get("Sennit-Reason") != "service-broke" || asked.Load() != tt.attempts {
				t.Errorf("before the head: %s %v after %d attempts, want %d", resp.Status, resp.Header, asked.Load(), tt.attempts)
			}
			call := func(p *pair) *http.Response {
				resp, err := p.client2().Post("http://orders/shop.Orders/Get", "application/grpc", strings.NewReader("\x00\x00\x00\x00\x00"))
				if err != nil {
					t.Fatal(err)
				}
				return resp
			}
			resp = call(early)
			resp.Body.Close()
			if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != tt.grpc {
				t.Errorf("before the head of a call: %s %v, want %s", resp.Status, resp.Header, tt.grpc)
			}

			read := make(chan struct{}, 2)
			defer close(read)
			late := startHTTP2(t, nil, http2Process(resetting(t, tt.code, read, &asked)))
			rest := func() (string, error) {
				begun := make([]byte, len("hel"))
				if _, err := io.ReadFull(resp.Body, begun); err != nil {
					t.Fatal(err)
				}
				read <- struct{}{}
				more, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				return string(begun) + string(more), err
			}
			resp, err = late.client2().Post("http://orders/", "", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			if body, err := rest(); resp.StatusCode != 200 || body != "hel" || err == nil || !strings.Contains(err.Error(), tt.seen) {
				t.Errorf("behind the head: %s, %q, %v", resp.Status, body, err)
			}
			resp = call(late)
			if _, err := rest(); err != nil || resp.Trailer.Get("Grpc-Status") != tt.grpc {
				t.Errorf("behind the head of a call: %v, %v, want %s", err, resp.Trailer, tt.grpc)
			}
		})
	}
}
