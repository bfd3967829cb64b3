package workload

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/protobuf/proto"
)

// message is a message as it stands in a body, with a flag.
func message(t testing.TB, flag byte, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(raw))), raw...)
}

// transport speaks HTTP/2 with a server.
func transport(t *testing.T, address string) *http.Transport {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	out := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
	}}
	t.Cleanup(out.CloseIdleConnections)
	return out
}

func TestCallsThatAreNone(t *testing.T) {
	_, address := newAuthority(t).serve()
	web := transport(t, address)
	audience := &JWTSVIDRequest{Audience: []string{"db"}}
	good := message(t, 0, audience)
	long := binary.BigEndian.AppendUint32([]byte{0}, maxMessage+1)
	for _, tt := range []struct {
		name   string
		method string
		header http.Header // beside what a call has
		body   []byte
		want   string // grpc-status, or the status of HTTP
	}{
		{"a call", "FetchJWTSVID", nil, good, "0"},
		{"protobuf by its name", "FetchJWTSVID", http.Header{"Content-Type": {"application/grpc+proto"}}, good, "0"},
		{"an unknown method", "FetchWITSVID", nil, good, "12"},
		{"another service's", "../grpc.health.v1.Health/Check", nil, good, "12"},
		{"compressed", "FetchJWTSVID", http.Header{"Grpc-Encoding": {"gzip"}}, message(t, 1, audience), "12"},
		{"no flag of gRPC", "FetchJWTSVID", nil, message(t, 2, audience), "13"},
		{"longer than is read", "FetchJWTSVID", nil, long, "8"},
		{"shorter than it says", "FetchJWTSVID", nil, good[:len(good)-1], "13"},
		{"nothing", "FetchJWTSVID", nil, nil, "13"},
		{"two messages", "FetchJWTSVID", nil, append(bytes.Clone(good), good...), "13"},
		{"two messages to a stream", "FetchX509Bundles", nil, make([]byte, 2*prefixLength), "13"},
		{"not protobuf", "FetchJWTSVID", nil, []byte{0, 0, 0, 0, 1, 0xff}, "3"},
		{"no deadline", "FetchJWTSVID", http.Header{"Grpc-Timeout": {"soon"}}, good, "3"},
		{"a deadline with too many digits", "FetchJWTSVID", http.Header{"Grpc-Timeout": {"123456789S"}}, good, "3"},
		{"two deadlines", "FetchJWTSVID", http.Header{"Grpc-Timeout": {"1S", "2S"}}, good, "3"},
		{"a deadline without end", "FetchJWTSVID", http.Header{"Grpc-Timeout": {"99999999H"}}, good, "0"},
		{"a deadline that is over", "FetchX509Bundles", http.Header{"Grpc-Timeout": {"1n"}}, make([]byte, prefixLength), "4"},
		{"a stream until its deadline", "FetchX509Bundles", http.Header{"Grpc-Timeout": {"50m"}}, make([]byte, prefixLength), "4"},
		{"no header", "FetchJWTSVID", http.Header{http.CanonicalHeaderKey(securityHeader): nil}, good, "3"},
		{"no header, and no method", "FetchWITSVID", http.Header{http.CanonicalHeaderKey(securityHeader): nil}, good, "3"},
		{"not gRPC", "FetchJWTSVID", http.Header{"Content-Type": {"application/json"}}, []byte("{}"), "415 Unsupported Media Type"},
		{"gRPC for browsers", "FetchJWTSVID", http.Header{"Content-Type": {"application/grpc-web"}}, good, "415 Unsupported Media Type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost", bytes.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			request.URL = &url.URL{Scheme: "http", Host: "localhost", Path: "/SpiffeWorkloadAPI/" + tt.method}
			request.Header = http.Header{"Content-Type": {contentType}, "Te": {"trailers"}}
			request.Header.Set(securityHeader, "true")
			for name, values := range tt.header {
				request.Header[name] = values
			}
			response, err := web.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
			got := response.Trailer.Get("Grpc-Status")
			if response.StatusCode != http.StatusOK {
				got = response.Status
			}
			if got != tt.want {
				t.Errorf("%s %q, want %s", got, response.Trailer.Get("Grpc-Message"), tt.want)
			}
		})
	}
}

