package http2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// TestOfNetHTTP has net/http's client call our server.
func TestOfNetHTTP(t *testing.T) {
	address := serve(t, Limits{}, echo)
	client := transport(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	for _, tt := range []struct {
		name, method string
		body         []byte
		streamed     bool
	}{
		{"nothing", "GET", nil, false},
		{"a short body", "POST", []byte("hello"), false},
		{"a body of unknown length", "PUT", []byte("hello"), true},
		{"a large body", "POST", large, false},
		{"a large body of unknown length", "POST", large, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var body io.Reader = bytes.NewReader(tt.body)
			if tt.streamed {
				body = struct{ io.Reader }{body}
			}
			if tt.body == nil {
				body = nil
			}
			r, err := http.NewRequest(tt.method, "http://"+address+"/a?b=c", body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-One", "1")
			if tt.streamed {
				r.Trailer = http.Header{"X-Sum": {"42"}}
			}
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.ProtoMajor != 2 || resp.StatusCode != 200 || resp.Header.Get("X-Path") != "/a?b=c" || resp.Header.Get("X-One") != "1" {
				t.Errorf("%v %v", resp.Status, resp.Header)
			}
			if !bytes.Equal(got, tt.body) {
				t.Errorf("%d bytes of body, want %d, and the same", len(got), len(tt.body))
			}
			if tt.streamed && resp.Trailer.Get("X-Sum") != "42" {
				t.Errorf("trailers: %v", resp.Trailer)
			}
			if !tt.streamed && resp.ContentLength != int64(len(tt.body)) {
				t.Errorf("length %d", resp.ContentLength)
			}
		})
	}
}

func TestHeadAndStatuses(t *testing.T) {
	address := serve(t, Limits{}, func(s *ServerStream) {
		switch s.Request().Path {
		case "/head":
			s.WriteResponse(&exchange.Response{Status: 200, BodyLength: 17})
		case "/204":
			s.WriteResponse(&exchange.Response{Status: 204})
		case "/304":
			s.WriteResponse(&exchange.Response{Status: 304, BodyLength: exchange.LengthUnknown, Fields: exchange.Fields{{Name: "ETag", Value: `"x"`}}})
		case "/hints":
			s.WriteInformational(&exchange.Response{Status: 103, Fields: exchange.Fields{{Name: "Link", Value: "</a>"}}})
			s.WriteResponse(&exchange.Response{Status: 599})
		}
		s.Finish()
	})
	client := transport(t)
	for _, tt := range []struct {
		method, path string
		status       int
		length       int64
	}{{"HEAD", "/head", 200, 17}, {"GET", "/204", 204, 0}, {"GET", "/304", 304, 0}, {"GET", "/hints", 599, 0}} {
		r, err := http.NewRequest(tt.method, "http://"+address+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		hints := ""
		r = r.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(_ int, h textproto.MIMEHeader) error { hints = h.Get("Link"); return nil },
		}))
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(tt.path, err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || len(b) > 0 || resp.StatusCode != tt.status || tt.length != 0 && resp.ContentLength != tt.length {
			t.Errorf("%s: %d, length %d, %q, %v", tt.path, resp.StatusCode, resp.ContentLength, b, err)
		}
		if tt.path == "/hints" && hints != "</a>" {
			t.Errorf("early hints: %q", hints)
		}
	}
}

// TestManyAtOnce has net/http's client call with many streams of one connection, some of which it cancels.
func TestManyAtOnce(t *testing.T) {
	address := serve(t, Limits{Streams: 64}, echo)
	client := transport(t)
	var group sync.WaitGroup
	for worker := range 100 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			for i := range 20 {
				body := make([]byte, random.IntN(100<<10))
				for j := range body {
					body[j] = byte(random.Uint32())
				}
				ctx, cancel := context.WithCancel(t.Context())
				r, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://%s/%d/%d", address, worker, i), bytes.NewReader(body))
				if i%7 == 3 {
					go cancel()
				}
				resp, err := client.Do(r)
				if err == nil {
					var got []byte
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					if err == nil && !bytes.Equal(got, body) {
						t.Errorf("worker %d, call %d: other bytes", worker, i)
					}
				}
				cancel()
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("worker %d, call %d: %v", worker, i, err)
				}
			}
		})
	}
	group.Wait()
}

