package http2

import (
	"bytes"
	"io"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// BenchmarkExchange is one unary exchange of both roles, over a connection of the kernel's.
func BenchmarkExchange(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 100)
	c := dial(b, serve(b, Limits{}, func(s *ServerStream) {
		var room [256]byte
		n, _ := io.ReadFull(s.Body(), room[:])
		s.WriteResponse(&exchange.Response{Status: 200, Fields: s.Request().Fields, BodyLength: exchange.LengthUnknown})
		s.Write(room[:n])
		s.WriteTrailers(exchange.Fields{{Name: "grpc-status", Value: "0"}})
	}), Limits{})
	r := exchange.Request{Method: "POST", Authority: "orders", Path: "/shop.Orders/Get", BodyLength: exchange.LengthUnknown,
		Fields: exchange.Fields{{Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "bench"}}}
	var resp exchange.Response
	room := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		s, err := c.Open()
		if err != nil {
			b.Fatal(err)
		}
		s.WriteRequest(&r)
		s.Write(body)
		s.Finish()
		if err := s.ReadResponse(&resp); err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := s.Body().Read(room); err != nil {
				break
			}
		}
		s.Release()
	}
}
