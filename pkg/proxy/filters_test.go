package proxy

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestFilters: a rule changes what the service sees and what the application gets, and the log has what was asked.
func TestFilters(t *testing.T) {
	process := startProcess(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Inner", "secret")
		fmt.Fprint(w, r.Host, r.URL.String(), " ", r.Header.Get("X-By"), r.Header["Cookie"])
	})
	p := startPair(t, http11, &snapshot.Rule{
		Match: &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: "/stock"}},
		Filters: &snapshot.Filters{
			Request:   &snapshot.FieldChanges{Set: []*snapshot.Field{{Name: "X-By", Value: "rule"}}, Remove: []string{"Cookie"}},
			Response:  &snapshot.FieldChanges{Add: []*snapshot.Field{{Name: "X-Outer", Value: "1"}}, Remove: []string{"X-Inner"}},
			Authority: "inner.example",
			Path:      &snapshot.PathChange{Prefix: true, Value: "/v2"},
		},
	}, process)
	for range 3 { // everything is used again
		r, err := http.NewRequest("GET", "http://orders/stock/7?q=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Cookie", "a=b")
		response, err := p.client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "inner.example/v2/7?q=1 rule[]" {
			t.Fatalf("%q, %v", body, err)
		}
		if response.Header.Get("X-Outer") != "1" || response.Header.Get("X-Inner") != "" {
			t.Errorf("the application gets %v", response.Header)
		}
	}
	if seen := p.ended(); seen.Path != "/stock/7?q=1" || seen.Host != "orders" {
		t.Errorf("the log has %s%s", seen.Host, seen.Path)
	}
}

// TestRedirect: nobody is asked, and the connection goes on.
func TestRedirect(t *testing.T) {
	p := startPair(t, http11, &snapshot.Rule{Filters: &snapshot.Filters{Redirect: &snapshot.Redirect{Scheme: "https", Hostname: "shop.example", Status: 308}}},
		startProcess(t, func(http.ResponseWriter, *http.Request) { t.Error("the service is asked") }))
	client := p.client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, method := range []string{"GET", "HEAD", "POST"} {
		r, err := http.NewRequest(method, "http://orders/a?b", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != 308 || response.Header.Get("Location") != "https://shop.example/a?b" || response.Header.Get("sennit-reason") != "" {
			t.Errorf("%s: %s %v", method, response.Status, response.Header)
		}
	}
}
