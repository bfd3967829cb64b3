package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

// startTCPPair is startPair over TCP.
func startTCPPair(t *testing.T, limits Limits, serve func(context.Context, *Stream)) (caller, callee *node) {
	t.Helper()
	return startPair(carried{t, TCP}, limits, serve)
}

// rawTLS is a connection to orders of a peer that keeps to nothing but TLS.
func rawTLS(ctx context.Context, t *testing.T, to *node, cert *tls.Certificate) *tls.Conn {
	t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: serverName(orders), Certificates: []tls.Certificate{*cert},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", to.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*tls.Conn)
}

// rawLink opens a control connection and returns what the peer welcomes it with.
func rawLink(ctx context.Context, t *testing.T, to *node, cert *tls.Certificate) (conn *tls.Conn, r *bufio.Reader, token linkToken) {
	t.Helper()
	conn = rawTLS(ctx, t, to, cert)
	if _, err := conn.Write([]byte{helloControl}); err != nil {
		t.Fatal(err)
	}
	r = bufio.NewReader(conn)
	if w, err := r.ReadByte(); err != nil || word(w) != wordWelcome {
		t.Fatalf("word %#02x, %v", w, err)
	}
	if _, err := io.ReadFull(r, token[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := readVarint(r); err != nil {
		t.Fatal(err)
	}
	return conn, r, token
}

func helloOf(token linkToken, number uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{helloStream}, token[:]...), number)
}

func certificateOf(t *testing.T, w *transporttest.Wallet, service exchange.ServiceName) *tls.Certificate {
	t.Helper()
	cert, err := w.Certificate(service)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestCutConnectionIsNoHalfClose: a TCP connection that ends is not the end of the bytes; only TLS says that.
func TestCutConnectionIsNoHalfClose(t *testing.T) {
	caller, callee := startTCPPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		_, _ = s.Write([]byte("part"))
		conn := s.str.Load().(*tcpStream).conn
		_ = conn.CloseWrite() // as the kernel does for a process that was killed
		select {              // nor does the control connection say anything
		case <-s.Done():
		case <-ctx.Done():
		}
	})
	s, err := caller.Open(testContext(t), toOrder, callee.addr, Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if err := s.WriteRequest(&exchange.Request{Kind: exchange.TCP}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); string(got) != "part" || !errors.Is(err, ErrBroken) {
		t.Errorf("read %q, %v; want an error behind what was written", got, err)
	}
}

