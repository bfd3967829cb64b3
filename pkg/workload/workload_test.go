package workload

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	pb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sennit-mesh/sennit/internal/tokentest"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const trustDomain = "mesh.example"

var (
	orders   = exchange.ServiceName{Namespace: "default", Name: "orders"}
	payments = exchange.ServiceName{Namespace: "default", Name: "payments"}
)

// authority is an Issuer of a root of its own, and a Keeper. Its fields say what it does, and may be changed while it
// is used.
type authority struct {
	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time

	mu       sync.Mutex
	life     time.Duration // of certificates
	fails    error         // in the place of every answer
	mayHold  error
	revoked  map[string]bool // by serial
	kept     map[exchange.ServiceName]*tls.Certificate
	issued   int
	tokens   int
	token    func(id, node string, issued time.Time) error // why a token is revoked
	declared []Declared
	foreign  []*spiffebundle.Bundle
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, now: time.Now, life: time.Hour, revoked: map[string]bool{}, kept: map[exchange.ServiceName]*tls.Certificate{}}
	a.declared = []Declared{{orders, capture.Workload{HasUID: true, UID: uint32(os.Geteuid())}}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.root = rootOf(t, trustDomain, a.key)
	return a
}

func rootOf(t *testing.T, domain string, key *ecdsa.PrivateKey) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (a *authority) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *authority) Certificate(_ context.Context, service exchange.ServiceName) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fails != nil {
		return nil, a.fails
	}
	a.issued++
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id, _ := url.Parse(ca.ServiceID(trustDomain, service))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(1000 + a.issued)), NotBefore: a.now().Add(-ca.Backdate), NotAfter: a.now().Add(a.life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, URIs: []*url.URL{id},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), a.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (a *authority) Token(_ context.Context, service exchange.ServiceName, audience []string) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fails != nil {
		return "", a.fails
	}
	a.tokens++
	return a.sign(ca.ServiceID(trustDomain, service), audience), nil
}

func (a *authority) sign(id string, audience []string) string {
	return tokentest.Sign(a.t, a.key, "one", map[string]any{
		"sub": id, "aud": audience, "jti": fmt.Sprint(a.tokens), "iat": a.now().Unix(), "exp": a.now().Add(5 * time.Minute).Unix(), ca.NodeClaim: "web1",
	})
}

func (a *authority) MayHold(exchange.ServiceName) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mayHold
}

func (a *authority) Check(certificate *tls.Certificate, _ exchange.ServiceName) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	switch {
	case err != nil:
		return err
	case a.revoked[leaf.SerialNumber.String()]:
		return fmt.Errorf("%w: revoked", ca.ErrPeer)
	case a.now().After(leaf.NotAfter):
		return errors.New("it has ended")
	}
	return nil
}

func (a *authority) CheckToken(id, node string, issued time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token != nil {
		return a.token(id, node, issued)
	}
	return nil
}

func (a *authority) Load(service exchange.ServiceName) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.kept[service], nil
}

func (a *authority) Save(service exchange.ServiceName, certificate *tls.Certificate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept[service] = certificate
	return nil
}

func (a *authority) workloads() []Declared {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.declared
}

func (a *authority) bundles() *spiffebundle.Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := spiffebundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(trustDomain), []*x509.Certificate{a.root})
	own.AddJWTAuthority("one", a.key.Public())
	return spiffebundle.NewSet(append([]*spiffebundle.Bundle{own}, a.foreign...)...)
}

func (a *authority) config() Config {
	return Config{
		TrustDomain: trustDomain, Issuer: a, Keeper: a, Processes: capture.NewProcesses(""), Declared: a.workloads, Bundles: a.bundles,
		Log: slog.New(slog.DiscardHandler),
	}
}

// serve runs a server and returns it and its address.
func (a *authority) serve() (*Server, string) {
	a.t.Helper()
	s := New(a.config())
	path := filepath.Join(a.t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	a.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			a.t.Error(err)
		}
	})
	return s, "unix://" + path
}

func x509Source(t *testing.T, address string) *workloadapi.X509Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { source.Close() })
	return source
}

// client speaks gRPC itself, with the header that the standard asks for.
func client(t *testing.T, address string) (pb.SpiffeWorkloadAPIClient, context.Context) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return pb.NewSpiffeWorkloadAPIClient(conn), metadata.AppendToOutgoingContext(ctx, securityHeader, "true")
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

