package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// mirrorRule sends everything to orders, which is also its own mirror: the two get instances in turn.
func mirrorRule() *snapshot.Rule {
	mirror := &snapshot.Backend{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1, Balance: snapshot.Balance_BALANCE_ROUND_ROBIN}
	return &snapshot.Rule{Filters: &snapshot.Filters{Mirrors: []*snapshot.Mirror{{Backend: mirror, Numerator: 1, Denominator: 1}}}}
}

// TestMirror: another instance gets the same request, whatever its body, and its answer changes nothing.
func TestMirror(t *testing.T) {
	got := make(chan string, 100)
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		got <- fmt.Sprint(r.Method, r.URL, " ", r.Header.Get("X-A"), " ", len(body), err)
		io.WriteString(w, "ok")
	})
	p := startPair(t, http11, mirrorRule(), process)
	for _, tt := range []struct {
		name string
		body io.Reader
		want string
	}{
		{"none", nil, "POST/a?b 1 0 <nil>"},
		{"held", strings.NewReader("hello"), "POST/a?b 1 5 <nil>"},
		{"pumped", io.MultiReader(strings.NewReader("hello")), "POST/a?b 1 5 <nil>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := http.NewRequest("POST", "http://orders/a?b", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-A", "1")
			response, err := p.client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || string(answer) != "ok" {
				t.Fatalf("%q, %v", answer, err)
			}
			for range 2 {
				if request := <-got; request != tt.want {
					t.Errorf("got %s, want %s", request, tt.want)
				}
			}
		})
	}
}

// TestMirrorHoldsNothingUp: one that takes nothing does not slow the exchange, and what it has got is no whole request.
func TestMirrorHoldsNothingUp(t *testing.T) {
	const size = 8 << 20 // more than any window, and than the pieces that wait
	answered, read := make(chan struct{}), make(chan error, 1)
	rule := mirrorRule()
	rule.Filters.Mirrors[0].Backend.Port = 81
	p := startCaller(t, http11, rule, func(_ context.Context, s *transport.Stream) {
		var request exchange.Request
		if err := s.ReadRequest(&request); err != nil {
			return
		}
		if request.Target.Port == 81 {
			<-answered
			_, err := io.Copy(io.Discard, s)
			read <- err
			return
		}
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Error(err)
		}
		_ = s.WriteResponse(&exchange.Response{Status: 200})
		_ = s.End()
	})
	response, err := p.client().Post("http://orders/", "", io.LimitReader(zeros{}, size))
	if err != nil || response.StatusCode != 200 {
		t.Fatalf("%v, %v", response, err)
	}
	response.Body.Close()
	close(answered)
	if err := <-read; err == nil {
		t.Error("the mirror takes a part for the whole")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