func TestADeadlineEndsACallThatSendsNothing(t *testing.T) {
	_, address := newAuthority(t).serve()
	body, _ := io.Pipe() // never a byte
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/SpiffeWorkloadAPI/FetchJWTSVID", body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {contentType}, "Grpc-Timeout": {"20m"}}
	request.Header.Set(securityHeader, "true")
	response, err := transport(t, address).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	if got := response.Trailer.Get("Grpc-Status"); got != "4" {
		t.Errorf("grpc-status %q", got)
	}
}

func TestOnlyHTTP2IsSpoken(t *testing.T) {
	_, address := newAuthority(t).serve()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: a\r\nworkload.spiffe.io: true\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(conn); len(answer) > 0 { // it is closed, perhaps with what was sent unread
		t.Errorf("answered with %q", answer)
	}
}

// TestRunWaitsForCalls: when it returns, nobody is answered any more.
func TestRunWaitsForCalls(t *testing.T) {
	a := newAuthority(t)
	cfg := a.config()
	ctx, stop := context.WithCancel(t.Context())
	entered, left := make(chan struct{}, 1), atomic.Bool{}
	cfg.Bundles = func() *spiffebundle.Set {
		entered <- struct{}{}
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond) // so that one that does not wait is seen; one that does may take any time
		left.Store(true)
		return a.bundles()
	}
	s := New(cfg)
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	c, asking := client(t, "unix://"+l.Addr().String())
	if _, err := c.FetchX509Bundles(asking, &pb.X509BundlesRequest{}); err != nil {
		t.Fatal(err)
	}
	<-entered
	stop()
	if err := <-ended; err != nil || !left.Load() {
		t.Errorf("%v; a call had ended: %v", err, left.Load())
	}
}

func TestMessagesOfStatusAreEscaped(t *testing.T) {
	if got := escape("100 % \u00e4\n"); got != "100 %25 %C3%A4%0A" {
		t.Error(got)
	}
	a := newAuthority(t)
	_, address := a.serve()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := workloadapi.ValidateJWTSVID(ctx, "\u00e4%41.b.c", "db", workloadapi.WithAddr(address))
	if err == nil || !strings.Contains(err.Error(), "unable to parse JWT token") {
		t.Error(err)
	}
}

// TestNobodyLinksGRPC: it, and what it brings, cost an idle node five megabytes.
func TestNobodyLinksGRPC(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/node", "../../cmd/controller").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "google.golang.org/grpc") || name == "golang.org/x/net/trace" || name == "html/template" {
			t.Errorf("cmd/node or cmd/controller links %s", name)
		}
	}
}

// FuzzCalls: whatever a process sends, it is answered with a status of gRPC that it can read, or heard to say no gRPC; and what
// is taken for a message is one, and whole.
func FuzzCalls(f *testing.F) {
	good := message(f, 0, &JWTSVIDRequest{Audience: []string{"db"}})
	for _, body := range [][]byte{good, good[:3], append(bytes.Clone(good), 0), {0, 0, 0, 0, 1, 0xff}, {1, 0, 0, 0, 0}, {0, 0xff, 0xff, 0xff, 0xff}} {
		f.Add("application/grpc; a=b", "1S", body)
	}
	f.Add("Application/GRPC+proto", "99999999H", good)
	f.Fuzz(func(t *testing.T, kind, limit string, body []byte) {
		if left, err := timeout([]string{limit}); err == nil && left < 0 {
			t.Errorf("grpc-timeout %q is %v", limit, left)
		}
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.Header.Set(securityHeader, "true")
		w := httptest.NewRecorder()
		got := &JWTSVIDRequest{}
		serveCall(w, r, func(_ context.Context, c *call) error { return c.read(got) })
		answer := w.Result()
		if answer.StatusCode == http.StatusUnsupportedMediaType && !isGRPC(kind) {
			return
		}
		words, err := url.PathUnescape(answer.Trailer.Get("Grpc-Message"))
		status := answer.Trailer.Get("Grpc-Status")
		if answer.StatusCode != http.StatusOK || status == "" || err != nil || (words == "") != (status == "0") {
			t.Errorf("%s, grpc-status %q, %q, %v", answer.Status, status, words, err)
		}
		if status != "0" {
			return
		}
		again := &JWTSVIDRequest{}
		if length := int(binary.BigEndian.Uint32(body[1:])); body[0] != 0 || length != len(body)-prefixLength {
			t.Errorf("taken, and not one message: %x", body)
		} else if err := proto.Unmarshal(body[prefixLength:], again); err != nil || !proto.Equal(got, again) {
			t.Errorf("%x is read as %v", body, got)
		}
	})
}