// call makes one exchange.
func call(c *ClientConn, r *exchange.Request, body []byte, trailers exchange.Fields) (status int, fields exchange.Fields, got []byte, trailing exchange.Fields, err error) {
	s, err := c.Open()
	if err != nil {
		return 0, nil, nil, nil, err
	}
	defer s.Release()
	if err := s.WriteRequest(r); err != nil {
		return 0, nil, nil, nil, err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(body)
		if err == nil || r.BodyLength == 0 {
			err = s.WriteTrailers(trailers)
		}
		sent <- err
	}()
	defer func() { <-sent }()
	var resp exchange.Response
	for ok := true; ok; ok = resp.Informational() {
		if err := s.ReadResponse(&resp); err != nil {
			s.Reset(exchange.CallerGone)
			return 0, nil, nil, nil, err
		}
	}
	got, err = io.ReadAll(s.Body())
	if err != nil {
		s.Reset(exchange.CallerGone)
	}
	return resp.Status, append(exchange.Fields(nil), resp.Fields...), got, append(exchange.Fields(nil), s.Body().Trailers()...), err
}

// TestToNetHTTP has our client call net/http's server.
func TestToNetHTTP(t *testing.T) {
	address := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" {
			t.Error("no te: trailers")
		}
		if r.URL.Path == "/hints" {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Host", r.Host)
		w.Header().Set("X-Sent", r.Header.Get("X-Sent"))
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sha256.Sum256(b)))
		w.Header().Set(http.TrailerPrefix+"X-Came", r.Trailer.Get("X-Came"))
	}))
	c := dial(t, address, Limits{})
	for _, size := range []int{0, 1, 1000, 1 << 20} {
		for _, path := range []string{"/", "/hints"} {
			body := bytes.Repeat([]byte("x"), size)
			r := exchange.Request{Method: "POST", Scheme: "http", Authority: "orders.shop", Path: path, BodyLength: exchange.LengthUnknown,
				Fields: exchange.Fields{{Name: "X-Sent", Value: "yes"}, {Name: "Connection", Value: "close"}, {Name: "Trailer", Value: "X-Came"}}}
			status, fields, got, trailers, err := call(c, &r, body, exchange.Fields{{Name: "X-Came", Value: "late"}, {Name: "Host", Value: "no"}})
			if err != nil {
				t.Fatal(err)
			}
			host, _ := fields.Get("x-host")
			sent, _ := fields.Get("x-sent")
			sum, _ := trailers.Get("x-sum")
			came, _ := trailers.Get("x-came")
			if status != 201 || host != "orders.shop" || sent != "yes" || !bytes.Equal(got, body) || came != "late" || sum != fmt.Sprintf("%x", sha256.Sum256(body)) {
				t.Errorf("%d bytes to %s: %d %v, %d bytes, %v", size, path, status, fields, len(got), trailers)
			}
		}
	}
}

// TestBothRoles has our client call our server, with many streams at once.
func TestBothRoles(t *testing.T) {
	c := dial(t, serve(t, Limits{}, echo), Limits{})
	var group sync.WaitGroup
	for worker := range 64 {
		group.Go(func() {
			for i := range 30 {
				body := []byte(strings.Repeat(fmt.Sprint(worker, i), 1+i*i*4))
				r := exchange.Request{Method: "POST", Authority: "orders", Path: fmt.Sprintf("/%d/%d", worker, i), BodyLength: int64(len(body)),
					Fields: exchange.Fields{{Name: "X-Worker", Value: fmt.Sprint(worker)}, {Name: "X-Same", Value: "same"}, {Name: "Authorization", Value: "secret"}}}
				status, fields, got, _, err := call(c, &r, body, nil)
				path, _ := fields.Get("x-path")
				id, _ := fields.Get("x-worker")
				if err != nil || status != 200 || path != r.Path || id != fmt.Sprint(worker) || !bytes.Equal(got, body) {
					t.Errorf("%s: %d %v %v", r.Path, status, fields, err)
				}
			}
		})
	}
	group.Wait()
}
