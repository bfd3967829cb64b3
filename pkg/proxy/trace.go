package proxy

import (
	"encoding/binary"
	"math/rand/v2"
	"unsafe"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
)

// A spot is where one exchange after the other stands in its trace. It has one owner, and holds what the request's
// field points to.
type spot struct {
	exchange.Trace         // with our own span, where it is sampled
	parent         [8]byte // of our span; zero: the trace begins with it
	field          [exchange.TraceparentLen]byte
}

// begin carries the trace of a request on, and begins one where there is none: share of those are sampled, and none
// is begun where that is 0. Who is not sampled sees its field pass as it came.
func (s *spot) begin(request *exchange.Request, share float64) {
	at, trace, given := find(request.Fields)
	s.Trace, s.parent = trace, [8]byte{}
	switch {
	case given && !trace.Sampled:
		return
	case given:
		s.parent = trace.Span
	case share <= 0:
		return
	default:
		if at >= 0 { // what nobody can read ends here, with what depends on it (W3C Trace Context §4.3)
			request.Fields.Del(traceparent)
			request.Fields.Del(tracestate)
		}
		binary.NativeEndian.PutUint64(s.ID[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(s.ID[8:], rand.Uint64()|1) // never all zeros
		s.Sampled = share >= 1 || rand.Float64() < share
		at = len(request.Fields)
		request.Fields = append(request.Fields, exchange.Field{Name: traceparent})
	}
	s.enter(&request.Fields[at])
}

// join is begin for the node of the called service, which begins no trace.
func (s *spot) join(request *exchange.Request) { s.begin(request, 0) }

// enter makes our span the parent of what comes next.
func (s *spot) enter(field *exchange.Field) {
	binary.NativeEndian.PutUint64(s.Span[:], rand.Uint64()|1)
	b := s.AppendTraceparent(s.field[:0])
	field.Value = unsafe.String(&b[0], len(b))
}

// find returns the trace that fields name, and where; -1: nowhere. More than one name none.
func find(fields exchange.Fields) (at int, trace exchange.Trace, ok bool) {
	at = -1
	for i := range fields {
		if !exchange.EqualName(fields[i].Name, traceparent) {
			continue
		}
		if at >= 0 {
			return at, exchange.Trace{}, false
		}
		at = i
	}
	if at < 0 {
		return at, exchange.Trace{}, false
	}
	trace, ok = exchange.ParseTraceparent(fields[at].Value)
	return at, trace, ok
}
