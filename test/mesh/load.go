package mesh

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Load sends requests to a listener over several connections until it is stopped, and counts each one. It is
// no browser: what fails is not sent again, and a connection that ends unannounced fails a request.
type Load struct {
	stop        context.CancelFunc
	group       sync.WaitGroup
	connections atomic.Int64 // opened: no two requests have the same path

	mu    sync.Mutex
	total Tally
}

// A Tally is what became of the requests of a Load.
type Tally struct {
	Requests int            // sent
	Failed   int            // not answered with 200, a whole body, and as this very request
	Failures []string       // of the first of these
	Answers  map[string]int // by body
}

func (t Tally) String() string {
	var answers strings.Builder
	for _, body := range slices.Sorted(maps.Keys(t.Answers)) {
		fmt.Fprintf(&answers, ", %d by %.20q", t.Answers[body], body)
	}
	return fmt.Sprintf("%d requests%s, failed requests: %d", t.Requests, answers.String(), t.Failed)
}

// A LoadConfig says what a Load sends.
type LoadConfig struct {
	Node, Address string // where from, and to which listener
	Host          string // empty: Address
	Connections   int
	// Methods of the requests, in turn; none: GET. Others than GET have a body.
	Methods []string
	Pace    time.Duration // between two requests of a connection; 0: 2 ms
	// PerConnection is after how many requests a connection is closed and another opened; 0: 100.
	PerConnection int
}

// slowPace is for a load that goes on for long while the test waits.
const slowPace = 20 * time.Millisecond

// Load begins to send.
func (m *Mesh) Load(cfg LoadConfig) *Load {
	if len(cfg.Methods) == 0 {
		cfg.Methods = []string{http.MethodGet}
	}
	if cfg.Host == "" {
		cfg.Host = cfg.Address
	}
	if cfg.Pace == 0 {
		cfg.Pace = 2 * time.Millisecond
	}
	if cfg.PerConnection == 0 {
		cfg.PerConnection = 100
	}
	ctx, stop := context.WithCancel(m.t.Context())
	l := &Load{stop: stop, total: Tally{Answers: map[string]int{}}}
	dial := func() (net.Conn, error) { return m.Dial(m.t.Context(), cfg.Node, cfg.Address) }
	for range cfg.Connections {
		l.group.Go(func() {
			for ctx.Err() == nil {
				l.connection(ctx, dial, &cfg)
			}
		})
	}
	return l
}

// Stop ends the load after the requests that run and returns what became of all.
func (l *Load) Stop() Tally {
	l.stop()
	l.group.Wait()
	return l.So()
}

// So is the tally so far.
func (l *Load) So() Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.total
	t.Failures, t.Answers = slices.Clone(t.Failures), maps.Clone(t.Answers)
	return t
}

// anyAnswer stands for answers of any body in AwaitAnswers.
const anyAnswer = ""

// AwaitAnswers waits until so many more requests of a load were answered with a body than were by now.
func (m *Mesh) AwaitAnswers(l *Load, what, body string, more int) {
	m.t.Helper()
	of := func(t Tally) int {
		if body == anyAnswer {
			return t.Requests
		}
		return t.Answers[body]
	}
	from := of(l.So())
	m.Eventually(what, func(context.Context) error {
		if so := l.So(); of(so) < from+more {
			return fmt.Errorf("%s", so)
		}
		return nil
	})
}

// connection sends requests over one connection until it has sent its share, fails, or ctx ends.
func (l *Load) connection(ctx context.Context, dial func() (net.Conn, error), cfg *LoadConfig) {
	tick := time.NewTicker(cfg.Pace)
	defer tick.Stop()
	conn, err := dial()
	if err != nil {
		l.count("", fmt.Errorf("dial: %w", err))
		<-tick.C
		return
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	number := l.connections.Add(1)
	for i := range cfg.PerConnection {
		method := cfg.Methods[i%len(cfg.Methods)]
		answer, keep, err := exchange(conn, reader, method, cfg.Host, fmt.Sprintf("/%s/%d/%d", Marker, number, i), i)
		l.count(answer, err)
		if err != nil || !keep {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// patience is how long a request may take before it counts as failed.
const patience = 15 * time.Second

func exchange(conn net.Conn, reader *bufio.Reader, method, host, path string, n int) (answer string, keep bool, err error) {
	sent := time.Now()
	conn.SetDeadline(sent.Add(patience))
	body := ""
	if method != http.MethodGet {
		body = strings.Repeat("0123456789", 1+n%50)
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", method, path, host, len(body), body); err != nil {
		return "", false, fmt.Errorf("%s: send: %w", method, err)
	}
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		return "", false, fmt.Errorf("%s, request %d of its connection, after %s: %w", method, n, time.Since(sent), err)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", false, fmt.Errorf("%s: body: %w", method, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", false, fmt.Errorf("%s: %s, reason %q, after %s", method, response.Status, response.Header.Get("Sennit-Reason"), time.Since(sent))
	}
	if of, want := response.Header.Get(answerTo), requestIs(method, path, int64(len(body))); of != want {
		return "", false, fmt.Errorf("%s is answered with the answer to %q", want, of)
	}
	return string(text), !response.Close, nil
}

// answerTo is the field in which a Service says which request it answers, so that no answer passes for another's.
const answerTo = "Answer-To"

// requestIs names a request there.
func requestIs(method, path string, length int64) string {
	return fmt.Sprintf("%s %s %d", method, path, length)
}

// Marker is in the path of every request of a Load: what must never be readable between two hosts.
const Marker = "plain-text-between-hosts"

func (l *Load) count(answer string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total.Requests++
	if err == nil {
		l.total.Answers[answer]++
		return
	}
	l.total.Failed++
	if len(l.total.Failures) < 10 {
		l.total.Failures = append(l.total.Failures, time.Now().UTC().Format("15:04:05.000 ")+err.Error())
	}
}

// Get sends one GET on a connection of its own.
func (m *Mesh) Get(ctx context.Context, node, address, path string) (*http.Response, string, error) {
	return m.Send(ctx, node, http.MethodGet, address, path, nil)
}

// Send sends one request on a connection of its own and reads the whole answer.
func (m *Mesh) Send(ctx context.Context, node, method, address, path string, body io.Reader) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, body)
	if err != nil {
		return nil, "", err
	}
	response, err := m.Client(node).Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

// Client is an HTTP client on a node's host that uses every connection once.
func (m *Mesh) Client(node string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return m.Dial(ctx, node, address)
	}}}
}

// AwaitAnswer waits until a GET through a listener is answered by each of the given bodies.
func (m *Mesh) AwaitAnswer(node, address string, bodies ...string) {
	m.t.Helper()
	missing := slices.Clone(bodies)
	m.Eventually(fmt.Sprintf("answers %q through %s", bodies, address), func(ctx context.Context) error {
		response, text, err := m.Get(ctx, node, address, "/")
		if err != nil {
			return err
		}
		if response.StatusCode == http.StatusOK {
			missing = slices.DeleteFunc(missing, func(body string) bool { return body == text })
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s %q: no answer yet by %q", response.Status, text, missing)
		}
		return nil
	})
}
