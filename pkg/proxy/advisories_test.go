package proxy

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sennit-mesh/sennit/internal/grammar"
	"github.com/sennit-mesh/sennit/pkg/authn"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An advisory is a way that once led around a rule of another proxy, mesh or server, as bytes that an attacker sends.
type advisory struct {
	id       string // CVE, or what it is where it has none; those of one mistake together
	product  string
	policies []*snapshot.AuthorizationPolicy // that the service's node goes by
	users    *snapshot.Authentication        // nil: nobody asks
	http1    string                          // a request; empty: HTTP/1.1 has no such thing
	http2    string                          // a head, a field a line; empty: HTTP/2 has no such thing
	answer   string                          // the status of both, or
	answer2  string                          // of HTTP/2, or the code of the reset
	heard    string                          // what the process got; empty: nothing
	host     bool                            // it is about the host: a gateway takes its own alone
}

// get1 and get2 are a GET with more fields, a line each.
func get1(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: orders\r\n" + strings.Join(append(fields, "", ""), "\r\n")
}

func get2(path string, fields ...string) string {
	return head2(":method: GET", append([]string{":scheme: http", ":authority: orders", ":path: " + path}, fields...)...)
}

func head2(first string, more ...string) string {
	return strings.Join(append([]string{first}, more...), "\n")
}

func denying(o *snapshot.AuthorizationOperation) []*snapshot.AuthorizationPolicy {
	return []*snapshot.AuthorizationPolicy{{Origin: "shop/p", Deny: true, Rules: []*snapshot.AuthorizationRule{{To: []*snapshot.AuthorizationOperation{o}}}}}
}

func letting(o *snapshot.AuthorizationOperation) []*snapshot.AuthorizationPolicy {
	all := denying(o)
	all[0].Deny = false
	return all
}

func headed(name, value string) *snapshot.AuthorizationOperation {
	return &snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: name, Value: value}}}
}

// TestAdvisories sends what others had advisories about, through a caller's node and through a gateway, over lanes, to a
// service's node and processes of both versions of HTTP. docs/reference/authorization.md lists them.
func TestAdvisories(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	process := serveBoth(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		heard := []string{r.Method, r.RequestURI}
		for name, values := range r.Header { // as a program takes them that puts fields into variables
			if grammar.SameName(name, "x-user") {
				heard = append(heard, values...)
			}
		}
		for _, values := range r.Trailer {
			heard = append(heard, values...)
		}
		mu.Lock()
		got = append(got, strings.Join(heard, " "))
		mu.Unlock()
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/admin", http.StatusSeeOther)
		}
	})
	one := newIssuer(t)
	for to, places := range map[string]Places{"HTTP/1.1": oneProcess(process), "HTTP/2": http2Process(process)} {
		inbound := NewInbound(places, pairLimits, slog.New(slog.DiscardHandler))
		access, users := new(ruled), new(oneUsers)
		inbound.Access, inbound.Users = access, users
		run(t, inbound.Run)
		p := startCaller(t, snapshot.Protocol_PROTOCOL_HTTP2, nil, inbound.Serve)
		p.access = access
		gateway := p.gateway(t)
		for _, a := range advisories(one, one.token(t)) {
			p.restrict(a.policies...)
			policy, err := authn.Compile(a.users, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			users.policy.Store(policy)
			for by, address := range map[string]string{"a node": p.address, "a gateway": gateway} {
				if by == "a gateway" && a.host {
					continue
				}
				host := strings.NewReplacer("orders", map[string]string{"a node": "orders", "a gateway": "shop.example"}[by])
				for version, ask := range map[string]func() (answer, want string){
					"HTTP/1.1": func() (string, string) { return firstAnswer(t, address, host.Replace(a.http1)), a.answer },
					"HTTP/2": func() (string, string) {
						return firstAnswer2(t, address, host.Replace(a.http2)), cmp.Or(a.answer2, a.answer)
					},
				} {
					if version == "HTTP/1.1" && a.http1 == "" || version == "HTTP/2" && a.http2 == "" {
						continue
					}
					mu.Lock()
					got = nil
					mu.Unlock()
					answer, want := ask()
					mu.Lock()
					heard := strings.Join(got, " | ")
					mu.Unlock()
					if answer != want || heard != a.heard {
						t.Errorf("%s (%s) by %s through %s to %s: %s, want %s; the process got %q, want %q", a.id, a.product, version, by, to, answer, want, heard, a.heard)
					}
				}
			}
		}
	}
}

