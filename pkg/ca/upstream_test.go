package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

// A corporate authority is one outside of the mesh, with a root and an intermediate of its own.
type corporate struct {
	t        *testing.T
	now      func() time.Time
	root, by *x509.Certificate
	rootKey  *ecdsa.PrivateKey
	byKey    *ecdsa.PrivateKey
	change   func(*x509.Certificate)     // of what it certifies; nil: none
	answer   func(*upstreamca.Certified) // of what it answers; nil: none
	err      error                       // it is away
	asked    int
}

func newCorporate(t *testing.T, now func() time.Time) *corporate {
	t.Helper()
	c := &corporate{t: t, now: now}
	c.root, c.rootKey = c.authority("Example root", nil, nil)
	c.by, c.byKey = c.authority("Example issuing", c.root, c.rootKey)
	return c
}

func (c *corporate) authority(name string, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	c.t.Helper()
	key, err := newKey()
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name}, NotBefore: c.now().Add(-time.Hour), NotAfter: c.now().Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if by == nil {
		by, byKey = template, key
	}
	certificate, err := certify(template, &key.PublicKey, by, byKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return certificate, key
}

func (c *corporate) String() string { return "corporate" }

func (c *corporate) Certify(_ context.Context, csr []byte, _ crypto.Signer, life time.Duration) (upstreamca.Certified, error) {
	c.asked++
	if c.err != nil {
		return upstreamca.Certified{}, c.err
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: request.Subject, URIs: request.URIs, NotBefore: c.now().Add(-time.Minute), NotAfter: c.now().Add(life),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	if c.change != nil {
		c.change(template)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return upstreamca.Certified{}, errors.New("no ECDSA key")
	}
	certificate, err := certify(template, key, c.by, c.byKey)
	if err != nil {
		return upstreamca.Certified{}, err
	}
	answer := upstreamca.Certified{Chain: []*x509.Certificate{certificate, c.by}, Roots: []*x509.Certificate{c.root}}
	if c.answer != nil {
		c.answer(&answer)
	}
	return answer, nil
}

// again is a root of the same name and key that ends at another time.
func (c *corporate) again(root *x509.Certificate, key *ecdsa.PrivateKey, ends time.Time) *x509.Certificate {
	c.t.Helper()
	template := *root
	template.SerialNumber, template.NotAfter = newSerial(), ends
	certificate, err := certify(&template, &key.PublicKey, &template, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return certificate
}

// ask has an authority outside certify, and takes the answer.
func (c *cluster) ask(from upstreamca.Authority, renew bool) error {
	take, err := c.authority.Certify(c.t.Context(), from)
	if err != nil {
		return err
	}
	return take(renew)
}

// allow has the own root, whose key may be kept elsewhere, agree to roots of authorities outside.
func (m *move) allow(roots ...*x509.Certificate) {
	m.t.Helper()
	if m.root == nil {
		return
	}
	m.clock.advance(time.Second)
	request, err := m.authority.Request(roots...)
	if err == nil {
		err = m.authority.Accept(m.agreed(m.root, request))
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// TestAnAuthorityOutsideTakesOver step by step, under everybody, and gives it back. After each step those that could be told
// of it and those that could not call each other, reach the bus, and join; and the controller is killed after each.
func TestAnAuthorityOutsideTakesOver(t *testing.T) {
	t.Parallel()
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprintf("offline root %v", offline), func(t *testing.T) {
			t.Parallel()
			anAuthorityOutsideTakesOver(t, newMove(t, offline, false))
		})
	}
}

func anAuthorityOutsideTakesOver(t *testing.T, m *move) {
	c, offline := m.cluster, m.root != nil
	outside := newCorporate(t, c.clock.Now)
	told, cut := c.joined("told", orders), c.joined("cut", orders)
	early := c.token("early", orders)
	serve := c.authority.ServerCertificate([]string{"mesh.example.com"})
	configs := map[*Identity]*tls.Config{told: told.BusConfig().TLS, cut: cut.BusConfig().TLS}
	pin := c.authority.RootHash()
	api := string(c.authority.RootPEM())
	check := func(when string) {
		t.Helper()
		for _, pair := range [][2]*Identity{{told, cut}, {cut, told}, {told, told}} {
			if err := believes(t, pair[0], pair[1], orders); err != nil {
				t.Errorf("%s: %s does not believe %s: %v", when, pair[0].Node(), pair[1].Node(), err)
			}
		}
		for _, i := range []*Identity{told, cut} {
			if err := shake(t, serve, configs[i]); err != nil {
				t.Errorf("%s: %s does not reach the bus: %v", when, i.Node(), err)
			}
		}
		if err := shake(t, serve, controllerTLS(pin, testDomain, c.clock.Now)); err != nil {
			t.Errorf("%s: a token of before does not reach the bus: %v", when, err)
		}
		if string(c.authority.RootPEM()) != api {
			t.Errorf("%s: clients of the API are told to believe another authority", when)
		}
		if err := c.authority.Close(); err != nil {
			t.Fatal(err)
		}
		c.authority = openAuthority(t, c.authority.cfg)
		c.registrar.cfg.Authority = c.authority
		serve = c.authority.ServerCertificate([]string{"mesh.example.com"})
	}
	tell := func(i *Identity) {
		t.Helper()
		if _, err := i.UpdateRoster(c.authority.Roster()); err != nil {
			t.Fatalf("%s takes the roster: %v", i.Node(), err)
		}
	}
	renew := func(i *Identity) {
		t.Helper()
		c.clock.advance(time.Millisecond)
		if err := i.request(t.Context(), c.wire(i.Node()), false); err != nil {
			t.Fatalf("%s renews: %v", i.Node(), err)
		}
	}
	hangsOn := func(i *Identity) string {
		t.Helper()
		certificate, err := i.Certificate(orders)
		if err != nil {
			t.Fatal(err)
		}
		above, err := x509.ParseCertificate(certificate.Certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		return above.Issuer.CommonName
	}

	check("before")
	if err := c.ask(outside, false); offline && (!errors.Is(err, ErrRootOffline) || c.authority.Rotation().Phase != NotRotating) {
		t.Errorf("taken before the own root has agreed: %v", err)
	} else if !offline {
		if err := errors.Join(err, c.authority.Cancel()); err != nil {
			t.Fatal(err)
		}
	}
	m.allow(outside.root)
	check("the own root has agreed")
	if err := c.ask(outside, true); err == nil {
		t.Error("it is taken as a renewal, where the own root issues")
	}
	if err := c.ask(outside, false); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != Announced || !r.Upstream || c.authority.Upstream() != nil || r.AwayUntil.Equal(r.Since.Add(DefaultTTL)) != offline {
		t.Fatalf("announced: %+v", r)
	}
	if by := hangsOn(c.joined("between", orders)); by == "Example issuing" {
		t.Error("it issues before nodes know its root")
	}
	tell(told)
	check("announced")
	if err := c.ask(outside, false); !errors.Is(err, ErrRotating) {
		t.Errorf("asked once more meanwhile: %v", err)
	}
	if offline { // nothing leads from its certificates to what nodes know: none may be left out
		tell(cut)
	}
	if err := c.authority.ActivateUpstream(0); err != nil {
		t.Fatal(err)
	}
	check("active")
	if _, recalled := told.recalled(c.clock.Now()); recalled {
		t.Error("recalled before it is told")
	}
	tell(told)
	if _, recalled := told.recalled(c.clock.Now()); !recalled {
		t.Error("the node is not asked to renew")
	}
	renew(told)
	if by := hangsOn(told); by != "Example issuing" {
		t.Errorf("the node's certificate hangs on %s", by)
	}
	check("active, one was told and has renewed, and the other knows nothing")
	first := c.identity(t.TempDir())
	if err := first.Join(t.Context(), early, c.wire("early").dial); err != nil {
		t.Errorf("a token of before: %v", err)
	} else if err := believes(t, first, told, orders); err != nil {
		t.Errorf("who joins now: %v", err)
	}
	tell(cut)
	renew(cut)
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	tell(told)
	tell(cut)
	check("withdrawn")
	if u := c.authority.Upstream(); u == nil || u.Authority != "corporate" || len(u.Roots) != 1 {
		t.Errorf("status: %+v", u)
	}

	// Its renewal asks nobody to renew.
	before := c.authority.Rotation().Serial
	if err := c.ask(outside, true); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != NotRotating || r.Serial != before {
		t.Errorf("its renewal is a rotation: %+v", r)
	}
	check("renewed")
	// One that an operator asks for, since its key may be in wrong hands, does.
	if err := c.ask(outside, false); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != Announced {
		t.Fatalf("asked for by an operator: %+v", r)
	}
	if err := c.authority.Cancel(); err != nil {
		t.Fatal(err)
	}
	// Another root of the same authority is told of first, as the first was.
	outside.root, outside.rootKey = outside.authority("Example root 2", nil, nil)
	outside.by, outside.byKey = outside.authority("Example issuing 2", outside.root, outside.rootKey)
	if err := c.ask(outside, true); offline && (!errors.Is(err, ErrRootOffline) || c.authority.Rotation().Phase != NotRotating) {
		t.Errorf("another root is taken before the own one has agreed: %v", err)
	} else if !offline {
		if err := errors.Join(err, c.authority.Cancel()); err != nil {
			t.Fatal(err)
		}
	}
	m.allow(outside.root)
	if err := c.ask(outside, true); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != Announced {
		t.Fatalf("another root: %+v", r)
	}
	if err := c.authority.Cancel(); err != nil {
		t.Fatal(err)
	}
	tell(told)
	if n := len(told.believed.Load().certificates); n != 2 {
		t.Errorf("%d roots are believed after it was taken back: want the own one and that outside", n)
	}
	check("taken back")

	// And back to the own root.
	if err := c.authority.LeaveUpstream(0); err != nil {
		t.Fatal(err)
	}
	tell(told)
	renew(told)
	check("leaving")
	tell(cut)
	renew(cut)
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	tell(told)
	tell(cut)
	check("left")
	if n := len(told.believed.Load().certificates); n != 1 {
		t.Errorf("%d roots are believed at the end", n)
	}
	if err := c.authority.LeaveUpstream(0); err == nil {
		t.Error("left twice")
	}
	again := func(r *snapshot.Roster) { r.Roots = append(r.Roots, outside.root.Raw) }
	if m.allow(); offline {
		if _, err := c.authority.UpdateRoster(again); !errors.Is(err, ErrRootOffline) {
			t.Errorf("a root outside that is not used any more is listed: %v", err)
		}
	}
}

// TestAnswersOfAuthoritiesThatAreWrong change nothing.
func TestAnswersOfAuthoritiesThatAreWrong(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	mine := newCorporate(t, c.clock.Now)
	other := newCorporate(t, c.clock.Now)
	foreign := &url.URL{Scheme: "spiffe", Host: "elsewhere.example"}
	for name, spoil := range map[string]func(*corporate){
		"away":                           func(o *corporate) { o.err = errors.New("connection refused") },
		"no certificate of an authority": func(o *corporate) { o.change = func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false } },
		"signs no certificates": func(o *corporate) {
			o.change = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }
		},
		"of another trust domain": func(o *corporate) { o.change = func(c *x509.Certificate) { c.URIs = []*url.URL{foreign} } },
		"lives too short": func(o *corporate) {
			o.change = func(c *x509.Certificate) { c.NotAfter = mine.now().Add(upstreamLeast*DefaultTTL - time.Second) }
		},
		"not valid yet": func(o *corporate) { o.change = func(c *x509.Certificate) { c.NotBefore = mine.now().Add(time.Hour) } },
		"may certify others": func(o *corporate) {
			o.change = func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }
		},
		"may certify others without end": func(o *corporate) { o.change = func(c *x509.Certificate) { c.MaxPathLenZero = false } },
		"a root that ends soon": func(o *corporate) {
			o.root = o.again(o.root, o.rootKey, mine.now().Add(upstreamLeast*DefaultTTL-time.Second))
		},
		"for other names alone": func(o *corporate) {
			o.change = func(c *x509.Certificate) { c.PermittedURIDomains = []string{"elsewhere.example"} }
		},
		"for mail alone": func(o *corporate) {
			o.change = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }
		},
		"nothing": func(o *corporate) { o.answer = func(a *upstreamca.Certified) { a.Chain = nil } },
		"no root": func(o *corporate) { o.answer = func(a *upstreamca.Certified) { a.Roots = nil } },
		"a root that it does not lead to": func(o *corporate) {
			o.answer = func(a *upstreamca.Certified) { a.Roots = []*x509.Certificate{other.root} }
		},
		"no root but an intermediate": func(o *corporate) { o.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, mine.by) } },
		"of another key": func(o *corporate) {
			o.answer = func(a *upstreamca.Certified) { a.Chain = []*x509.Certificate{mine.by} }
		},
		"a gap": func(o *corporate) { o.answer = func(a *upstreamca.Certified) { a.Chain = a.Chain[:1] } },
		"a long chain": func(o *corporate) {
			o.answer = func(a *upstreamca.Certified) { a.Chain = append(a.Chain, mine.by, mine.by) }
		},
		"many roots": func(o *corporate) {
			o.answer = func(a *upstreamca.Certified) {
				for range upstreamca.MaxRoots {
					a.Roots = append(a.Roots, mine.root)
				}
			}
		},
		"a large root": func(o *corporate) {
			key, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			large := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "large"}, NotBefore: mine.now(), NotAfter: mine.now().Add(rootLife),
				KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
				ExtraExtensions: []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, upstreamca.MaxCertificate)}},
			}
			root, err := certify(large, &key.PublicKey, large, key)
			if err != nil {
				t.Fatal(err)
			}
			o.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, root) }
		},
	} {
		one := *mine
		spoil(&one)
		serial := c.authority.Rotation().Serial
		err := c.ask(&one, false)
		if err == nil || one.err == nil && !errors.Is(err, upstreamca.ErrAnswer) {
			t.Errorf("%s: %v", name, err)
		}
		if r := c.authority.Rotation(); r.Phase != NotRotating || r.Serial != serial {
			t.Fatalf("%s: something has changed: %+v", name, r)
		}
	}
	if c.ask(mine, false) != nil {
		t.Error("the answer that is not spoilt is not taken: the test shows nothing")
	}
}

