package mesh

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/internal/launch"
)

// TestMeshUnderChange drives three hosts through their local listeners while a route changes, certificates
// rotate and the controller restarts, once as asked and once killed: no request may fail, and the wire between
// the hosts may hold nothing but QUIC and the bus's TLS. SENNIT_MESH_SECONDS is how long it goes on.
func TestMeshUnderChange(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{Namespaces: true, Record: true, CertificateTTL: turnover, Services: []string{"shop/web", "shop/orders"}})
	s := startShop(m)
	length := seconds(t, 15)
	programs := startPrograms(t, s, length)
	s.underChange(t, length)
	summary := programs.stop(t)
	traffic := m.Recording.Stop()
	t.Logf("%s%swire: %s", s.summary(), summary, traffic)
	for _, fault := range traffic.Faults {
		t.Errorf("between hosts: %s", fault)
	}
}

// TestLoopbackUnderChange is the same without privileges, other programs and the recording.
func TestLoopbackUnderChange(t *testing.T) {
	t.Parallel()
	m := Start(t, Config{CertificateTTL: turnover, Services: []string{"shop/web", "shop/orders"}})
	s := startShop(m)
	s.underChange(t, 8*time.Second)
	t.Log(s.summary())
}

func seconds(t *testing.T, otherwise int) time.Duration {
	value := os.Getenv("SENNIT_MESH_SECONDS")
	if value == "" {
		return time.Duration(otherwise) * time.Second
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 5 {
		t.Fatalf("SENNIT_MESH_SECONDS=%s: want a number of seconds, 5 or more", value)
	}
	return time.Duration(n) * time.Second
}

// A shop is a mesh in which hosts one and three call orders, whose v1 runs on two and v2 on three.
type shop struct {
	*Mesh
	fromOne, fromThree string // listeners
	tallies            map[string]Tally
	changes            int
	rotations          map[string]map[time.Time]bool // ends of a node's certificates that were seen
}

func startShop(m *Mesh) *shop {
	m.Serve("two", Service{Name: "shop/orders", Version: "v1"})
	m.Serve("three", Service{Name: "shop/orders", Version: "v2"})
	s := &shop{Mesh: m, tallies: map[string]Tally{}, rotations: map[string]map[time.Time]bool{}}
	m.MustApply(services)
	m.must("route", s.route(50, 50))
	s.fromOne, s.fromThree = m.Listen("one", "shop/web", "shop/orders:80"), m.Listen("three", "shop/web", "shop/orders:80")
	m.AwaitAnswer("one", s.fromOne, "v1", "v2")
	m.AwaitAnswer("three", s.fromThree, "v1", "v2")
	return s
}

const services = `{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders}, spec: {ports: [{port: 80, appProtocol: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders-v1}, spec: {ports: [{port: 80, appProtocol: http}], selector: {sennit.dev/service: orders, version: v1}}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: orders-v2}, spec: {ports: [{port: 80, appProtocol: http}], selector: {sennit.dev/service: orders, version: v2}}}
`

// route gives v1 and v2 their weights and returns when every node has applied that.
func (s *shop) route(v1, v2 int) error {
	return s.Documents(fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: orders}
spec:
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  rules:
  - backendRefs: [{name: orders-v1, port: 80, weight: %d}, {name: orders-v2, port: 80, weight: %d}]
`, v1, v2))
}

// underChange changes what it can for the given time, and until no certificate of the beginning is left.
func (s *shop) underChange(t *testing.T, length time.Duration) {
	const pace = 5 * time.Millisecond // it goes on for a certificate's life
	loads := map[string]*Load{
		"one":   s.Load(LoadConfig{Node: "one", Address: s.fromOne, Connections: 4, Methods: []string{"GET", "POST"}, Pace: pace}),
		"three": s.Load(LoadConfig{Node: "three", Address: s.fromThree, Connections: 2, Methods: []string{"GET", "GET", "PUT"}, Pace: pace}),
	}
	start := time.Now()
	restarts := []func(){
		func() { s.StopPart(s.Controller()); s.RestartController(); s.allBack() },
		func() { s.crashController(); s.allBack() },
	}
	pause := time.NewTicker(400 * time.Millisecond)
	defer pause.Stop()
	for time.Since(start) < length || !s.outlived() {
		if time.Since(start) > length+s.cfg.CertificateTTL+ready {
			t.Fatalf("certificates were not replaced: %v", s.rotations)
		}
		s.change(t)
		s.seeCertificates(t)
		if done := 2 - len(restarts); len(restarts) > 0 && time.Since(start) > length*time.Duration(done+1)/4 {
			restarts[0]()
			restarts = restarts[1:]
		}
		<-pause.C
	}
	for node, load := range loads {
		got := load.Stop()
		s.tallies[node] = got
		if got.Failed > 0 {
			t.Errorf("from %s: %s\n%s", node, got, strings.Join(got.Failures, "\n"))
		}
		if got.Requests < 100 || got.Answers["v1"] == 0 || got.Answers["v2"] == 0 {
			t.Errorf("from %s: %s: too few to show anything", node, got)
		}
	}
}

// change moves the route on. What is asked behind a change that was waited for goes the new way.
func (s *shop) change(t *testing.T) {
	weights := [][2]int{{100, 0}, {50, 50}, {0, 100}, {20, 80}}[s.changes%4]
	s.must("change the route", s.route(weights[0], weights[1]))
	s.changes++
	want := map[[2]int]string{{100, 0}: "v1", {0, 100}: "v2"}[weights]
	if want == "" {
		return
	}
	for range 5 {
		if _, got, err := s.Get(t.Context(), "one", s.fromOne, "/"); err != nil || got != want {
			t.Errorf("after all weight went to %s: %q, %v", want, got, err)
		}
	}
}

func (s *shop) seeCertificates(t *testing.T) {
	for _, node := range s.cfg.Nodes {
		status, err := s.Status(node)
		if err != nil {
			t.Fatalf("status of %s: %v", node, err)
		}
		for _, c := range status.Certificates {
			if left := time.Until(c.NotAfter); left > s.cfg.CertificateTTL {
				t.Fatalf("certificate of %s lives for another %s", node, left)
			}
			if s.rotations[node] == nil {
				s.rotations[node] = map[time.Time]bool{}
			}
			s.rotations[node][c.NotAfter] = true
		}
	}
}

// outlived reports whether every node has other certificates than at first, and these have ended: whoever still
// used them has been found out.
func (s *shop) outlived() bool {
	for _, node := range s.cfg.Nodes {
		ends := slices.SortedFunc(maps.Keys(s.rotations[node]), time.Time.Compare)
		if len(ends) < 2 || time.Since(ends[0]) < 2*time.Second {
			return false
		}
	}
	return true
}

func (s *shop) summary() string {
	var b strings.Builder
	failed, rotations := 0, 0
	fmt.Fprintln(&b)
	for _, node := range s.cfg.Nodes {
		rotations += len(s.rotations[node]) - 1
		if tally, ok := s.tallies[node]; ok {
			failed += tally.Failed
			fmt.Fprintf(&b, "from %s: %s\n", node, tally)
		}
	}
	fmt.Fprintf(&b, "route changes: %d, certificate rotations: %d on %d nodes, controller restarts: 1 by SIGTERM, 1 by SIGKILL\nfailed requests: %d\n",
		s.changes, rotations, len(s.cfg.Nodes), failed)
	return b.String()
}

// programs are the clients that others wrote: wrk on host one, curl again and again on host three.
type programs struct {
	wrk      *launch.Process
	stopCurl context.CancelFunc
	curl     sync.WaitGroup
	asked    int
	answered int
	said     bytes.Buffer // by curl, of what failed
}

func startPrograms(t *testing.T, s *shop, length time.Duration) *programs {
	p := &programs{}
	if _, err := exec.LookPath("wrk"); err != nil {
		t.Log("wrk is not installed: this run goes without it")
	} else {
		s.Prefix["wrk"] = s.Prefix["one"]
		p.wrk, err = s.Run("wrk", "wrk", "-t1", "-c4", "-d"+strconv.Itoa(int(length.Seconds()))+"s", "--timeout", "15s", "http://"+s.fromOne+"/"+Marker)
		s.must("start wrk", err)
	}
	var ctx context.Context
	ctx, p.stopCurl = context.WithCancel(t.Context())
	t.Cleanup(p.stopCurl)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("curl is not installed: this run goes without it")
		return p
	}
	argv := append(s.network.prefix("three"), "curl", "-sS", "--max-time", "15", "-w", `\nstatus %{http_code}\n`, "http://"+s.fromThree+"/"+Marker+"/[1-20]")
	p.curl.Go(func() {
		for ctx.Err() == nil {
			said, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
			p.asked += 20
			p.answered += bytes.Count(said, []byte("status 200\n"))
			if (err != nil || bytes.Count(said, []byte("status 200\n")) != 20) && p.said.Len() < 4096 {
				fmt.Fprintf(&p.said, "%v: %s\n", err, said)
			}
		}
	})
	return p
}

var wrkTotal = regexp.MustCompile(`(?m)^\s+(\d+) requests in `)

func (p *programs) stop(t *testing.T) string {
	p.stopCurl()
	p.curl.Wait()
	if p.answered != p.asked {
		t.Errorf("curl: %d of %d requests failed: %s", p.asked-p.answered, p.asked, &p.said)
	}
	summary := fmt.Sprintf("curl from three: %d requests, failed requests: %d\n", p.asked, p.asked-p.answered)
	if p.wrk == nil {
		return summary
	}
	<-p.wrk.Done()
	said := p.wrk.Tail(4096)
	total := wrkTotal.FindStringSubmatch(said)
	if err := p.wrk.Err(); err != nil || total == nil || total[1] == "0" || strings.Contains(said, "Non-2xx") || strings.Contains(said, "Socket errors") {
		t.Errorf("wrk: %v\n%s", err, said)
		return summary + "wrk from one: requests failed\n"
	}
	return summary + fmt.Sprintf("wrk from one: %s requests, failed requests: 0\n", total[1])
}