// TestAdvisoriesAreListed: what the reference says that is sent is sent.
func TestAdvisoriesAreListed(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), "## Ways around that are known")
	list, _, _ = strings.Cut(list, "\n## ")
	sent := ""
	for _, name := range []string{"advisories_test.go", "advisorylist_test.go", "websocket_test.go"} {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sent += string(source)
	}
	ids := regexp.MustCompile(`(CVE|GHSA)-[0-9a-z-]+`)
	said := ids.FindAllString(list, -1)
	if len(said) < 40 {
		t.Fatalf("the page lists %d", len(said))
	}
	for _, id := range said {
		if !strings.Contains(sent, id) {
			t.Errorf("%s is listed, and nothing is sent", id)
		}
	}
	one := newIssuer(t)
	for _, a := range advisories(one, one.token(t)) {
		for _, id := range ids.FindAllString(a.id, -1) {
			if !slices.Contains(said, id) {
				t.Errorf("%s is sent, and not listed", id)
			}
		}
	}
}

// firstAnswer is the status that bytes are answered with.
func firstAnswer(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return fmt.Sprint(response.StatusCode)
}

// firstAnswer2 is that of a head, or how its stream was reset. A line that begins with "+" is a trailer.
func firstAnswer2(t *testing.T, address, head string) string {
	t.Helper()
	c := dialOutside2(t, address)
	defer c.conn.Close()
	block := func(lines []string) []byte {
		c.block.Reset()
		for _, line := range lines {
			at := strings.Index(line[1:], ": ") + 1
			c.hpack.WriteField(hpack.HeaderField{Name: line[:at], Value: line[at+2:]})
		}
		return c.block.Bytes()
	}
	lines, trailers, has := strings.Cut(head, "\n+")
	c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block(strings.Split(lines, "\n")), EndHeaders: true, EndStream: !has})
	if has {
		c.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block([]string{trailers}), EndHeaders: true, EndStream: true})
	}
	status, _, _ := strings.Cut(c.answer(1), " ")
	return status
}

// TestNothingPassesBeforeATunnelIsThere (CVE-2025-64763, CVE-2026-73548): what a caller sends behind a request for a tunnel,
// or for another protocol, waits for the answer. Refused, it is no request to the process: it is read where it was sent.
func TestNothingPassesBeforeATunnelIsThere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, request, answers string }{
		{"a tunnel", "CONNECT host.example:443 HTTP/1.1\r\nHost: host.example:443\r\n\r\n", "405 404"},
		{"another protocol", "GET /public HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: else\r\n\r\n", "200 403"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			behind := make(chan string, 4)
			address := rawProcess(t, func(conn *net.TCPConn, r *bufio.Reader) {
				first, _ := r.ReadString('\n')
				readHead(r)
				status := "200 OK"
				if strings.HasPrefix(first, "CONNECT") {
					status = "405 Method Not Allowed"
				}
				fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
				rest, _ := io.ReadAll(r)
				behind <- string(rest)
			})
			place := Place{Process: netip.MustParseAddrPort(address), Connect: true}
			inbound := NewInbound(forwardProxy(place), pairLimits, slog.New(slog.DiscardHandler))
			inbound.Access = new(ruled)
			run(t, inbound.Run)
			rule := &snapshot.Rule{}
			if strings.HasPrefix(tt.request, "CONNECT") {
				rule.Match = &snapshot.Match{Method: "CONNECT"}
			}
			p := startCaller(t, http11, rule, inbound.Serve)
			p.access = inbound.Access.(*ruled)
			p.restrict(denying(pathsOf("/admin"))...)
			if strings.HasPrefix(tt.request, "CONNECT") {
				p.restrict()
			}
			conn := p.dial()
			io.WriteString(conn, tt.request+"GET /admin HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
			r, answers := bufio.NewReader(conn), []string{}
			for {
				response, err := http.ReadResponse(r, nil)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, response.Body)
				answers = append(answers, fmt.Sprint(response.StatusCode))
			}
			if got := strings.Join(answers, " "); got != tt.answers {
				t.Errorf("answered with %s, want %s", got, tt.answers)
			}
			p.drain()
			inbound.upstreams.sweep(time.Time{})
			if got := <-behind; got != "" {
				t.Errorf("the process got %q behind the request", got)
			}
		})
	}
}