// TestCloseNotifyHasTime: crypto/tls would give up after five seconds, and a slow reader be told that its bytes broke off.
func TestCloseNotifyHasTime(t *testing.T) {
	_, listener := listen(t)
	defer listener.Close()
	conn, err := net.DialTCP("tcp", nil, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := newPlainConn(conn, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetWriteDeadline(past); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("a write behind a deadline of TLS's: %v", err)
	}
}

// TestSlowReaderGetsEverything half-closes behind more than the kernels hold, towards one who reads later than after what
// silence makes a peer count as lost.
func TestSlowReaderGetsEverything(t *testing.T) {
	t.Parallel()
	const size, silence = 16 << 20, 8 * time.Second // more than a machine may stand still, behind the last word
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	written := make(chan error, 1)
	caller, callee := startTCPPair(t, Limits{Silence: silence}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		_, err := s.Write(make([]byte, size))
		written <- errors.Join(err, s.CloseWrite())
	})
	s, err := caller.Open(ctx, toOrder, callee.addr, Bulk)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if err := s.WriteRequest(&exchange.Request{Kind: exchange.TCP}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-written:
		t.Fatalf("%d MB were written to somebody who does not read: %v", size>>20, err)
	case <-time.After(6 * silence): // nothing else tells that something does not happen
	}
	if n, err := io.Copy(io.Discard, s); n != size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestStreamsBelongToTheirLink tries to put a stream on the link of somebody else, whose token was found out.
func TestStreamsBelongToTheirLink(t *testing.T) {
	a := transporttest.NewAuthority(t)
	served := make(chan exchange.ServiceName, 1)
	callee := startNode(t, a.Wallet(orders), Limits{}, func(ctx context.Context, s *Stream) {
		served <- s.Peer()
		<-ctx.Done()
	})
	ctx := testContext(t)
	wallet := a.Wallet(cart, billing)
	_, _, token := rawLink(ctx, t, callee, certificateOf(t, wallet, cart))
	for _, tt := range []struct {
		name  string
		cert  *tls.Certificate
		token linkToken
		want  bool
	}{
		{"another service", certificateOf(t, wallet, billing), token, false},
		{"another certificate of the service", a.Issue(cart, time.Hour), token, false},
		{"no such link", certificateOf(t, wallet, cart), linkToken{1}, false},
		{"the right one", certificateOf(t, wallet, cart), token, true},
		{"the number of another stream", certificateOf(t, wallet, cart), token, false},
	} {
		conn := rawTLS(ctx, t, callee, tt.cert)
		if _, err := conn.Write(append(helloOf(tt.token, 1), frameHeadOf(t)...)); err != nil {
			t.Fatal(err)
		}
		if tt.want {
			if peer := <-served; peer != cart {
				t.Errorf("%s: served as %s", tt.name, peer)
			}
			continue
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: there is an answer", tt.name)
		}
		if len(served) > 0 {
			t.Errorf("%s: served as %s", tt.name, <-served)
		}
	}
}

func frameHeadOf(t *testing.T) []byte {
	t.Helper()
	head, err := appendRequest(nil, &exchange.Request{Method: "GET", Scheme: "http", Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	return append(appendFrameHeader(nil, frameHead, len(head)), head...)
}

// TestSilentPeerIsLost: a link ends at both ends where the other says nothing, though its connection stands.
func TestSilentPeerIsLost(t *testing.T) {
	a := transporttest.NewAuthority(t)
	limits := Limits{Silence: 300 * time.Millisecond}
	ctx := testContext(t)
	t.Run("the dialler", func(t *testing.T) {
		callee := startNode(t, a.Wallet(orders), limits, nil)
		_, r, _ := rawLink(ctx, t, callee, a.Issue(cart, time.Hour))
		if _, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, io.EOF) {
			t.Log(err)
		}
		for len(callee.conns()) > 0 {
			if ctx.Err() != nil {
				t.Fatal("the link stays")
			}
			time.Sleep(time.Millisecond)
		}
	})
	t.Run("the dialled end", func(t *testing.T) {
		listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		cert := a.Issue(orders, time.Hour)
		welcomes := func(conn net.Conn) { // and never says anything again
			defer conn.Close()
			c := tls.Server(conn, &tls.Config{NextProtos: []string{alpn}, ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{*cert}})
			welcome := append(append([]byte{byte(wordWelcome)}, make([]byte, len(linkToken{}))...), appendVarint(nil, 60_000)...)
			_, _ = c.Write(welcome)
			_, _ = io.Copy(io.Discard, c)
		}
		go func() {
			for { // a link that is lost before its first stream is opened is made anew
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go welcomes(conn)
			}
		}()
		caller := startNodeOver(t, TCP, a.Wallet(cart), limits, nil)
		s, err := caller.Open(ctx, toOrder, listener.Addr().(*net.TCPAddr).AddrPort(), Interactive)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		<-s.conn.link.Context().Done()
		if err := context.Cause(s.conn.link.Context()); !errors.Is(err, errSilent) {
			t.Error(err)
		}
	})
}

// TestNonsenseOnControl: a peer that says what it must not is let go of.
func TestNonsenseOnControl(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{}, nil)
	ctx := testContext(t)
	for _, tt := range []struct{ name, bytes string }{
		{"unknown word", "\x77"},
		{"integer not in its shortest form", "\x05\x40\x01\x00"},
		{"stream beyond 32 bits", "\x05\xc0\x00\x00\x01\x00\x00\x00\x00\x00"},
		{"welcome from the dialler", "\x01\x00"},
	} {
		conn, r, _ := rawLink(ctx, t, callee, a.Issue(cart, time.Hour))
		if _, err := conn.Write([]byte(tt.bytes)); err != nil {
			t.Fatal(err)
		}
		if said, err := io.ReadAll(r); ctx.Err() != nil || len(said) > 0 {
			t.Errorf("%s: the peer says %x, %v", tt.name, said, err)
		}
	}
	for kind, hello := range map[string][]byte{"unknown kind": {0x09}, "nothing": nil} {
		conn := rawTLS(ctx, t, callee, a.Issue(cart, time.Hour))
		_, _ = conn.Write(hello)
		_ = conn.CloseWrite()
		if said, _ := io.ReadAll(conn); len(said) > 0 {
			t.Errorf("%s: the peer says %x", kind, said)
		}
	}
}

// TestWordMayOvertakeItsStream: the two have different connections.
func TestWordMayOvertakeItsStream(t *testing.T) {
	a := transporttest.NewAuthority(t)
	ended := make(chan error, 1)
	callee := startNode(t, a.Wallet(orders), Limits{Silence: time.Hour}, func(_ context.Context, s *Stream) {
		<-s.Done()
		_, err := s.Read(make([]byte, 1))
		var req exchange.Request
		ended <- errors.Join(err, s.ReadRequest(&req))
	})
	ctx := testContext(t)
	cert := a.Issue(cart, time.Hour)
	conn, _, token := rawLink(ctx, t, callee, cert)
	words := appendVarint([]byte{byte(wordStop), 7}, uint64(codeOf(exchange.Timeout)))
	if _, err := conn.Write(words); err != nil {
		t.Fatal(err)
	}
	for heard := 0; heard == 0; time.Sleep(time.Millisecond) {
		for _, c := range callee.conns() { // none at first: the welcome may overtake, too
			k := c.link.(*tcpLink)
			k.mu.Lock()
			heard = len(k.early)
			k.mu.Unlock()
		}
		if ctx.Err() != nil {
			t.Fatal("the word is lost")
		}
	}
	stream := rawTLS(ctx, t, callee, cert)
	if _, err := stream.Write(append(helloOf(token, 7), frameHeadOf(t)...)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-ctx.Done(): // long before the silence of the raw link ends it
		t.Error("the callee does not hear that nobody waits for its answer")
	}
}

// TestLinksAndHandshakesAreCounted: one peer cannot take the place of all others over TCP either.
func TestLinksAndHandshakesAreCounted(t *testing.T) {
	a := transporttest.NewAuthority(t)
	callee := startNode(t, a.Wallet(orders), Limits{PeerInbound: 2, Inbound: 3}, nil)
	ctx := testContext(t)
	cert := a.Issue(cart, time.Hour)
	rawLink(ctx, t, callee, cert)
	first, _, _ := rawLink(ctx, t, callee, cert)
	third := rawTLS(ctx, t, callee, cert)
	_, _ = third.Write([]byte{helloControl})
	said, _ := io.ReadAll(third)
	if want := appendVarint([]byte{byte(wordClose)}, uint64(closeRefused)); !bytes.HasSuffix(said, want) {
		t.Errorf("the third link of one peer: %x", said)
	}
	third.Close()
	for callee.inbound.Load() != 2 && ctx.Err() == nil { // what was refused counts until it has ended
		time.Sleep(time.Millisecond)
	}
	other := a.Issue(billing, time.Hour)
	rawLink(ctx, t, callee, other)
	if conn, err := tls.Dial("tcp", callee.addr.String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: serverName(orders), Certificates: []tls.Certificate{*other}}); err == nil {
		conn.Close()
		t.Error("a handshake begins beyond the limit")
	}
	first.Close()
	for len(callee.conns()) != 2 || callee.inbound.Load() != 2 {
		if ctx.Err() != nil {
			t.Fatalf("%d links and %d connections are counted", len(callee.conns()), callee.inbound.Load())
		}
		time.Sleep(time.Millisecond)
	}
	rawLink(ctx, t, callee, cert)
}

