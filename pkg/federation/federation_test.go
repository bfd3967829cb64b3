package federation

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	library "github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sennit-mesh/sennit/internal/tokentest"
)

var partner = spiffeid.RequireTrustDomainFromString("partner.example")

const endpointID = "spiffe://partner.example/bundle"

// An other is another trust domain, whose endpoint serves what it says.
type other struct {
	t      *testing.T
	server *httptest.Server
	key    *ecdsa.PrivateKey
	root   *x509.Certificate

	mu     sync.Mutex
	bundle *spiffebundle.Bundle
	answer func(http.ResponseWriter) // in the place of the bundle
	asked  int
}

func certificate(t *testing.T, uri string, isCA bool, key *ecdsa.PrivateKey, parent *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	id, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: uri}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if isCA {
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func newOther(t *testing.T) *other {
	o := &other{t: t}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.asked++
		if o.answer != nil {
			o.answer(w)
			return
		}
		data, err := o.bundle.Marshal()
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(data)
	}))
	o.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	o.rotate()
	o.server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		key := tokentest.NewKey(t)
		leaf := certificate(t, endpointID, false, key, o.root, o.key)
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}, NextProtos: []string{"http/1.1"}}, nil
	}}
	o.server.StartTLS()
	t.Cleanup(o.server.Close)
	return o
}

// rotate puts another root in the place of the one before, and serves the bundle of it.
func (o *other) rotate() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.key = tokentest.NewKey(o.t)
	o.root = certificate(o.t, "spiffe://partner.example", true, o.key, nil, o.key)
	o.bundle = spiffebundle.FromX509Authorities(partner, []*x509.Certificate{o.root})
	o.bundle.AddJWTAuthority("one", o.key.Public())
}

func (o *other) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *other) foreign() Foreign {
	o.mu.Lock()
	defer o.mu.Unlock()
	data, err := o.bundle.Marshal()
	if err != nil {
		o.t.Fatal(err)
	}
	return Foreign{TrustDomain: partner.Name(), URL: o.server.URL, SPIFFEID: endpointID, Bundle: string(data)}
}

// memory is a Store.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	saved  int
}

func (m *memory) Load(domain string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.values[domain], nil
}

func (m *memory) Save(domain string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = map[string][]byte{}
	}
	m.values[domain] = value
	m.saved++
	return nil
}

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// A watching is a Watcher that runs.
type watching struct {
	*Watcher
	t       *testing.T
	clock   *clock
	changed chan struct{}
}

func watch(t *testing.T, store Store, foreign ...Foreign) *watching {
	w := &watching{t: t, clock: &clock{now: time.Now()}, changed: make(chan struct{}, 1024)}
	w.Watcher = New(Config{Store: store, Changed: func() { w.changed <- struct{}{} }, Log: slog.New(slog.DiscardHandler), Now: w.clock.Now})
	w.Apply(foreign)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// await waits until what is said of the partner is as wanted.
func (w *watching) await(what string, want func(Status) bool) Status {
	w.t.Helper()
	timeout := time.After(time.Minute)
	for {
		if s := w.Status(partner.Name()); want(s) {
			return s
		}
		select {
		case <-w.changed:
		case <-timeout:
			w.t.Fatalf("%s: %+v", what, w.Status(partner.Name()))
		}
	}
}

// pass lets time pass, and has Run look at it.
func (w *watching) pass(d time.Duration) {
	w.clock.mu.Lock()
	w.clock.now = w.clock.now.Add(d)
	w.clock.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func holds(root *x509.Certificate) func(Status) bool {
	return func(s Status) bool { return s.Fetched && s.Bundle.HasX509Authority(root) }
}

func TestABundleIsFollowed(t *testing.T) {
	o := newOther(t)
	o.bundle.SetRefreshHint(time.Hour)
	f := o.foreign()
	store := &memory{}
	w := watch(t, store, f)
	first := o.root
	w.await("the first bundle", holds(first))

	asked := func() (n int) { o.set(func() { n = o.asked }); return n }
	before := asked()
	o.set(func() { o.bundle.AddJWTAuthority("two", tokentest.NewKey(t).Public()) })
	w.pass(time.Hour)
	w.await("the next", func(s Status) bool { return s.Fetched && s.Bundle.HasJWTAuthority("two") })
	if now := asked(); now != before+1 {
		t.Errorf("asked %d times in an hour", now-before)
	}
	if store.saved == 0 {
		t.Error("nothing is kept")
	}
}

func TestARotationIsFollowed(t *testing.T) {
	o := newOther(t)
	first, firstKey := o.root, o.key
	w := watch(t, &memory{}, o.foreign())
	w.await("the first bundle", holds(first))
	o.rotate()
	second, secondKey := o.root, o.key
	o.set(func() { o.root, o.key = first, firstKey; o.bundle.AddX509Authority(first) }) // told, and not used yet
	w.pass(defaultRefresh)
	w.await("the next root", holds(second))
	o.set(func() { o.root, o.key = second, secondKey; o.bundle.RemoveX509Authority(first) })
	w.pass(defaultRefresh)
	w.await("the next root alone", func(s Status) bool { return s.Fetched && !s.Bundle.HasX509Authority(first) })
}

func TestAnEndpointOfAnotherRootIsNotBelieved(t *testing.T) {
	o := newOther(t)
	f := o.foreign()
	before := o.root
	o.rotate() // somebody else answers at the address
	w := watch(t, &memory{}, f)
	s := w.await("a refusal", func(s Status) bool { return s.Err != nil })
	if s.Fetched || !s.Bundle.HasX509Authority(before) || s.Bundle.HasX509Authority(o.root) {
		t.Errorf("%+v", s)
	}
	// Nor one with another name.
	f = o.foreign()
	f.SPIFFEID = "spiffe://partner.example/another"
	w.Apply([]Foreign{f})
	w.await("a refusal", func(s Status) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "unexpected ID") })
	// An operator who writes what is right has it.
	w.Apply([]Foreign{o.foreign()})
	w.await("the bundle", holds(o.root))
}