// TestAdvisoriesAboutRoutes has a gateway whose rule for /in asks who the end user is, one that replaces /public, and one for
// the rest that asks nobody: what a process may take for /in is not the rest's (CVE-2026-73511, CVE-2026-73551), and what is
// left of a path is none that leads out of what it is put behind (CVE-2026-40912, CVE-2026-48020).
func TestAdvisoriesAboutRoutes(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 2)
	p := startPair(t, snapshot.Protocol_PROTOCOL_HTTP, nil, startProcess(t, func(_ http.ResponseWriter, r *http.Request) { heard <- r.RequestURI }))
	gateway := p.gateway(t)
	backend := []*snapshot.Backend{{Namespace: "shop", Service: "orders", Port: 80, Weight: 1, Shards: 1}}
	prefix := func(path string) *snapshot.Match {
		return &snapshot.Match{Path: &snapshot.StringMatch{Kind: snapshot.StringMatch_PREFIX, Value: path}}
	}
	_, err := p.table.Apply(snapshot.InSubject("shop", "cart"), snapshot.Version{Revision: 2}, &snapshot.Inbound{Ingress: &snapshot.Ingress{
		Listeners:       []*snapshot.IngressListener{{Name: "http", Port: 80, Hosts: []*snapshot.IngressHost{{Hostname: "shop.example", Rules: []uint32{0, 1, 2}}}}},
		Authentications: []*snapshot.Authentication{newIssuer(t).policy}, Rules: []*snapshot.Rule{
			{Origin: "httproute/shop/in#0/0", Backends: backend, Match: prefix("/in"), Authentication: 1},
			{Origin: "httproute/shop/public#0/0", Backends: backend, Match: prefix("/public"), Filters: &snapshot.Filters{Path: &snapshot.PathChange{Value: "/v2", Prefix: true}}},
			{Origin: "httproute/shop/rest#0/0", Backends: backend, Match: prefix("/")},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/in": "401", "/%69n": "401", "/in/a;b": "401", "/in?a": "401",
		"/in;a=b": "400", "/in;a=b/x": "400", "/x/..;/in": "400", "/x/..;a=b/in": "400", "/x/%2e%2e;/in": "400", "/x/..%3b/in": "400",
		"/in%3Fa": "400", "/in%23a": "400", "/in%00": "400", "//in": "400", "/x/../in": "400", "/x%2f..%2fin": "400", "/.;/in": "400",
		"/public/..;/in": "400", "/public/../in": "400", "/public/..%2fin": "400", "/public;a/in": "400", "/public/a/..;/b": "400",
		"/public/a;b=c/d": "200 /v2/a;b=c/d", "/x/a;b=c": "200 /x/a;b=c", "/x": "200 /x",
	} {
		for version, answer := range map[string]string{
			"HTTP/1.1": firstAnswer(t, gateway, "GET "+path+" HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
			"HTTP/2":   firstAnswer2(t, gateway, head2(":method: GET", ":scheme: http", ":authority: shop.example", ":path: "+path)),
		} {
			if answer == "200" {
				answer += " " + <-heard
			}
			if answer != want {
				t.Errorf("%s by %s: %s, want %s", path, version, answer, want)
			}
		}
	}
}