func mustCSR(t *testing.T) []byte {
	t.Helper()
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// TestAnIntermediateOutsideThatEnded issues nothing, and says so; what it issued ends with it.
func TestAnIntermediateOutsideThatEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	outside := newCorporate(t, c.clock.Now)
	if err := c.ask(outside, false); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.ActivateUpstream(0); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	ends := c.authority.Upstream().Ends
	c.clock.advance(ends.Add(-time.Hour).Sub(c.clock.Now()))
	chain, err := c.authority.IssueSVID(mustCSR(t), "spiffe://"+testDomain+"/ns/default/svc/web", 0)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil || leaf.NotAfter.After(ends) {
		t.Errorf("it outlives what it hangs on: %v, %v", leaf.NotAfter, err)
	}
	c.clock.advance(time.Hour)
	if _, err := c.authority.IssueSVID(mustCSR(t), "spiffe://"+testDomain+"/ns/default/svc/web", 0); err == nil {
		t.Error("it issues though it has ended")
	}
	if _, err := c.authority.ServerCertificate(nil)(nil); err != nil {
		t.Errorf("the controller's own certificate hangs on it: %v", err)
	}
	// The way out needs nobody outside.
	if err := c.authority.LeaveUpstream(0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.authority.IssueSVID(mustCSR(t), "spiffe://"+testDomain+"/ns/default/svc/web", 0); err != nil {
		t.Error(err)
	}
}

// takenOver is a cluster whose intermediate an authority outside certified, and nothing is rotated any more.
func takenOver(t *testing.T, c *cluster, outside *corporate) {
	t.Helper()
	if err := c.ask(outside, false); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.ActivateUpstream(0); err != nil {
		t.Fatal(err)
	}
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
}

// certifiedOutside is a cluster that is taken over as its root agreed, where people keep that elsewhere.
func certifiedOutside(t *testing.T, offline, follows bool) (*move, *corporate) {
	t.Helper()
	m := newMove(t, offline, follows)
	outside := newCorporate(t, m.clock.Now)
	m.allow(outside.root)
	takenOver(t, m.cluster, outside)
	return m, outside
}

// TestARootOutsideIsGivenUp: where the authority's answer has a root less, nodes cease to believe that one, as soon as
// nothing hangs on it.
func TestARootOutsideIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	outside := newCorporate(t, c.clock.Now)
	second, _ := outside.authority("Example root 2", nil, nil)
	outside.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, second) }
	takenOver(t, c, outside)
	if n := len(c.authority.held().roster.GetRoots()); n != 3 {
		t.Fatalf("%d roots: want the own one and both outside", n)
	}
	serial := c.authority.Rotation().Serial
	if err := c.ask(outside, true); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != NotRotating || r.Serial != serial {
		t.Fatalf("the same roots: %+v", r)
	}
	third, _ := outside.authority("Example root 3", nil, nil)
	outside.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, second, third) }
	if err := c.ask(outside, true); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != Announced {
		t.Fatalf("a root more: %+v", r)
	}
	if err := c.authority.Cancel(); err != nil {
		t.Fatal(err)
	}
	outside.answer = nil
	if err := c.ask(outside, true); err != nil {
		t.Fatal(err)
	}
	if r := c.authority.Rotation(); r.Phase != Announced {
		t.Fatalf("a root less: %+v", r)
	}
	if err := c.authority.ActivateUpstream(0); err != nil {
		t.Fatal(err)
	}
	if n := len(c.authority.held().roster.GetRoots()); n != 3 {
		t.Errorf("%d roots while certificates may hang on the one that is given up", n)
	}
	if err := c.authority.Withdraw(true); err != nil {
		t.Fatal(err)
	}
	for _, root := range c.authority.held().roster.GetRoots() {
		if string(root) == string(second.Raw) {
			t.Error("the root that the authority gave up is believed")
		}
	}
}