func TestWhatIsServedIsKept(t *testing.T) {
	o := newOther(t)
	f, first, firstKey := o.foreign(), o.root, o.key
	o.rotate()
	second := o.root
	o.set(func() { o.root, o.key = first, firstKey }) // served under the first: the second
	store := &memory{}
	w := watch(t, store, f)
	w.await("the second root", holds(second))
	o.server.Close()
	w.pass(defaultRefresh)
	if s := w.await("an error", func(s Status) bool { return s.Err != nil }); s.Bundle == nil || !s.Bundle.HasX509Authority(second) {
		t.Errorf("while its endpoint is away: %+v", s)
	}

	again := watch(t, store, f) // a controller that was started again
	if got := again.Bundles(); len(got) != 1 || !got[0].HasX509Authority(second) || got[0].HasX509Authority(first) {
		t.Errorf("after a restart: %v", got)
	}
	again.await("an error", func(s Status) bool { return s.Err != nil })
	if got := again.Bundles(); len(got) != 1 || !got[0].HasX509Authority(second) {
		t.Errorf("after a restart and an error: %v", got)
	}

	// An operator begins anew with another bundle.
	g := f
	o.rotate()
	g.Bundle = o.foreign().Bundle
	if got := watch(t, store, g).Bundles(); len(got) != 1 || got[0].HasX509Authority(second) || !got[0].HasX509Authority(o.root) {
		t.Errorf("begun anew at a restart: %v", got)
	}
	again.Apply([]Foreign{g})
	if got := again.Bundles(); len(got) != 1 || got[0].HasX509Authority(second) || !got[0].HasX509Authority(o.root) {
		t.Errorf("begun anew: %v", got)
	}
	again.Apply(nil)
	if got := again.Bundles(); len(got) != 0 {
		t.Errorf("taken back: %v", got)
	}
	if got := watch(t, store, g).Bundles(); len(got) != 1 || !got[0].Equal(mustParse(t, g.Bundle)) {
		t.Errorf("taken back, and wanted again: %v", got)
	}
	if kept := store.values[partner.Name()]; len(kept) != 0 {
		t.Errorf("taken back, and kept: %s", kept)
	}
}

