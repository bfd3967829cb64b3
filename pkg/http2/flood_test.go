package http2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A rawPeer is a client that sends any frames.
type rawPeer struct {
	*http2.Framer
	t     testing.TB
	conn  net.Conn
	block bytes.Buffer
	hpack *hpack.Encoder
}

// dialRaw connects, and sends the preface and SETTINGS.
func dialRaw(t testing.TB, address string) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, Preface)
	p := &rawPeer{Framer: http2.NewFramer(conn, conn), t: t, conn: conn}
	p.hpack = hpack.NewEncoder(&p.block)
	p.WriteSettings()
	return p
}

var (
	method    = hpack.HeaderField{Name: ":method", Value: "POST"}
	scheme    = hpack.HeaderField{Name: ":scheme", Value: "http"}
	authority = hpack.HeaderField{Name: ":authority", Value: "orders"}
)

// head encodes a request's head.
func (p *rawPeer) head(more ...hpack.HeaderField) []byte {
	return p.fields(append([]hpack.HeaderField{method, scheme, authority, {Name: ":path", Value: "/"}}, more...)...)
}

// fields encodes a block.
func (p *rawPeer) fields(all ...hpack.HeaderField) []byte {
	p.block.Reset()
	for _, f := range all {
		p.hpack.WriteField(f)
	}
	return bytes.Clone(p.block.Bytes())
}

// ended reads until GOAWAY, whose code it returns, or the end.
func (p *rawPeer) ended() (http2.ErrCode, bool) {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				p.t.Error("the connection goes on")
			}
			return 0, false
		}
		if away, ok := f.(*http2.GoAwayFrame); ok {
			return away.ErrCode, true
		}
	}
}

// TestFloodsEnd has a peer do what costs it nothing, without end: it is sent away.
func TestFloodsEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin func(*rawPeer)
		each  func(p *rawPeer, i int) error
	}{
		{"PING", nil, func(p *rawPeer, _ int) error { return p.WritePing(false, [8]byte{}) }},
		{"SETTINGS", nil, func(p *rawPeer, _ int) error { return p.WriteSettings() }},
		{"PRIORITY", nil, func(p *rawPeer, _ int) error { return p.WritePriority(9, http2.PriorityParam{StreamDep: 1}) }},
		{"unknown frames", nil, func(p *rawPeer, _ int) error { return p.WriteRawFrame(0xee, 0, 0, nil) }},
		{"WINDOW_UPDATE", nil, func(p *rawPeer, _ int) error { return p.WriteWindowUpdate(0, 1) }},
		{"empty DATA", func(p *rawPeer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head(), EndHeaders: true})
		}, func(p *rawPeer, _ int) error { return p.WriteData(1, false, nil) }},
		{"rapid reset (CVE-2023-44487)", nil, func(p *rawPeer, i int) error {
			id := uint32(2*i + 1)
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.head(), EndHeaders: true})
			return p.WriteRSTStream(id, http2.ErrCodeCancel)
		}},
		{"resets that are provoked (CVE-2025-8671)", nil, func(p *rawPeer, i int) error {
			id := uint32(2*i + 1)
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.head(), EndHeaders: true})
			return p.WriteWindowUpdate(id, 1<<31-1)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A patience that time does not give back while the test runs.
			p := dialRaw(t, serve(t, Limits{Patience: 100}, func(s *ServerStream) { io.Copy(io.Discard, s.Body()) }))
			if tt.begin != nil {
				tt.begin(p)
			}
			go func() {
				for i := 0; tt.each(p, i) == nil && i < 1<<20; i++ {
				}
			}()
			if code, said := p.ended(); said && code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("it was sent away with %v", code)
			}
		})
	}
}

// TestHeadsThatDoNotEnd sends CONTINUATION without end, and heads that are over the limit.
func TestHeadsThatDoNotEnd(t *testing.T) {
	address := serve(t, Limits{Head: 8 << 10, Fields: 2000}, echo)
	t.Run("empty CONTINUATION frames", func(t *testing.T) {
		p := dialRaw(t, address)
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head()})
		for range mostFragments {
			p.WriteContinuation(1, false, nil)
		}
		if code, said := p.ended(); !said || code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("it was sent away with %v, %v", code, said)
		}
	})
	t.Run("full CONTINUATION frames (CVE-2024-27316)", func(t *testing.T) {
		p := dialRaw(t, address)
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head()})
		more := bytes.Repeat([]byte{0x82}, 4<<10) // indexed fields, a byte each
		for range 4 {                             // 16 KiB, and the head's beginning
			p.WriteContinuation(1, false, more)
		}
		if code, said := p.ended(); !said || code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("it was sent away with %v, %v", code, said)
		}
	})
	t.Run("a small block of many fields (HPACK bomb)", func(t *testing.T) {
		p := dialRaw(t, address)
		block := p.head(hpack.HeaderField{Name: "x-large", Value: string(bytes.Repeat([]byte("x"), 3000))})
		block = append(block, bytes.Repeat([]byte{0x80 | 62}, 1000)...) // 3 MB, once decoded
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true})
		decoder := hpack.NewDecoder(4096, nil)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if h, ok := f.(*http2.HeadersFrame); ok {
				fields, err := decoder.DecodeFull(h.HeaderBlockFragment())
				if err != nil || fields[0].Value != "431" {
					t.Errorf("%v, %v", fields, err)
				}
				return
			}
		}
	})
}

