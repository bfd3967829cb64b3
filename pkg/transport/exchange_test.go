package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func TestExchangeBothWays(t *testing.T) { overBoth(t, testExchangeBothWays) }

func testExchangeBothWays(t carried) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // 320 KB: several frames and windows
	request := exchange.Request{
		Target: exchange.Target{Port: 80, Instance: "orders-1"}, Method: "PROPFIND", Scheme: "https",
		Authority: "orders.shop:80", Path: "/a?b=%20c",
		Fields:         exchange.Fields{{Name: "User-Agent", Value: "test"}, {Name: "content-type", Value: "text/plain"}, {Name: "X-Own", Value: ""}},
		BodyLength:     exchange.LengthUnknown,
		ExpectContinue: true,
	}
	requestTrailers := exchange.Fields{{Name: "X-Sum", Value: "1"}}
	response := exchange.Response{Status: 207, BodyLength: int64(len(body)), Fields: exchange.Fields{{Name: "Vary", Value: "Accept-Encoding"}}}
	responseTrailers := exchange.Fields{{Name: "grpc-status", Value: "0"}}

	served := make(chan error, 8)
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		served <- func() error {
			if s.Peer() != cart || s.Local() != orders {
				t.Errorf("identities %v and %v", s.Peer(), s.Local())
			}
			var req exchange.Request
			if err := s.ReadRequest(&req); err != nil {
				return err
			}
			if err := s.WriteInformational(&exchange.Response{Status: 100}); err != nil {
				return err
			}
			got, err := io.ReadAll(s)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, body) {
				t.Errorf("request body of %d bytes arrived as %d others", len(body), len(got))
			}
			if diff := cmp.Diff(request, req); diff != "" {
				t.Errorf("request changed on the way, while its body was read:\n%s", diff)
			}
			if diff := cmp.Diff(requestTrailers, s.Trailers()); diff != "" {
				t.Error(diff)
			}
			if err := s.WriteInformational(&exchange.Response{Status: 103, BodyLength: exchange.LengthUnknown, Fields: exchange.Fields{{Name: "Link", Value: "</a>"}}}); err != nil {
				return err
			}
			if err := s.WriteResponse(&response); err != nil {
				return err
			}
			if _, err := s.Write(got); err != nil {
				return err
			}
			if err := s.WriteTrailers(responseTrailers); err != nil {
				return err
			}
			return s.End()
		}()
	})
	ctx := testContext(t)
	var first *Stream
	for range 3 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = s
		} else if s != first {
			t.Error("a stream whose exchange was complete is not used again")
		}
		if s.Peer() != orders || s.Local() != cart {
			t.Errorf("identities %v and %v", s.Peer(), s.Local())
		}
		var resp exchange.Response
		step := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		step(s.WriteRequest(&request))
		step(s.Flush())
		step(s.ReadResponse(&resp))
		if resp.Status != 100 {
			t.Fatalf("first head has status %d", resp.Status)
		}
		_, err = s.Write(body)
		step(err)
		step(s.WriteTrailers(requestTrailers))
		step(s.End())
		step(s.ReadResponse(&resp))
		if resp.Status != 103 {
			t.Fatalf("second head has status %d", resp.Status)
		}
		step(s.ReadResponse(&resp))
		got, err := io.ReadAll(s)
		step(err)
		if !bytes.Equal(got, body) {
			t.Error("response body changed on the way")
		}
		if diff := cmp.Diff(response, resp); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(responseTrailers, s.Trailers()); diff != "" {
			t.Error(diff)
		}
		step(<-served)
		s.Release()
	}
}

func TestLargeHeads(t *testing.T) { overBoth(t, testLargeHeads) }

