package jwks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// memory is a Store, of which several Fetchers have one after the other.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (m *memory) Load() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data, nil
}

func (m *memory) Save(data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = data
	return nil
}

// A publisher is an issuer's server, over TLS.
type publisher struct {
	*httptest.Server
	mu     sync.Mutex
	keys   []string // names of those that it publishes; nil: it is broken
	asked  int
	answer http.HandlerFunc // in the place of keys; nil: keys
}

func startPublisher(t *testing.T, keys ...string) *publisher {
	t.Helper()
	p := &publisher{keys: keys}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked++
		if p.answer != nil {
			p.answer(w, r)
			return
		}
		if p.keys == nil {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(setOf(t, p.keys...))
	}))
	t.Cleanup(p.Close)
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	return p
}

var made sync.Map // name → jose.JSONWebKey

func setOf(t *testing.T, names ...string) []byte {
	set := jose.JSONWebKeySet{}
	for _, name := range names {
		key, known := made.Load(name)
		if !known {
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Error(err)
			}
			key, _ = made.LoadOrStore(name, jose.JSONWebKey{Key: private.Public(), KeyID: name})
		}
		set.Keys = append(set.Keys, key.(jose.JSONWebKey))
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Error(err)
	}
	return text
}

func (p *publisher) publish(keys ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

func (p *publisher) source() Source {
	return Source{p.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))}
}

// A fetching is a Fetcher whose time the test says.
type fetching struct {
	*Fetcher
	now     time.Time
	changed int
}

func newFetching(store Store) *fetching {
	f := &fetching{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.Fetcher = New(Config{Store: store, Changed: func() { f.changed++ }, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return f.now }})
	return f
}

// names are the names of the keys of a source, and what is wrong.
func (f *fetching) names(of Source) string {
	set := f.Sets()[of]
	var keys jose.JSONWebKeySet
	_ = json.Unmarshal(set.Keys, &keys)
	var names []string
	for _, k := range keys.Keys {
		names = append(names, k.KeyID)
	}
	said := strings.Join(names, " ")
	if set.Problem != "" {
		said += "!"
	}
	return said
}

func (f *fetching) want(t *testing.T, of Source, want string) {
	t.Helper()
	if got := f.names(of); got != want {
		t.Errorf("the keys are %q, want %q; %s", got, want, f.Sets()[of].Problem)
	}
}

// TestKeysFollowTheirIssuer goes through the life of an issuer: rotation, an outage, a restart within it, its end.
func TestKeysFollowTheirIssuer(t *testing.T) {
	p, store := startPublisher(t, "a"), new(memory)
	f, from := newFetching(store), p.source()
	f.Want([]Source{from})
	f.want(t, from, "")
	if pause := f.round(t.Context()); pause != fetchEvery || f.changed != 1 {
		t.Errorf("the next is after %v; %d changes", pause, f.changed)
	}
	f.want(t, from, "a")

	p.publish("a", "b")
	f.now = f.now.Add(fetchEvery - 1)
	f.round(t.Context())
	f.want(t, from, "a") // it is not due
	f.now = f.now.Add(1)
	f.round(t.Context())
	f.want(t, from, "a b")
	f.now = f.now.Add(fetchEvery)
	f.round(t.Context())
	if f.changed != 2 || p.asked != 3 {
		t.Errorf("%d changes, asked %d times", f.changed, p.asked)
	}

	p.publish()
	p.keys = nil
	last := f.now
	f.now = f.now.Add(fetchEvery)
	if pause := f.round(t.Context()); pause != fetchAgain {
		t.Errorf("after a failure the next is after %v", pause)
	}
	f.want(t, from, "a b!")
	for range 10 {
		f.now = f.now.Add(slowestRetry)
		if pause := f.round(t.Context()); pause > slowestRetry {
			t.Errorf("the next is after %v", pause)
		}
	}
	if f.changed != 3 {
		t.Errorf("what goes on in the same way changed %d times", f.changed)
	}

	again := newFetching(store)
	again.now = f.now
	again.want(t, from, "a b") // before anybody has said what he wants
	again.Want([]Source{from})
	again.want(t, from, "a b")
	again.round(t.Context())
	again.want(t, from, "a b!")
	// What was kept may say that the keys were read up to saveEvery earlier than they were.
	again.now = last.Add(keepFor - saveEvery - time.Second)
	again.round(t.Context())
	again.want(t, from, "a b!")
	again.now = last.Add(keepFor)
	again.want(t, from, "!")
	told := again.changed
	again.round(t.Context())
	again.want(t, from, "!")
	if again.changed != told+1 { // else what was published would go on
		t.Errorf("that there are no keys any more was told %d times", again.changed-told)
	}
	p.publish("c")
	again.now = again.now.Add(slowestRetry)
	again.round(t.Context())
	again.want(t, from, "c")
}