func TestX509Source(t *testing.T) {
	a := newAuthority(t)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	partner := spiffeid.RequireTrustDomainFromString("partner.example")
	a.foreign = []*spiffebundle.Bundle{spiffebundle.FromX509Authorities(partner, []*x509.Certificate{rootOf(t, "partner.example", other)})}
	s, address := a.serve()
	source := x509Source(t, address)
	first, err := source.GetX509SVID()
	if err != nil || first.ID.String() != "spiffe://mesh.example/ns/default/svc/orders" {
		t.Fatalf("%v, %v", first, err)
	}
	for _, domain := range []spiffeid.TrustDomain{first.ID.TrustDomain(), partner} {
		if bundle, err := source.GetX509BundleForTrustDomain(domain); err != nil || len(bundle.X509Authorities()) != 1 {
			t.Errorf("bundle of %s: %v, %v", domain, bundle, err)
		}
	}

	// One that is revoked is replaced, and who waits hears of it.
	updated := source.Updated()
	a.set(func() { a.revoked[first.Certificates[0].SerialNumber.String()] = true })
	s.Changed()
	<-updated
	second, err := source.GetX509SVID()
	if err != nil || second.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) == 0 {
		t.Errorf("%v, %v", second, err)
	}
	if first.PrivateKey.(*ecdsa.PrivateKey).Equal(second.PrivateKey.(crypto.PrivateKey)) {
		t.Error("the new certificate has the key of the one before")
	}

	// Another bundle too.
	updated = source.Updated()
	a.set(func() { a.foreign = nil })
	s.Changed()
	<-updated
	if _, err := source.GetX509BundleForTrustDomain(partner); err == nil {
		t.Error("a bundle that is gone is still believed")
	}
}

func TestCertificatesAreRenewedWhileOneWaits(t *testing.T) {
	a := newAuthority(t)
	a.life = 2 * time.Second // renewed after one to one and a half
	_, address := a.serve()
	source := x509Source(t, address)
	for range 2 {
		updated := source.Updated()
		before, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		<-updated
		after, err := source.GetX509SVID()
		if err != nil || after.Certificates[0].Equal(before.Certificates[0]) {
			t.Errorf("%v, %v", after, err)
		}
	}
}

func TestCertificatesAreKept(t *testing.T) {
	a := newAuthority(t)
	_, address := a.serve()
	first, err := x509Source(t, address).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	a.set(func() { a.fails = errors.New("the bus is away") })
	_, address = a.serve() // a node that was started again
	second, err := x509Source(t, address).GetX509SVID()
	if err != nil || !second.Certificates[0].Equal(first.Certificates[0]) {
		t.Errorf("%v, %v", second, err)
	}
}

func TestWhoIsNobodyGetsNothing(t *testing.T) {
	a := newAuthority(t)
	a.declared = []Declared{{orders, capture.Workload{HasUID: true, UID: uint32(os.Geteuid()) + 1}}}
	s, address := a.serve()
	c, ctx := client(t, address)
	token := a.sign(ca.ServiceID(trustDomain, orders), []string{"db"})
	ask := func(what string, want codes.Code) {
		t.Helper()
		svids, err := c.FetchX509SVID(ctx, &pb.X509SVIDRequest{})
		if err == nil {
			_, err = svids.Recv()
		}
		wantCode(t, what+": FetchX509SVID", err, want)
		bundles, err := c.FetchX509Bundles(ctx, &pb.X509BundlesRequest{})
		if err == nil {
			_, err = bundles.Recv()
		}
		wantCode(t, what+": FetchX509Bundles", err, want)
		jwtBundles, err := c.FetchJWTBundles(ctx, &pb.JWTBundlesRequest{})
		if err == nil {
			_, err = jwtBundles.Recv()
		}
		wantCode(t, what+": FetchJWTBundles", err, want)
		_, err = c.FetchJWTSVID(ctx, &pb.JWTSVIDRequest{Audience: []string{"db"}})
		wantCode(t, what+": FetchJWTSVID", err, want)
		_, err = c.ValidateJWTSVID(ctx, &pb.ValidateJWTSVIDRequest{Audience: "db", Svid: token})
		wantCode(t, what+": ValidateJWTSVID", err, want)
	}
	ask("no workload", codes.PermissionDenied)
	a.set(func() { a.declared[0].Process.UID = uint32(os.Geteuid()) })
	ask("a workload", codes.OK)
	a.set(func() { a.mayHold = ca.ErrNotAllowed })
	ask("a service that the node may not run", codes.PermissionDenied)

	// A stream ends where its process is nobody any more.
	a.set(func() { a.mayHold = nil })
	svids, err := c.FetchX509SVID(ctx, &pb.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svids.Recv(); err != nil {
		t.Fatal(err)
	}
	a.set(func() { a.declared = nil })
	s.Changed()
	_, err = svids.Recv()
	wantCode(t, "a stream of who was somebody", err, codes.PermissionDenied)
}

func TestTheHeaderIsNeeded(t *testing.T) {
	a := newAuthority(t)
	_, address := a.serve()
	c, _ := client(t, address)
	for name, md := range map[string]metadata.MD{
		"none": {}, "another value": metadata.Pairs(securityHeader, "false"), "twice": metadata.Pairs(securityHeader, "true", securityHeader, "true"),
	} {
		ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), time.Minute)
		svids, err := c.FetchX509SVID(ctx, &pb.X509SVIDRequest{})
		if err == nil {
			_, err = svids.Recv()
		}
		wantCode(t, name+", of a stream", err, codes.InvalidArgument)
		_, err = c.FetchJWTSVID(ctx, &pb.JWTSVIDRequest{Audience: []string{"db"}})
		wantCode(t, name, err, codes.InvalidArgument)
		cancel()
	}
}