func testLargeHeads(t carried) {
	large := strings.Repeat("x", 60_000)
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if err := s.ReadRequest(&req); err != nil {
			t.Error(err)
			return
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Error(err)
		}
		if v, _ := req.Fields.Get("x-large"); v != large {
			t.Error("a large field changed while the body was read")
		}
		if v, _ := s.Trailers().Get("x-large"); v != large {
			t.Error("a large trailer changed on the way")
		}
		_ = s.WriteResponse(&exchange.Response{Status: 200, Fields: req.Fields, BodyLength: exchange.LengthUnknown})
		_ = s.WriteTrailers(req.Fields)
		_ = s.End()
	})
	ctx := testContext(t)
	fields := exchange.Fields{{Name: "X-Large", Value: large}}
	for range 2 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.WriteRequest(&exchange.Request{Method: "POST", Fields: fields, BodyLength: exchange.LengthUnknown}); err != nil {
			t.Fatal(err)
		}
		_, _ = s.Write([]byte("body"))
		if err := errors.Join(s.WriteTrailers(fields), s.End()); err != nil {
			t.Fatal(err)
		}
		var resp exchange.Response
		if err := s.ReadResponse(&resp); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Fatal(err)
		}
		if v, _ := s.Trailers().Get("x-large"); v != large {
			t.Error("a large trailer changed on the way back")
		}
		s.Release()
	}
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	fields[0].Value = strings.Repeat("x", 70_000)
	if err := s.WriteRequest(&exchange.Request{Method: "GET", Fields: fields}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a head over the limit: %v", err)
	}
}

func TestUpgrade(t *testing.T) { overBoth(t, testUpgrade) }

func testUpgrade(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if err := s.ReadRequest(&req); err != nil || req.Upgrade != "websocket" {
			t.Errorf("upgrade %q, %v", req.Upgrade, err)
			return
		}
		_ = s.WriteResponse(&exchange.Response{Status: 101, Upgrade: req.Upgrade})
		_ = s.Flush()
		p := make([]byte, 100)
		for {
			n, err := s.Read(p)
			if err != nil {
				break
			}
			_, _ = s.Write(bytes.ToUpper(p[:n]))
			_ = s.Flush()
		}
		_ = s.End()
	})
	ctx := testContext(t)
	s, err := caller.Open(ctx, toOrder, callee.addr, Interactive)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	if err := errors.Join(s.WriteRequest(&exchange.Request{Method: "GET", Upgrade: "websocket"}), s.Flush()); err != nil {
		t.Fatal(err)
	}
	var resp exchange.Response
	if err := s.ReadResponse(&resp); err != nil || resp.Status != 101 || resp.Upgrade != "websocket" {
		t.Fatalf("response %+v, %v", resp, err)
	}
	p := make([]byte, 100)
	for _, word := range []string{"one", "two"} {
		_, _ = s.Write([]byte(word))
		_ = s.Flush()
		n, err := s.Read(p)
		if err != nil || string(p[:n]) != strings.ToUpper(word) {
			t.Fatalf("%q came back as %q, %v", word, p[:n], err)
		}
	}
	if err := s.End(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(p); !errors.Is(err, io.EOF) {
		t.Errorf("after both ends: %v", err)
	}
}

func TestTCPHalfClose(t *testing.T) { overBoth(t, testTCPHalfClose) }

func testTCPHalfClose(t carried) {
	caller, callee := startPair(t, Limits{}, func(_ context.Context, s *Stream) {
		var req exchange.Request
		if err := s.ReadRequest(&req); err != nil || req.Kind != exchange.TCP || req.Target.Port != 5432 {
			t.Errorf("request %+v, %v", req, err)
			return
		}
		all, err := io.ReadAll(s) // ends by the caller's half-close
		if err != nil {
			t.Error(err)
		}
		_, _ = s.Write(bytes.ToUpper(all))
		_ = s.CloseWrite()
	})
	ctx := testContext(t)
	var first *Stream
	for range 2 {
		s, err := caller.Open(ctx, toOrder, callee.addr, Bulk)
		if err != nil {
			t.Fatal(err)
		}
		if s == first {
			t.Error("the stream of a TCP exchange is used again")
		}
		first = s
		if err := s.WriteRequest(&exchange.Request{Kind: exchange.TCP, Target: exchange.Target{Port: 5432}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("select 1")); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(s)
		if err != nil || string(all) != "SELECT 1" {
			t.Errorf("read %q, %v", all, err)
		}
		s.Release()
	}
}