func TestPeerKilledOverTCP(t *testing.T) {
	began := make(chan struct{}, 1)
	caller, callee := startTCPPair(t, Limits{}, func(ctx context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		began <- struct{}{}
		<-s.Done()
	})
	ctx := testContext(t)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "POST"}), s.End()); err != nil {
		t.Fatal(err)
	}
	<-began
	for _, c := range callee.conns() { // as the kernel does it for a process that is killed: nothing is said
		k := c.link.(*tcpLink)
		k.mu.Lock()
		_ = k.conn.SetLinger(0)
		k.conn.Close()
		for _, s := range k.streams {
			_ = s.conn.SetLinger(0)
			s.conn.Close()
		}
		k.mu.Unlock()
	}
	var resp exchange.Response
	if err := s.ReadResponse(&resp); !errors.Is(err, ErrBroken) || errors.Is(err, ErrNotSent) {
		t.Errorf("after the request was sent: %v", err)
	}
	callee.stop()
	if err := get(ctx, caller, toOrder, callee.addr); !errors.Is(err, ErrNotSent) {
		t.Errorf("a new dial: %v", err)
	}
}

// TestResetCarriesWhatWasWritten: what a callee wrote before it gave up arrives, however much that is.
func TestResetCarriesWhatWasWritten(t *testing.T) {
	large := bytes.Repeat([]byte("x"), 3000)
	caller, callee := startTCPPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		_ = s.WriteResponse(&exchange.Response{Status: 200, BodyLength: 1 << 20})
		_, _ = s.Write(large)
		s.Reset(exchange.ServiceBroke)
	})
	ctx := testContext(t)
	for range 50 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		var resp exchange.Response
		if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "GET"}), s.End(), s.ReadResponse(&resp)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		var reset *ResetError
		if !bytes.Equal(got, large) || !errors.As(err, &reset) || reset.Reason != exchange.ServiceBroke {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		s.Release()
	}
	for k := caller.conns()[0].link.(*tcpLink); ; time.Sleep(time.Millisecond) { // no connection is left behind
		k.mu.Lock()
		left := len(k.streams)
		k.mu.Unlock()
		if left == 0 {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d streams are left", left)
		}
	}
}

// TestEarlyResponseOverTCP: who answers before the request has come whole neither waits for it nor loses the answer.
func TestEarlyResponseOverTCP(t *testing.T) {
	caller, callee := startTCPPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		_ = s.ReadRequest(&req)
		_ = s.WriteResponse(&exchange.Response{Status: 413, BodyLength: 5})
		_, _ = s.Write([]byte("large"))
		_ = s.End()
	})
	ctx := testContext(t)
	for range 20 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Bulk)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WriteRequest(&exchange.Request{Method: "PUT", BodyLength: exchange.LengthUnknown}); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 64<<10)
		for range 200 { // more than all windows hold
			if _, err := s.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		var resp exchange.Response
		if err := s.ReadResponse(&resp); err != nil || resp.Status != 413 {
			t.Fatalf("%d, %v", resp.Status, err)
		}
		if body, err := io.ReadAll(s); string(body) != "large" || err != nil {
			t.Fatalf("%q, %v", body, err)
		}
		s.Release()
	}
}

var _ pipe = (*quic.Stream)(nil)