func TestControllersThatCannotBeAsked(t *testing.T) {
	a := newAuthority(t)
	_, address := a.serve()
	c, ctx := client(t, address)
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("the bus is away"), codes.Unavailable}, {ca.ErrTryAgain, codes.Unavailable},
		{ca.ErrNotAllowed, codes.PermissionDenied}, {ca.ErrFrozen, codes.PermissionDenied},
	} {
		a.set(func() { a.fails = fmt.Errorf("ask: %w", tt.err) })
		svids, err := c.FetchX509SVID(ctx, &pb.X509SVIDRequest{})
		if err == nil {
			_, err = svids.Recv()
		}
		wantCode(t, tt.err.Error(), err, tt.want)
		_, err = c.FetchJWTSVID(ctx, &pb.JWTSVIDRequest{Audience: []string{"db"}})
		wantCode(t, tt.err.Error(), err, tt.want)
	}
}

func TestJWTSource(t *testing.T) {
	a := newAuthority(t)
	_, address := a.serve()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(address)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", ExtraAudiences: []string{"cache"}})
	if err != nil || svid.ID.String() != "spiffe://mesh.example/ns/default/svc/orders" {
		t.Fatalf("%v, %v", svid, err)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"cache"}); err != nil {
		t.Error(err)
	}
	again, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "cache", ExtraAudiences: []string{"db"}})
	if err != nil || again.Marshal() != svid.Marshal() {
		t.Errorf("the same audience has another token: %v", err)
	}
	if other, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db"}); err != nil || other.Marshal() == svid.Marshal() {
		t.Errorf("another audience has the same token: %v", err)
	}

	c, ctx := client(t, address)
	answer, err := c.ValidateJWTSVID(ctx, &pb.ValidateJWTSVIDRequest{Audience: "db", Svid: svid.Marshal()})
	if err != nil || answer.GetSpiffeId() != svid.ID.String() || answer.GetClaims().GetFields()["sub"].GetStringValue() != svid.ID.String() {
		t.Errorf("%v, %v", answer, err)
	}
	stranger := newAuthority(t).sign(svid.ID.String(), []string{"db"})
	for name, request := range map[string]*pb.ValidateJWTSVIDRequest{
		"another audience":        {Audience: "web", Svid: svid.Marshal()},
		"no audience":             {Svid: svid.Marshal()},
		"no token":                {Audience: "db"},
		"a token of another key":  {Audience: "db", Svid: stranger},
		"another trust domain":    {Audience: "db", Svid: a.sign("spiffe://evil.example/a", []string{"db"})},
		"not a token":             {Audience: "db", Svid: "a.b.c"},
		"a token without an end":  {Audience: "db", Svid: "eyJhbGciOiJub25lIn0.e30."},
		"a token that is too big": {Audience: "db", Svid: string(make([]byte, maxToken+1))},
	} {
		_, err := c.ValidateJWTSVID(ctx, request)
		wantCode(t, name, err, codes.InvalidArgument)
	}
	for name, tt := range map[string]struct {
		request *pb.JWTSVIDRequest
		want    codes.Code
	}{
		"no audience":        {&pb.JWTSVIDRequest{}, codes.InvalidArgument},
		"an empty audience":  {&pb.JWTSVIDRequest{Audience: []string{""}}, codes.InvalidArgument},
		"too many audiences": {&pb.JWTSVIDRequest{Audience: make([]string, ca.MaxAudiences+1)}, codes.InvalidArgument},
		"no SPIFFE ID":       {&pb.JWTSVIDRequest{Audience: []string{"db"}, SpiffeId: "orders"}, codes.InvalidArgument},
		"another's":          {&pb.JWTSVIDRequest{Audience: []string{"db"}, SpiffeId: ca.ServiceID(trustDomain, payments)}, codes.PermissionDenied},
		"its own":            {&pb.JWTSVIDRequest{Audience: []string{"db"}, SpiffeId: ca.ServiceID(trustDomain, orders)}, codes.OK},
	} {
		_, err := c.FetchJWTSVID(ctx, tt.request)
		wantCode(t, name, err, tt.want)
	}
}

