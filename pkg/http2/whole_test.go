package http2

import (
	"runtime"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A body is whole when its end was received, short, and without trailers; nobody waits for that.
func TestWholeBodies(t *testing.T) {
	t.Parallel()
	type seen struct {
		length int
		whole  bool
	}
	looked := make(chan seen, 1)
	address := serve(t, Limits{}, func(s *ServerStream) {
		received := func() bool {
			s.c.mu.Lock()
			defer s.c.mu.Unlock()
			return s.ended
		}
		for s.Request().Path == "/whole" && !received() {
			runtime.Gosched()
		}
		n, whole := s.Whole(4)
		looked <- seen{n, whole}
		s.WriteError(503, "overloaded")
	})
	p := dialRaw(t, address)
	for i, tt := range []struct {
		name, path string
		body       string
		end        bool // with the body
		trailers   bool
		want       seen
	}{
		{"none", "/whole", "", true, false, seen{0, true}},
		{"small", "/whole", "body", true, false, seen{4, true}},
		{"larger", "/whole", "bodies", true, false, seen{6, false}},
		{"trailers behind it", "/whole", "body", false, true, seen{0, false}},
		{"its end to come", "/", "body", false, false, seen{0, false}},
	} {
		stream := uint32(2*i + 1)
		path := hpack.HeaderField{Name: ":path", Value: tt.path}
		p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.fields(method, scheme, authority, path), EndHeaders: true})
		p.WriteData(stream, tt.end, []byte(tt.body))
		if tt.trailers {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.fields(hpack.HeaderField{Name: "sum", Value: "1"}), EndHeaders: true, EndStream: true})
		}
		if got := <-looked; got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