func mustParse(t *testing.T, bundle string) *spiffebundle.Bundle {
	t.Helper()
	parsed, err := parse(partner, []byte(bundle))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestAnswersThatAreNoBundles(t *testing.T) {
	o := newOther(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	root := o.root
	for name, answer := range map[string]func(http.ResponseWriter){
		"not found": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			data, _ := o.bundle.Marshal()
			w.Write(data)
		},
		"a redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusFound)
		},
		"no JSON": func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") },
		"no keys": func(w http.ResponseWriter) { fmt.Fprint(w, `{"keys":[]}`) },
		"a symmetric": func(w http.ResponseWriter) {
			fmt.Fprint(w, `{"keys":[{"kty":"oct","k":"AAAA","kid":"a","use":"jwt-svid"}]}`)
		},
		"what is too much": func(w http.ResponseWriter) {
			many := spiffebundle.New(partner)
			for range maxJWTKeys + 1 {
				many.AddJWTAuthority(fmt.Sprint(len(many.JWTAuthorities())), o.key.Public())
			}
			data, _ := many.Marshal()
			w.Write(data)
		},
		"what has no end": func(w http.ResponseWriter) {
			n := 0
			for spaces := []byte(strings.Repeat(" ", 1<<16)); n < 64<<20; n += len(spaces) {
				if _, err := w.Write(spaces); err != nil {
					break
				}
			}
			if n >= 64<<20 {
				t.Errorf("%d bytes were read", n)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o.set(func() { o.answer = answer })
			w := watch(t, &memory{}, o.foreign())
			s := w.await("an error", func(s Status) bool { return s.Err != nil })
			if s.Fetched || !s.Bundle.HasX509Authority(root) {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestRefreshIsBounded(t *testing.T) {
	b := spiffebundle.New(partner)
	if got := refresh(b); got != defaultRefresh {
		t.Errorf("without a hint: %s", got)
	}
	for hint, want := range map[time.Duration]time.Duration{0: minRefresh, time.Second: minRefresh, time.Hour: time.Hour, 1000 * time.Hour: maxRefresh} {
		b.SetRefreshHint(hint)
		if got := refresh(b); got != want {
			t.Errorf("hint %s: %s, want %s", hint, got, want)
		}
	}
	for range 100 {
		if d := jitter(time.Minute); d > time.Minute || d < 54*time.Second {
			t.Fatal(d)
		}
	}
}

func TestEndpoint(t *testing.T) {
	key := tokentest.NewKey(t)
	own := spiffebundle.FromX509Authorities(partner, []*x509.Certificate{certificate(t, "spiffe://partner.example", true, key, nil, key)})
	var failing error
	c := &clock{now: time.Now()}
	server := httptest.NewTLSServer(NewEndpoint(func() (*spiffebundle.Bundle, error) { return own, failing }, c.Now))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	fetch := func() *spiffebundle.Bundle {
		t.Helper()
		got, err := library.FetchBundle(t.Context(), partner, server.URL, library.WithWebPKIRoots(roots))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := fetch()
	if hint, _ := first.RefreshHint(); hint != refreshHint || len(first.X509Authorities()) != 1 {
		t.Errorf("%v", first)
	}
	one, _ := first.SequenceNumber()
	if two, _ := fetch().SequenceNumber(); two != one {
		t.Errorf("the sequence goes from %d to %d without a change", one, two)
	}
	own.AddJWTAuthority("one", key.Public())
	own.AddJWTAuthority("two", tokentest.NewKey(t).Public())
	changed, found := fetch().SequenceNumber()
	if !found || changed <= one {
		t.Errorf("the sequence goes from %d to %d with a change", one, changed)
	}
	for range 8 {
		if again, _ := fetch().SequenceNumber(); again != changed {
			t.Errorf("the sequence goes from %d to %d without a change", changed, again)
		}
	}
	client := server.Client()
	for what, tt := range map[string]struct {
		method, path string
		want         int
	}{"a write": {http.MethodPost, "/", 405}, "another path": {http.MethodGet, "/other", 200}, "the head": {http.MethodHead, "/", 200}} {
		request, _ := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, http.NoBody)
		response, err := client.Do(request)
		if err != nil || response.StatusCode != tt.want {
			t.Errorf("%s: %v, %v", what, response.Status, err)
		}
	}
	failing = errors.New("the disk is gone")
	response, err := client.Get(server.URL)
	if err != nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%v, %v", response.Status, err)
	}
}

// TestWebProfile has an endpoint verified by its host's name.
func TestWebProfile(t *testing.T) {
	key := tokentest.NewKey(t)
	root := certificate(t, "spiffe://partner.example", true, key, nil, key)
	own := spiffebundle.FromX509Authorities(partner, []*x509.Certificate{root})
	server := httptest.NewTLSServer(NewEndpoint(func() (*spiffebundle.Bundle, error) { return own, nil }, time.Now))
	defer server.Close()
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	for name, tt := range map[string]struct {
		roots *x509.CertPool
		good  bool
	}{"a root of the host": {roots, true}, "another": {x509.NewCertPool(), false}} {
		t.Run(name, func(t *testing.T) {
			w := New(Config{Store: &memory{}, Log: slog.New(slog.DiscardHandler), Roots: tt.roots})
			w.Apply([]Foreign{{TrustDomain: partner.Name(), URL: server.URL}})
			d := w.domains[partner.Name()]
			bundle, err := d.endpoint.fetch(t.Context(), spiffebundle.NewSet())
			if good := err == nil && bundle.HasX509Authority(root); good != tt.good {
				t.Errorf("%v, %v", bundle, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA","kid":"a","use":"jwt-svid"}],"spiffe_refresh_hint":1,"spiffe_sequence":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := parse(partner, data)
		if err != nil {
			return
		}
		if len(bundle.X509Authorities())+len(bundle.JWTAuthorities()) == 0 || bundle.TrustDomain() != partner {
			t.Errorf("%v", bundle)
		}
		if _, err := bundle.Marshal(); err != nil {
			t.Error(err)
		}
	})
}
