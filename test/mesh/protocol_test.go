package mesh

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestProtocols carries what is no plain request between two hosts, over QUIC and over TCP.
func TestProtocols(t *testing.T) {
	t.Parallel()
	for _, lane := range []string{"quic", "tcp"} {
		t.Run(lane, func(t *testing.T) {
			t.Parallel()
			protocols(t, lane)
		})
	}
}

func protocols(t *testing.T, lane string) {
	m := Start(t, Config{
		Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/orders", "default/lines"},
		Flags: []string{"--lane", lane},
	})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	m.Serve("two", Service{Name: "default/lines", Version: "lines", Port: 5432, Protocol: "tcp"})
	orders := m.Listen("one", "default/web", "default/orders:80")
	lines := m.Listen("one", "default/web", "default/lines:5432")
	m.AwaitAnswer("one", orders, "v1")

	t.Run("TCP with half-close", func(t *testing.T) { halfClose(t, m.In(t), lines) })
	t.Run("WebSocket", func(t *testing.T) { webSocket(t, m.In(t), orders) })
	t.Run("WebSocket over HTTP/2", func(t *testing.T) { webSocket2(t, m.In(t), orders) })
	t.Run("large bodies", func(t *testing.T) { largeBodies(t, m.In(t), orders) })
	t.Run("another user", func(t *testing.T) { stranger(t, m.In(t), orders) })
}

// halfClose sends, closes its side, and must still read: the service answers when it has seen the end.
func halfClose(t *testing.T, m *Mesh, address string) {
	for _, size := range []int{0, 1, 3 << 20} {
		said := strings.Repeat("x", size)
		var got []byte
		m.Eventually("an answer behind the end", func(ctx context.Context) error {
			conn, err := m.Dial(ctx, "one", address)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(conn, said); err != nil {
				return err
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return err
			}
			got, err = io.ReadAll(conn)
			return err // a reset, as long as the service is not known
		})
		if string(got) != "lines\n"+said {
			t.Errorf("%d bytes sent, %d came back (%.20q)", size, len(got), got)
		}
	}
}

func webSocket(t *testing.T, m *Mesh, address string) {
	conn, err := m.Dial(t.Context(), "one", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	fmt.Fprintf(conn, "GET /websocket HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 101 || response.Header.Get("Sec-WebSocket-Accept") != acceptKey(key) {
		t.Fatalf("%s, accepts %q", response.Status, response.Header.Get("Sec-WebSocket-Accept"))
	}
	speakWebSocket(t, conn, reader)
}

// webSocket2 does the same by HTTP/2 (RFC 8441), to a service that speaks HTTP/1.1.
func webSocket2(t *testing.T, m *Mesh, address string) {
	dial := func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
		return m.Dial(ctx, "one", address)
	}
	client := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: dial}} //nolint:staticcheck // net/http has no extended CONNECT
	defer client.CloseIdleConnections()
	from, to := io.Pipe()
	defer to.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request := &http.Request{
		Method: "CONNECT", URL: &url.URL{Scheme: "http", Host: "orders", Path: "/websocket"}, Host: "orders", Body: from, ContentLength: -1,
		Header: http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}},
	}
	response, err := client.Do(request.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatal(response.Status)
	}
	speakWebSocket(t, to, bufio.NewReader(response.Body))
}

func speakWebSocket(t *testing.T, conn io.Writer, reader *bufio.Reader) {
	t.Helper()
	for _, opcode := range []byte{opText, opText, opText, opClose} {
		said := []byte("said " + strconv.Itoa(int(opcode)))
		if opcode == opClose {
			said = []byte{3, 232} // 1000: normal
		}
		mask := [4]byte{1, 2, 3, 4}
		frame := append([]byte{0x80 | opcode, 0x80 | byte(len(said))}, mask[:]...)
		for i, c := range said {
			frame = append(frame, c^mask[i%4])
		}
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		if got, payload, err := readFrame(reader); err != nil || got != opcode || string(payload) != string(said) {
			t.Fatalf("frame %d %q, %v; want what was said, %q", got, payload, err, said)
		}
	}
	if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
		t.Errorf("behind the close frame: %q, %v", rest, err)
	}
}

// largeBodies sends several hundred megabytes each way at once. What the nodes hold may grow by a fraction.
func largeBodies(t *testing.T, m *Mesh, address string) {
	const warm, growth = 32 << 20, 40 << 20
	size := int64(256 << 20)
	if testing.Short() {
		size = 64 << 20
	}
	carry := func(size int64) error {
		response, err := m.Client("one").Post("http://"+address+"/echo", "application/octet-stream", io.LimitReader(zeros{}, size))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if received, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 || received != size {
			return fmt.Errorf("%s, %d bytes came back of %d: %w", response.Status, received, size, err)
		}
		return nil
	}
	largest := func() (bytes int64) {
		for _, node := range m.cfg.Nodes {
			resident, err := Resident(m.Node(node))
			if err != nil {
				t.Error(err)
			}
			bytes = max(bytes, resident)
		}
		return bytes
	}
	if err := carry(warm); err != nil { // buffers and windows have their size then
		t.Fatal(err)
	}
	before, most := largest(), int64(0)
	done := make(chan error)
	start := time.Now()
	go func() { done <- carry(size) }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			running = false
		case <-tick.C:
			most = max(most, largest())
		}
	}
	t.Logf("%d MB each way in %s; resident before %d MB, at most %d MB", size>>20, time.Since(start).Round(time.Millisecond), before>>20, most>>20)
	if most > before+growth {
		t.Errorf("a node grew from %d to %d MB", before>>20, most>>20)
	}
}

// stranger connects as another user than the one whose the listener is.
func stranger(t *testing.T, m *Mesh, address string) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a process becomes another user")
	}
	for _, tt := range []struct{ uid, want string }{{"0", "served"}, {"65534", "refused: "}} {
		p, err := m.Run("stranger-"+tt.uid, m.self, "stranger", tt.uid, address)
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if got := strings.TrimSpace(p.Tail(200)); !strings.HasPrefix(got, tt.want) {
			t.Errorf("user %s: %s, want %s", tt.uid, got, tt.want)
		}
	}
}
