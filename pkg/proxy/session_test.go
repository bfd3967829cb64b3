package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// splitVersions makes services orders-v1 and orders-v2 of the pair's two instances.
func (p *pair) splitVersions() {
	p.tb.Helper()
	addresses := map[string]netip.AddrPort{}
	for len(addresses) < 2 {
		var d routing.Decision
		p.table.Pick(&routing.Call{Caller: cart, Callee: orders, Port: 80, Now: time.Now(), Random: rand.NewPCG(rand.Uint64(), 1)}, &exchange.Request{Method: "GET", Path: "/"}, &d)
		addresses[d.Instance.ID] = d.Instance.Address
		d.Done()
	}
	for service, instance := range map[string]string{"orders-v1": "a", "orders-v2": "b"} {
		shard := &snapshot.Endpoints{Shards: 1, Endpoints: []*snapshot.Endpoint{{Node: instance, Address: addresses[instance].String(), Service: orders.String(), Instance: instance}}}
		if _, err := p.table.Apply(snapshot.EndpointsSubject("shop", service, 0), snapshot.Version{Revision: 1}, shard); err != nil {
			p.tb.Fatal(err)
		}
	}
}

func versionsOf(v1, v2 uint32, session *snapshot.Session) *snapshot.Rule {
	r := &snapshot.Rule{Session: session}
	for service, weight := range map[string]uint32{"orders-v1": v1, "orders-v2": v2} {
		r.Backends = append(r.Backends, &snapshot.Backend{Namespace: "shop", Service: service, Port: 80, Weight: weight, Shards: 1})
	}
	return r
}

// TestSessionsStayWhenWeightsMove wants a weight to move traffic at once, and sessions to stay where they are, for those
// who keep cookies and for those who send a field back.
func TestSessionsStayWhenWeightsMove(t *testing.T) {
	says := func(name string) string {
		return startProcess(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	}
	for _, header := range []bool{false, true} {
		t.Run(fmt.Sprintf("header %v", header), func(t *testing.T) {
			p := startPair(t, http11, nil, says("v1"), says("v2"))
			p.splitVersions()
			session := &snapshot.Session{Name: "sid", Header: header, Key: bytes.Repeat([]byte{1}, 32)}
			p.follow(2, versionsOf(50, 50, session))
			type visitor struct {
				client *http.Client
				token  string
				at     string
			}
			ask := func(v *visitor) string {
				t.Helper()
				request, err := http.NewRequest("GET", "http://orders/", nil)
				if err != nil {
					t.Fatal(err)
				}
				if v.token != "" {
					request.Header.Set("sid", v.token)
				}
				response, err := v.client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				if err != nil || response.StatusCode != 200 {
					t.Fatal(response.Status, err)
				}
				if token := response.Header.Get("sid"); token != "" {
					v.token = token
				}
				return string(body)
			}
			newVisitor := func() *visitor {
				jar, err := cookiejar.New(nil)
				if err != nil {
					t.Fatal(err)
				}
				c := p.client()
				c.Jar = jar
				return &visitor{client: c}
			}
			var visitors []*visitor
			for seen := map[string]bool{}; len(visitors) < 12 || len(seen) < 2; {
				v := newVisitor()
				v.at = ask(v)
				seen[v.at] = true
				visitors = append(visitors, v)
			}
			for revision, weights := range [][2]uint32{{50, 50}, {1, 99}, {0, 100}, {100, 0}} {
				p.follow(uint64(3+revision), versionsOf(weights[0], weights[1], session))
				for _, v := range visitors {
					if got := ask(v); got != v.at {
						t.Fatalf("with weights %v a session went from %s to %s", weights, v.at, got)
					}
				}
				if weights[0] == 0 || weights[1] == 0 {
					want := map[bool]string{true: "v2", false: "v1"}[weights[0] == 0]
					if got := ask(newVisitor()); got != want {
						t.Errorf("with weights %v a new session is at %s", weights, got)
					}
				}
			}
		})
	}
}
