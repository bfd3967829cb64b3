package transport

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport/transporttest"
)

var smallRequest = exchange.Request{
	Target: exchange.Target{Port: 80, Instance: "orders-1"}, Method: "GET", Scheme: "http",
	Authority: "orders.shop.mesh.internal", Path: "/orders/4711?full=1",
	Fields: exchange.Fields{
		{Name: "User-Agent", Value: "curl/8.5.0"}, {Name: "Accept", Value: "*/*"}, {Name: "Accept-Encoding", Value: "gzip"},
		{Name: "X-Request-Id", Value: "0a8c5f2e-7a52-4b41-9f43-1f0c2f1de8b7"},
		{Name: "Traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	},
}

var smallResponse = exchange.Response{
	Status: 200, BodyLength: 128,
	Fields: exchange.Fields{
		{Name: "Content-Type", Value: "application/json"}, {Name: "Date", Value: "Mon, 23 Nov 2026 17:00:00 GMT"},
		{Name: "Server", Value: "orders"},
	},
}

// smallServer is a handler that allocates nothing per exchange.
func smallServer() func(context.Context, *Stream) {
	type memory struct {
		req  exchange.Request
		body [128]byte
	}
	pool := sync.Pool{New: func() any { return new(memory) }}
	return func(_ context.Context, s *Stream) {
		m := pool.Get().(*memory)
		defer pool.Put(m)
		if s.ReadRequest(&m.req) != nil {
			return
		}
		if s.WriteResponse(&smallResponse) != nil {
			return
		}
		if _, err := s.Write(m.body[:]); err != nil {
			return
		}
		_ = s.End()
	}
}

// smallExchange is what a proxy does for one small request.
func smallExchange(ctx context.Context, n, to *node, resp *exchange.Response, p []byte) error {
	s, err := n.Open(ctx, toOrder, to.addr, Interactive)
	if err != nil {
		return err
	}
	defer s.Release()
	if err := s.WriteRequest(&smallRequest); err != nil {
		return err
	}
	if err := s.End(); err != nil {
		return err
	}
	if err := s.ReadResponse(resp); err != nil {
		return err
	}
	for {
		if _, err := s.Read(p); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, tt := range []struct {
		name        string
		carrier     Carrier
		concurrency int
	}{{"1", QUIC, 1}, {"64", QUIC, 64}, {"tcp/1", TCP, 1}, {"tcp/64", TCP, 64}} {
		b.Run(tt.name, func(b *testing.B) {
			caller, callee := benchPair(b, tt.carrier, smallServer())
			ctx := context.Background()
			var resp exchange.Response
			if err := smallExchange(ctx, caller, callee, &resp, make([]byte, 512)); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			before := cpuTime(b)
			var wg sync.WaitGroup
			work := make(chan int, tt.concurrency)
			for i := range tt.concurrency {
				work <- b.N/tt.concurrency + (b.N%tt.concurrency+tt.concurrency-1-i)/tt.concurrency
				wg.Go(func() {
					var resp exchange.Response
					p := make([]byte, 512)
					for range <-work {
						if err := smallExchange(ctx, caller, callee, &resp, p); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// benchPair is startPair over a carrier.
func benchPair(b *testing.B, carrier Carrier, serve func(context.Context, *Stream)) (caller, callee *node) {
	a := transporttest.NewAuthority(b)
	callee = startNode(b, a.Wallet(orders), Limits{}, serve)
	return startNodeOver(b, carrier, a.Wallet(cart), Limits{}, nil), callee
}

// cpuTime is what the process has used, in user and kernel: other processes do not disturb it as they do
// the time on the wall.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBulk sends one body in one direction; an operation is a megabyte.
func BenchmarkBulk(b *testing.B) {
	for _, carrier := range []Carrier{QUIC, TCP} {
		b.Run(carrier.String(), func(b *testing.B) { benchmarkBulk(b, carrier) })
	}
}

func benchmarkBulk(b *testing.B, carrier Carrier) {
	caller, callee := benchPair(b, carrier, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if s.ReadRequest(&req) != nil {
			return
		}
		p := make([]byte, 64<<10)
		for {
			if _, err := s.Read(p); err != nil {
				break
			}
		}
		_ = s.WriteResponse(&exchange.Response{Status: 200})
		_ = s.End()
	})
	s, err := caller.Open(context.Background(), toOrder, callee.addr, Bulk)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Release()
	if err := s.WriteRequest(&exchange.Request{Method: "PUT", BodyLength: exchange.LengthUnknown}); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 64<<10)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	for range b.N * 16 {
		if _, err := s.Write(p); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.End(); err != nil {
		b.Fatal(err)
	}
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
