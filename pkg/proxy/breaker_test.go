package proxy

import (
	"io"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestTooManyRequestsAreRefused keeps two requests in the process, of which two are allowed, and sends a third.
func TestTooManyRequestsAreRefused(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/held" {
			arrived <- struct{}{}
			<-answer
		}
		io.WriteString(w, "ok")
	})
	policy := &snapshot.Resilience{Origin: "shop/p", CircuitBreaker: &snapshot.CircuitBreaker{MaxRequests: 2}}
	p := startPair(t, http11, withPolicy(retryOf(3, 503), policy), process, process)
	client := p.client()
	get := func(path string) (*http.Response, error) {
		response, err := client.Get("http://orders" + path)
		if err == nil {
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		return response, err
	}
	statuses := make(chan int, 2)
	for range 2 {
		go func() {
			response, err := get("/held")
			if err != nil {
				t.Error(err)
				statuses <- 0
				return
			}
			statuses <- response.StatusCode
		}()
		<-arrived
	}
	response, err := get("/")
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 503 || response.Header.Get("sennit-reason") != string(exchange.CircuitOpen) {
		t.Errorf("the third: %s, %q", response.Status, response.Header.Get("sennit-reason"))
	}
	if o := p.ended(); o.Outcome.Reason != exchange.CircuitOpen || o.Attempts != 0 {
		t.Errorf("observed as %+v after %d attempts", o.Outcome, o.Attempts)
	}
	close(answer)
	for range 2 {
		if status := <-statuses; status != 200 {
			t.Errorf("one of the first two: %d", status)
		}
	}
	// The last byte of an answer may be there before its exchange has ended.
	for response.StatusCode == 503 {
		if response, err = get("/"); err != nil {
			t.Fatal(err)
		}
	}
	if response.StatusCode != 200 {
		t.Errorf("after the first two: %s", response.Status)
	}
}