// TestRevokedTokensAreRefused, and not handed out from memory.
func TestRevokedTokensAreRefused(t *testing.T) {
	a := newAuthority(t)
	_, address := a.serve()
	c, ctx := client(t, address)
	fetch := func() string {
		t.Helper()
		answer, err := c.FetchJWTSVID(ctx, &pb.JWTSVIDRequest{Audience: []string{"db"}})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetSvids()[0].GetSvid()
	}
	stolen := fetch()
	if fetch() != stolen {
		t.Error("a token is not remembered")
	}
	var asked []string
	a.set(func() {
		a.token = func(id, node string, issued time.Time) error {
			if age := time.Since(issued); age < 0 || age > time.Minute {
				node = "at another time"
			}
			asked = append(asked, id+" "+node)
			return fmt.Errorf("%w: revoked", ca.ErrPeer)
		}
	})
	_, err := c.ValidateJWTSVID(ctx, &pb.ValidateJWTSVIDRequest{Audience: "db", Svid: stolen})
	wantCode(t, "a token that is revoked", err, codes.InvalidArgument)
	if fetch() == stolen {
		t.Error("a token that is revoked is handed out")
	}
	for _, one := range asked {
		if one != ca.ServiceID(trustDomain, orders)+" web1" {
			t.Errorf("asked of %s", one)
		}
	}
	if len(asked) < 2 {
		t.Errorf("asked of %q", asked)
	}
}

func TestTokensAreLimited(t *testing.T) {
	a := newAuthority(t)
	now := time.Now()
	a.now = func() time.Time { return now }
	cfg := a.config()
	cfg.Now = a.now
	tokens := newTokens(cfg)
	for i := range serviceBurst {
		if _, err := tokens.get(t.Context(), orders, []string{fmt.Sprint(i)}); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := tokens.get(t.Context(), orders, []string{"one more"}); !errors.Is(err, errTooMany) {
		t.Errorf("%v", err)
	}
	if _, err := tokens.get(t.Context(), orders, []string{"0"}); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	if _, err := tokens.get(t.Context(), payments, []string{"0"}); err != nil {
		t.Errorf("another service: %v", err)
	}
	now = now.Add(time.Second)
	if _, err := tokens.get(t.Context(), orders, []string{"one more"}); err != nil {
		t.Errorf("after a second: %v", err)
	}
	made := a.tokens
	now = now.Add(ca.JWTLife / 2)
	if _, err := tokens.get(t.Context(), orders, []string{"0"}); err != nil || a.tokens != made+1 {
		t.Errorf("after half of its life: %v, %d made", err, a.tokens-made)
	}
	for i := range 2 * maxTokens {
		tokens.remember(fmt.Sprint("x", i), token{until: now.Add(time.Hour)})
	}
	if len(tokens.known) > maxTokens {
		t.Errorf("%d are remembered", len(tokens.known))
	}
}

func TestConnectionsOfAUserAreBounded(t *testing.T) {
	l := newListener(nil, nil, nil)
	for range maxOfUser {
		if !l.take(1) {
			t.Fatal("too few")
		}
	}
	if l.take(1) || !l.take(2) {
		t.Error("too many of one user, or one of another is hindered")
	}
	l.release(2)
	l.release(1)
	if !l.take(1) || len(l.open) != 1 {
		t.Error("what was closed counts on")
	}
	for uid := range uint32(maxConnections) {
		l.take(10 + uid)
	}
	if l.take(5000) {
		t.Error("too many of all")
	}
}