// TestUnknownKeysAreFetchedSoon has many ask for a key that is not there.
func TestUnknownKeysAreFetchedSoon(t *testing.T) {
	p := startPublisher(t, "a")
	f, from := newFetching(new(memory)), p.source()
	f.Want([]Source{from})
	f.round(t.Context())
	p.publish("b")
	for range 100 {
		f.Refresh(p.URL)
		f.Refresh("https://other.example/")
		f.round(t.Context())
	}
	f.want(t, from, "a")
	f.now = f.now.Add(fetchAgain)
	for range 100 {
		f.Refresh(p.URL)
		f.round(t.Context())
	}
	f.want(t, from, "b")
	if p.asked != 2 {
		t.Errorf("the issuer was asked %d times", p.asked)
	}
}

func TestWhatNobodyWantsIsForgotten(t *testing.T) {
	p := startPublisher(t, "a")
	f, from := newFetching(new(memory)), p.source()
	f.Want([]Source{from})
	f.round(t.Context())
	f.Want(nil)
	if sets := f.Sets(); len(sets) != 0 {
		t.Errorf("there are %v", sets)
	}
	f.round(t.Context())
	if p.asked != 1 {
		t.Errorf("the issuer was asked %d times", p.asked)
	}
}

// TestAnswersThatAreNone has servers that are not the issuer's, or broken.
func TestAnswersThatAreNone(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(setOf(t, "evil")) }))
	defer plain.Close()
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		from   func(Source) Source
		want   string
	}{
		{"not found", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, nil, "404"},
		{"no set", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, nil, "read JWK set"},
		{"an empty set", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"keys":[]}`) }, nil, "it has no keys"},
		{"private keys", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"keys":[{"kty":"oct","k":"AAAA"}]}`)
		}, nil, "no key of it is usable"},
		{"without end", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxSetBytes+1)) }, nil, "more than 262144 bytes"},
		{"a head without end", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 64<<10)) }, nil, "header"},
		{"to what is not encrypted", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL, http.StatusFound) }, nil, "not encrypted"},
		{"round and round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, nil, "more than 3 redirects"},
		{"of a server that nobody vouches for", nil, func(s Source) Source { return Source{URL: s.URL} }, "certificate"},
		{"of another name", nil, func(s Source) Source { s.URL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1); return s }, "certificate"},
		{"of a cloud", nil, func(Source) Source { return Source{URL: "http://169.254.169.254/latest"} }, "its cloud"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startPublisher(t, "a")
			p.answer = tt.answer
			from := p.source()
			if tt.from != nil {
				from = tt.from(from)
			}
			f := newFetching(new(memory))
			f.Want([]Source{from})
			f.round(t.Context())
			if set := f.Sets()[from]; len(set.Keys) > 0 || !strings.Contains(set.Problem, tt.want) {
				t.Errorf("%s: %q, want %q", set.Keys, set.Problem, tt.want)
			}
		})
	}
}

// TestWhatWasKeptIsCheckedAgain has a store that was damaged.
func TestWhatWasKeptIsCheckedAgain(t *testing.T) {
	from := Source{URL: "https://id.example/"}
	for _, data := range []string{"{", `[{"source":{"URL":"https://id.example/"},"keys":"e30=","fetched":"2026-03-01T12:00:00Z"}]`} {
		f := newFetching(&memory{data: []byte(data)})
		f.Want([]Source{from})
		f.want(t, from, "")
	}
}