// TestWhatIsIssuedEndsWithTheRootOutside, also after the controller was killed.
func TestWhatIsIssuedEndsWithTheRootOutside(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	outside := newCorporate(t, c.clock.Now)
	ends := c.clock.Now().Add(20 * 24 * time.Hour).Truncate(time.Second)
	outside.root = outside.again(outside.root, outside.rootKey, ends)
	unused, _ := outside.authority("Example root 2", nil, nil) // lives longer, and nothing hangs on it
	outside.answer = func(a *upstreamca.Certified) { a.Roots = append(a.Roots, unused) }
	takenOver(t, c, outside)
	if err := c.authority.Close(); err != nil {
		t.Fatal(err)
	}
	c.authority = openAuthority(t, c.authority.cfg)
	if u := c.authority.Upstream(); !u.Ends.Equal(ends) {
		t.Errorf("it ends %s, and its root %s", u.Ends, ends)
	}
	c.clock.advance(ends.Add(-time.Hour).Sub(c.clock.Now()))
	chain, err := c.authority.IssueSVID(mustCSR(t), "spiffe://"+testDomain+"/ns/default/svc/web", 0)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := x509.ParseCertificate(chain[0]); err != nil || leaf.NotAfter.After(ends) {
		t.Errorf("it outlives the root that it hangs on: %v, %v", leaf.NotAfter, err)
	}
}