// TestReaderThatIsSlow has a peer bring a body that nobody reads, and take one that it does not: it may bring no more than
// the window, and the writer waits.
func TestReaderThatIsSlow(t *testing.T) {
	const window = 64 << 10
	p := dialRaw(t, serve(t, Limits{Window: window}, func(s *ServerStream) {
		<-t.Context().Done()
	}))
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head(), EndHeaders: true})
	piece := make([]byte, 16<<10)
	for range window / len(piece) {
		p.WriteData(1, false, piece)
	}
	p.WriteData(1, false, []byte("x")) // one more
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if reset, ok := f.(*http2.RSTStreamFrame); ok {
			if reset.ErrCode != http2.ErrCodeFlowControl {
				t.Errorf("reset with %v", reset.ErrCode)
			}
			return
		}
	}
}

// TestBodiesThatNobodyTakes has a peer bring bodies of many streams: all of them together may be no more than the limit, and
// what was taken, or is not wanted any more, makes room for more.
func TestBodiesThatNobodyTakes(t *testing.T) {
	const unread, piece = 128 << 10, 16 << 10
	read, end := make(chan int), make(chan struct{})
	p := dialRaw(t, serve(t, Limits{Unread: unread}, func(s *ServerStream) {
		for {
			select {
			case n := <-read:
				io.CopyN(io.Discard, s.Body(), int64(n))
			case <-end:
				s.WriteResponse(&exchange.Response{Status: 200})
				return
			}
		}
	}))
	room := int64(initialWindow)
	awaitRoom := func(what string, least int64) {
		t.Helper()
		for room < least {
			f, err := p.ReadFrame()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if w, ok := f.(*http2.WindowUpdateFrame); ok && w.StreamID == 0 {
				room += int64(w.Increment)
			}
		}
	}
	awaitRoom("at the beginning", unread)
	if room != unread {
		t.Errorf("%d bytes are allowed, want %d", room, unread)
	}
	bring := func(id uint32, n int) {
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.head(), EndHeaders: true})
		for range n / piece {
			p.WriteData(id, false, make([]byte, piece))
		}
		room -= int64(n)
	}
	bring(1, 64<<10)
	bring(3, 64<<10)
	p.WritePing(false, [8]byte{1})
	for acked := false; !acked; { // what comes behind the end of a stream is given back with what comes later
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		ping, ok := f.(*http2.PingFrame)
		acked = ok && ping.IsAck()
	}
	read <- 32 << 10 // of either
	awaitRoom("behind what was read", 32<<10)
	end <- struct{}{} // both handlers, with what they have not read
	end <- struct{}{}
	awaitRoom("behind what is not wanted any more", unread)
	if room != unread {
		t.Errorf("%d bytes are allowed in the end, want %d", room, unread)
	}
	for i := range uint32(2) {
		bring(5+2*i, 64<<10)
	}
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: 9, BlockFragment: p.head(), EndHeaders: true})
	p.WriteData(9, false, []byte("x")) // one more
	if code, said := p.ended(); !said || code != http2.ErrCodeFlowControl {
		t.Errorf("more than the limit: %v, %v", code, said)
	}
	for range 3 {
		end <- struct{}{}
	}
}

// FuzzFrames sends any bytes behind the preface: the connection ends in time, and the handlers with it.
func FuzzFrames(f *testing.F) {
	var seed bytes.Buffer
	framer := http2.NewFramer(&seed, nil)
	framer.WriteSettings()
	p := rawPeer{}
	p.hpack = hpack.NewEncoder(&p.block)
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.head(), EndHeaders: true})
	framer.WriteData(1, true, []byte("body"))
	framer.WriteRSTStream(1, 0)
	framer.WritePing(false, [8]byte{})
	framer.WriteGoAway(0, 0, nil)
	f.Add(seed.Bytes())
	f.Fuzz(func(_ *testing.T, frames []byte) {
		ours, theirs := net.Pipe()
		c := NewServerConn(ours, Limits{Patience: 50})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.Serve(echo)
		}()
		go io.Copy(io.Discard, theirs)
		theirs.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(theirs, Preface)
		theirs.Write(frames)
		theirs.Close()
		<-done
	})
}
