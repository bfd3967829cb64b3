package telemetry

import (
	"context"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// An Access is one exchange for the access log. Its strings are read before Log returns.
type Access struct {
	Start    time.Time
	Sample   Sample
	Inbound  bool // seen by the callee's node
	Edge     Edge
	Instance string
	Peer     string // the address of the other node; empty where none was reached
	Method   string
	Path     string // with or without the query, which is never logged: it may hold secrets
	Host     string // as the caller named it
	Rule     string // that routing applied
	Fault    string // what faults did to it, as "shop/slow/delay:delay"; empty: nothing
	Lane     string // "quic" or "tcp"; empty where no lane was used
	Trace    exchange.Trace
}

// AccessLogConfig is what an AccessLog needs.
type AccessLogConfig struct {
	Node  string
	To    io.Writer
	Share float64 // of the exchanges without failure that are logged, from 0 to 1; failures always are
	Queue int     // lines that wait; 0: 1,024
}

// An AccessLog writes lines of JSON. Names of fields are OpenTelemetry's where it has them. It never makes
// an exchange wait: a line that finds the queue full is dropped and counted.
type AccessLog struct {
	cfg     AccessLogConfig
	queue   chan *[]byte
	free    sync.Pool
	dropped atomic.Uint64
	failed  atomic.Uint64
}

// NewAccessLog returns a log; Run writes it.
func NewAccessLog(cfg AccessLogConfig) *AccessLog {
	if cfg.Queue <= 0 {
		cfg.Queue = 1024
	}
	return &AccessLog{cfg: cfg, queue: make(chan *[]byte, cfg.Queue), free: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}}
}

// Log takes one exchange in, if it failed or is one of the sample. It does not block.
func (l *AccessLog) Log(a *Access) {
	if !a.Sample.Failed() && a.Sample.Outcome.Reason == exchange.Completed && (l.cfg.Share <= 0 || l.cfg.Share < 1 && rand.Float64() >= l.cfg.Share) {
		return
	}
	if len(l.queue) == cap(l.queue) { // spares the encoding; the send below decides
		l.dropped.Add(1)
		return
	}
	line := l.free.Get().(*[]byte)
	*line = l.encode((*line)[:0], a)
	select {
	case l.queue <- line:
	default:
		l.dropped.Add(1)
		l.free.Put(line)
	}
}

// Dropped returns how many lines found the queue full, and how many could not be written.
func (l *AccessLog) Dropped() (full, unwritten uint64) { return l.dropped.Load(), l.failed.Load() }

// Run writes until ctx ends, and then what still waits. After lines were dropped it writes one that says how
// many.
func (l *AccessLog) Run(ctx context.Context) error {
	told := uint64(0)
	write := func(line *[]byte) {
		if _, err := l.cfg.To.Write(*line); err != nil {
			l.failed.Add(1) // a full disk must not stop traffic; the count is a metric
		}
		l.free.Put(line)
		if dropped := l.dropped.Load(); dropped != told && len(l.queue) == 0 {
			note := append(time.Now().UTC().AppendFormat([]byte(`{"time":"`), time.RFC3339Nano), `","sennit.dropped":`...)
			note = append(strconv.AppendUint(note, dropped-told, 10), "}\n"...)
			if _, err := l.cfg.To.Write(note); err == nil {
				told = dropped
			}
		}
	}
	for {
		select {
		case line := <-l.queue:
			write(line)
		case <-ctx.Done():
			for {
				select {
				case line := <-l.queue:
					write(line)
				default:
					return ctx.Err()
				}
			}
		}
	}
}

func (l *AccessLog) encode(b []byte, a *Access) []byte {
	b = append(b, `{"time":"`...)
	b = a.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	direction := "outbound"
	if a.Inbound {
		direction = "inbound"
	}
	b = field(b, "sennit.direction", direction)
	b = field(b, "sennit.node", l.cfg.Node)
	b = serviceField(b, "sennit.caller", a.Edge.Caller)
	b = serviceField(b, "sennit.callee", a.Edge.Callee)
	b = serviceField(b, "sennit.backend", a.Edge.Backend)
	b = field(b, "sennit.version", a.Edge.Version)
	b = field(b, "sennit.instance", a.Instance)
	b = field(b, "sennit.peer.node", a.Edge.Node)
	b = field(b, "network.peer.address", a.Peer)
	b = field(b, "network.protocol.name", a.Edge.Protocol.String())
	b = field(b, "http.request.method", a.Method)
	b = field(b, "server.address", a.Host)
	b = field(b, "url.path", withoutQuery(a.Path))
	b = field(b, "sennit.rule", a.Rule)
	b = field(b, "sennit.lane", a.Lane)
	b = field(b, "sennit.fault", a.Fault)
	if status := a.Sample.Outcome.Status; status != 0 {
		b = number(b, "http.response.status_code", uint64(max(status, 0)))
	}
	switch reason := a.Sample.Outcome.Reason; {
	case reason != exchange.Completed:
		b = field(b, "error.type", string(reason))
	case a.Sample.Failed():
		b = append(b, `,"error.type":"`...)
		b = append(strconv.AppendInt(b, int64(a.Sample.Outcome.Status), 10), '"')
	}
	b = appendTrace(b, &a.Trace)
	b = number(b, "http.request.body.size", a.Sample.BytesSent)
	b = number(b, "http.response.body.size", a.Sample.BytesReceived)
	b = append(b, `,"sennit.duration":`...) // seconds
	b = strconv.AppendFloat(b, a.Sample.Duration.Seconds(), 'f', 6, 64)
	return append(b, "}\n"...)
}

func withoutQuery(path string) string {
	for i := range len(path) {
		if path[i] == '?' {
			return path[:i]
		}
	}
	return path
}

func serviceField(b []byte, name string, s exchange.ServiceName) []byte {
	if s.IsZero() {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), '"', ':', '"')
	b = appendEscaped(b, s.Namespace)
	b = append(b, '/')
	b = appendEscaped(b, s.Name)
	return append(b, '"')
}

func number(b []byte, name string, n uint64) []byte {
	b = append(append(append(b, ',', '"'), name...), '"', ':')
	return strconv.AppendUint(b, n, 10)
}

// maxValue bounds what a caller can put into one field of a line.
const maxValue = 1024

// field appends a field unless it is empty.
func field(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(append(append(b, ',', '"'), name...), '"', ':', '"')
	b = appendEscaped(b, value[:min(len(value), maxValue)])
	return append(b, '"')
}

// appendEscaped appends s as the inside of a JSON string (RFC 8259 §7); what is not UTF-8 becomes U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += size
	}
	return b
}