// TestTheOwnRootIsRotatedUnderAnAuthorityOutside: nodes go on to believe each other by the authority's root, and controllers
// by the own one. Roots whose keys are kept elsewhere agree to the authority's.
func TestTheOwnRootIsRotatedUnderAnAuthorityOutside(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		offline, follows bool
	}{
		{"both here", false, false}, {"from here to elsewhere", false, true}, {"from elsewhere to here", true, false}, {"both elsewhere", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, _ := certifiedOutside(t, tt.offline, tt.follows)
			c := m.cluster
			told, cut := c.joined("told", orders), c.joined("cut", orders)
			tls := cut.BusConfig().TLS
			serve := c.authority.ServerCertificate([]string{"mesh.example.com"})
			for _, step := range []func() error{
				func() error { m.announce(func() {}); return nil },
				func() error { return c.authority.ActivateRoot(0) },
				func() error {
					if m.next == nil {
						return nil
					}
					request, err := c.authority.Request() // both roots are trusted, and that outside
					if err != nil {
						return err
					}
					return c.authority.Accept(m.agreed(m.next, request))
				},
				func() error { return c.authority.Withdraw(true) },
			} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
				if _, err := told.UpdateRoster(c.authority.Roster()); err != nil {
					t.Fatal(err)
				}
				c.clock.advance(time.Millisecond)
				if err := told.request(t.Context(), c.wire("told"), false); err != nil {
					t.Fatal(err)
				}
				for _, pair := range [][2]*Identity{{told, cut}, {cut, told}} {
					if err := believes(t, pair[0], pair[1], orders); err != nil {
						t.Errorf("%s does not believe %s: %v", pair[0].Node(), pair[1].Node(), err)
					}
				}
				if err := shake(t, serve, tls); err != nil {
					t.Errorf("who was not told does not reach the bus: %v", err)
				}
			}
			if n := len(told.believed.Load().certificates); n != 2 {
				t.Errorf("%d roots are believed: want the own one and that outside", n)
			}
		})
	}
}
