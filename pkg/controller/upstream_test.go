package controller

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

const day = 24 * time.Hour

// An outside authority certifies under a root of its own. Before fresh is set, three quarters of what it certifies are over.
type outside struct {
	root  *x509.Certificate
	key   *ecdsa.PrivateKey
	now   func() time.Time
	fresh atomic.Bool
	away  atomic.Pointer[func()] // it cannot be reached, and this is called; nil: it can
}

func newOutside(t *testing.T, now func() time.Time) *outside {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &outside{key: key, now: now}
	template := o.template("Example root", -100*day, 1000*day)
	template.MaxPathLen, template.MaxPathLenZero = 1, false
	if o.root, err = o.sign(template, template, &key.PublicKey); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *outside) template(name string, from, to time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: o.now().Add(from), NotAfter: o.now().Add(to),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
}

func (o *outside) sign(template, by *x509.Certificate, key any) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, by, key, o.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (o *outside) String() string { return "Example CA" }

func (o *outside) Certify(_ context.Context, csr []byte, _ crypto.Signer, life time.Duration) (upstreamca.Certified, error) {
	if away := o.away.Load(); away != nil {
		(*away)()
		return upstreamca.Certified{}, errors.New("connection refused")
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	template := o.template("Example intermediate", -30*day, 10*day)
	if o.fresh.Load() {
		template = o.template("Example intermediate", 0, life)
	}
	certificate, err := o.sign(template, o.root, request.PublicKey)
	return upstreamca.Certified{Chain: []*x509.Certificate{certificate}, Roots: []*x509.Certificate{o.root}}, err
}

func scrape(c *Controller) string {
	answer := httptest.NewRecorder()
	telemetry.NewMetrics(prometheus.Collector(scraped{c})).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return answer.Body.String()
}

// TestWhoIsAwayIsWaitedFor where nothing leads from its certificates to what is new, until they have ended.
func TestWhoIsAwayIsWaitedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &Controller{
		members: &members{}, started: now.Add(-time.Hour), cfg: Config{Now: func() time.Time { return now }},
		catalogue: registry.NewCatalogue(registry.CatalogueConfig{}),
	}
	c.members.take([]ca.Node{{Name: "web1"}})
	for _, tt := range []struct {
		name  string
		until time.Time
		waits bool
	}{
		{"a chain leads to it", time.Time{}, false},
		{"none does", now.Add(time.Second), true},
		{"its certificates have ended", now, false},
	} {
		s := c.standing(ca.AuthorityRotation{Phase: ca.Announced, Epoch: 1, AwayUntil: tt.until})
		if (len(s.Waiting) > 0) != tt.waits || (len(s.Away) > 0) == tt.waits {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
}

// TestAnIntermediateOutsideIsRenewed past half of its life, by itself. While the authority is away what there is goes on to
// issue, which status, warnings and metrics tell; and who goes back to the own root meanwhile is not brought back.
func TestAnIntermediateOutsideIsRenewed(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	o := newOutside(t, now)
	c, _ := startWith(t, t.TempDir(), func(cfg *Config) { cfg.upstream, cfg.Now = o, now })
	r := reach(t, c)
	_, admin := token(t, c, "root", rbac.Masters)
	post := func(what, body string) {
		t.Helper()
		if code, text := r.ask(admin, http.MethodPost, report.PathAuthority+"/"+what, body); code != http.StatusOK {
			t.Fatalf("%s: %d %s", what, code, text)
		}
	}
	issuer := func() string {
		if of := c.authority.Upstream(); of != nil {
			return of.Intermediate.SerialNumber.Text(16)
		}
		return ""
	}
	failing := func(want string) bool { return strings.Contains(scrape(c), "\nsennit_upstream_ca_failing "+want+"\n") }

	post("rotate", `{"of": "intermediate"}`)
	awaitThat(t, "the authority's intermediate issues", func() bool { return issuer() != "" })
	first := issuer()
	if !failing("0") {
		t.Error("it fails by its metric")
	}
	o.away.Store(new(func() {}))
	post("withdraw", `{"force": true}`)
	awaitThat(t, "it is said to be away", func() bool { return c.authorityReport().Failure != "" })
	if warnings := strings.Join(c.Status(everywhere).Warnings, "\n"); !strings.Contains(warnings, "the intermediate of Example CA ends in") || !strings.Contains(warnings, "connection refused") {
		t.Errorf("warnings: %s", warnings)
	}
	if !failing("1") || issuer() != first {
		t.Errorf("while it is away: %s issues, metrics %s", issuer(), scrape(c))
	}
	o.fresh.Store(true)
	o.away.Store(nil)
	ahead.Add(int64(upstreamFirst)) // the pause is over
	awaitThat(t, "it is renewed", func() bool { return issuer() != first })
	second := issuer()
	awaitThat(t, "nothing fails", func() bool { return failing("0") && c.authorityReport().Failure == "" })
	if phase := c.authority.Rotation().Phase; phase != ca.NotRotating || len(c.Status(everywhere).Warnings) > 0 {
		t.Errorf("phase %s, warnings %q", phase, c.Status(everywhere).Warnings)
	}
	awaitThat(t, "the audit has both intermediates", func() bool {
		_, text := r.ask(admin, http.MethodGet, report.PathAudit, "")
		return strings.Contains(text, first) && strings.Contains(text, second) && strings.Contains(text, "renew intermediate")
	})

	tried := make(chan struct{})
	leave := func() {
		defer close(tried)
		o.away.Store(nil)
		if err := c.authority.LeaveUpstream(time.Second); err != nil {
			t.Error(err)
		}
	}
	o.away.Store(&leave)
	ahead.Add(int64(50 * day)) // past half of 90 days
	select {
	case <-tried:
	case <-time.After(90 * time.Second):
		t.Fatal("it is not renewed past half of its life")
	}
	awaitThat(t, "the failure is noted", func() bool { return c.authorityReport().Failure != "" })
	if c.authority.Upstream() != nil {
		t.Error("the authority outside issues again, though the own root was to")
	}
}

// TestPausesGrow while an authority outside is away, up to half an hour, and begin anew after a success.
func TestPausesGrow(t *testing.T) {
	t.Parallel()
	at, wrong, asked := time.Unix(0, 0), errors.New("away"), 0
	r := upstreamRenewal{
		due: func(time.Time) bool { return true }, now: func() time.Time { return at },
		renew: func(context.Context) error { asked++; return wrong },
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1280, 1800, 1800} {
		if err := r.try(t.Context()); !errors.Is(err, wrong) || r.pause != want*time.Second {
			t.Fatalf("pause of %s after failure %d (%v), want %s", r.pause, asked, err, want*time.Second)
		}
		before := asked
		at = at.Add(r.pause - 1)
		if err := r.try(t.Context()); err != nil || asked != before {
			t.Fatalf("asked within the pause: %v", err)
		}
		at = at.Add(1)
	}
	wrong = nil
	if err := r.try(t.Context()); err != nil {
		t.Fatal(err)
	}
	if wrong = errors.New("away again"); r.try(t.Context()) == nil || r.pause != upstreamFirst {
		t.Errorf("pause of %s after a success", r.pause)
	}
	at = at.Add(day)
	r.due = func(time.Time) bool { return false }
	if before := asked; r.try(t.Context()) != nil || asked != before {
		t.Error("asked though nothing is due")
	}
}
