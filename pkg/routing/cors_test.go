package routing

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		pattern, origin string
		want            bool
	}{
		{"*", "https://any.example", true},
		{"https://a.example", "https://a.example", true},
		{"https://a.example", "HTTPS://A.example:443", true},
		{"https://a.example", "http://a.example", false},
		{"https://a.example", "https://a.example:8443", false},
		{"https://a.example", "https://b.a.example", false},
		{"https://a.example", "https://a.example.evil.example", false},
		{"https://*.a.example", "https://b.a.example", true},
		{"https://*.a.example", "https://c.b.a.example", true},
		{"https://*.a.example", "https://a.example", false},
		{"https://*.a.example", "https://evila.example", false},
		{"https://*", "https://any.example", true},
		{"https://*", "http://any.example", false},
		{"http://*.a.example:8080", "http://b.a.example:8080", true},
		{"http://*.a.example:8080", "http://b.a.example", false},
		{"https://a.example", "null", false},
		{"https://a.example", "", false},
	} {
		c := compileCORS(&snapshot.Cors{Origins: []string{tt.pattern}})
		if got := c.allows(tt.origin); got != tt.want {
			t.Errorf("%s, %q: %v", tt.pattern, tt.origin, got)
		}
	}
}

// TestCORS: what a request of another origin is told.
func TestCORS(t *testing.T) {
	named := &snapshot.Cors{Origins: []string{"https://a.example"}, Methods: []string{"GET", "PUT"}, Headers: []string{"x-a", "x-b"}, Expose: []string{"x-c"}, Credentials: true, MaxAgeSeconds: 60}
	all := &snapshot.Cors{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}, MaxAgeSeconds: 5}
	allWithCredentials := &snapshot.Cors{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}, Credentials: true, MaxAgeSeconds: 5}
	for _, tt := range []struct {
		name    string
		cors    *snapshot.Cors
		request string
		want    string
	}{
		{"same origin", named, "GET", ""},
		{"allowed", named, "GET Origin=https://a.example", "Vary=Origin Allow-Origin=https://a.example Allow-Credentials=true Expose-Headers=x-c"},
		{"not allowed", named, "GET Origin=https://b.example", "Vary=Origin"},
		{"preflight", named, "OPTIONS Origin=https://a.example Access-Control-Request-Method=DELETE",
			"204 Vary=Origin Allow-Origin=https://a.example Allow-Credentials=true Expose-Headers=x-c Allow-Methods=GET, PUT Allow-Headers=x-a, x-b Max-Age=60"},
		{"preflight, not allowed", named, "OPTIONS Origin=https://b.example Access-Control-Request-Method=GET", "204 Vary=Origin"},
		{"an OPTIONS that is none", named, "OPTIONS Origin=https://a.example", "Vary=Origin Allow-Origin=https://a.example Allow-Credentials=true Expose-Headers=x-c"},
		{"all", all, "OPTIONS Origin=https://b.example Access-Control-Request-Method=PUT Access-Control-Request-Headers=x-q",
			"204 Vary=Origin Allow-Origin=https://b.example Expose-Headers=* Allow-Methods=PUT Allow-Headers=x-q Max-Age=5"},
		{"all, and nothing asked for", allWithCredentials, "OPTIONS Origin=https://b.example Access-Control-Request-Method=PUT",
			"204 Vary=Origin Allow-Origin=https://b.example Allow-Credentials=true Allow-Methods=PUT Max-Age=5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			words := strings.Fields(tt.request)
			req := get("/")
			req.Method = words[0]
			for _, word := range words[1:] {
				name, value, _ := strings.Cut(word, "=")
				req.Fields = append(req.Fields, exchange.Field{Name: name, Value: value})
			}
			d := filtered(t, &snapshot.Rule{Filters: &snapshot.Filters{Cors: tt.cors}}, req)
			got := ""
			if d.Status != 0 {
				got = fmt.Sprint(d.Status)
			}
			for _, f := range d.Fields {
				got += " " + strings.TrimPrefix(f.Name, "Access-Control-") + "=" + f.Value
			}
			if got = strings.TrimSpace(got); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestOnlyTheRuleSpeaksOfCORS: a service that answers for itself would say everything twice.
func TestOnlyTheRuleSpeaksOfCORS(t *testing.T) {
	d := filtered(t, &snapshot.Rule{Filters: &snapshot.Filters{Cors: &snapshot.Cors{Origins: []string{"https://a.example"}}}},
		get("/", exchange.Field{Name: "Origin", Value: "https://a.example"}))
	response := &exchange.Response{Status: 200, Fields: exchange.Fields{{Name: "access-control-allow-origin", Value: "*"}, {Name: "A", Value: "b"}}}
	d.RewriteResponse(response)
	if got := fmt.Sprint(response.Fields); got != "[{A b} {Vary Origin} {Access-Control-Allow-Origin https://a.example}]" {
		t.Error(got)
	}
}
