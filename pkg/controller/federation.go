package controller

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/netutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/internal/segments"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/federation"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// maxBundleConnections bounds who reads the bundle at once; others wait.
	maxBundleConnections = 256
	// rereadCertificate is how long the bundle endpoint's files are shown before they are looked at again.
	rereadCertificate = 10 * time.Second
	maxCondition      = 1024 // bytes of a condition's message
)

// foreignStore keeps other trust domains' bundles with the authority's keys (federation.Store).
type foreignStore struct{ authority *ca.Authority }

const foreignSecret = "foreign bundle: "

// Load is federation.Store's.
func (s foreignStore) Load(trustDomain string) ([]byte, error) {
	return s.authority.Secret(foreignSecret + trustDomain)
}

// Save is federation.Store's.
func (s foreignStore) Save(trustDomain string, value []byte) error {
	return s.authority.PutSecret(foreignSecret+trustDomain, value)
}

// federate has the bundles of the trust domains fetched that documents name.
func (c *Controller) federate(in compile.Input) {
	var all []federation.Foreign
	for _, f := range compile.ForeignDomains(in) {
		all = append(all, federation.Foreign{
			TrustDomain: f.Spec.TrustDomain, URL: f.Spec.Endpoint.URL, SPIFFEID: f.Spec.Endpoint.SPIFFEID, Bundle: f.Spec.Bundle,
		})
	}
	c.federation.Apply(all)
}

// foreignConditions adds to what was compiled whether the endpoints of the documents in effect answer.
func (c *Controller) foreignConditions(in compile.Input, out compile.Output) {
	for _, f := range compile.ForeignDomains(in) {
		name := types.NamespacedName{Name: f.Name}
		out.Foreign[name] = append(out.Foreign[name], fetchedCondition(f, c.federation.Status(f.Spec.TrustDomain)))
	}
}

func fetchedCondition(f *api.FederatedTrustDomain, s federation.Status) metav1.Condition {
	condition := metav1.Condition{Type: "Fetched", Status: metav1.ConditionFalse, ObservedGeneration: f.Generation}
	has := "there is no bundle yet"
	if s.Bundle != nil {
		has = fmt.Sprintf("processes believe %d roots and %d keys of JWT-SVIDs", len(s.Bundle.X509Authorities()), len(s.Bundle.JWTAuthorities()))
	}
	switch {
	case s.Fetched:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, "Fetched", has
	case s.Err != nil:
		condition.Reason, condition.Message = "Unreachable", fmt.Sprintf("%s; %v", has, s.Err)
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionUnknown, "Pending", has+"; the endpoint was not asked yet"
	}
	condition.Message = condition.Message[:min(len(condition.Message), maxCondition)]
	return condition
}

// foreignBundles are the bundles of other trust domains as nodes are told, by name.
func foreignBundles(bundles []*spiffebundle.Bundle) (all []*snapshot.ForeignBundle, err error) {
	for _, b := range bundles {
		one := &snapshot.ForeignBundle{TrustDomain: b.TrustDomain().Name()}
		for _, root := range b.X509Authorities() {
			one.Roots = append(one.Roots, root.Raw)
		}
		for id, key := range b.JWTAuthorities() {
			der, err := x509.MarshalPKIXPublicKey(key)
			if err != nil {
				return nil, fmt.Errorf("key %q of %s: %w", id, b.TrustDomain(), err)
			}
			one.JwtKeys = append(one.JwtKeys, &snapshot.JWTKey{Id: id, PublicKey: der})
		}
		slices.SortFunc(one.JwtKeys, func(a, b *snapshot.JWTKey) int { return cmp.Compare(a.GetId(), b.GetId()) })
		all = append(all, one)
	}
	return all, nil
}

// ownBundle is the bundle of this trust domain, for others.
func (c *Controller) ownBundle() (*spiffebundle.Bundle, error) {
	domain, err := spiffeid.TrustDomainFromString(c.cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	roots, err := c.authority.BundleRoots()
	if err != nil {
		return nil, err
	}
	bundle := spiffebundle.FromX509Authorities(domain, roots)
	keys, err := c.authority.JWTKeys()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		public, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
		if err == nil {
			err = bundle.AddJWTAuthority(k.GetId(), public)
		}
		if err != nil {
			return nil, err
		}
	}
	return bundle, nil
}

// serveBundle answers other trust domains.
func (c *Controller) serveBundle(ctx context.Context) error {
	show := c.authority.ServerCertificate(c.cfg.hosts())
	if c.cfg.BundleCertificate != "" {
		files := &certificateFiles{certificate: c.cfg.BundleCertificate, key: c.cfg.BundleKey}
		if _, err := files.get(nil); err != nil {
			return fmt.Errorf("--bundle-certificate: %w", err)
		}
		show = files.get
	}
	listen := net.ListenConfig{Control: segments.Short}
	l, err := listen.Listen(ctx, "tcp", c.cfg.Bundle)
	if err != nil {
		return fmt.Errorf("%w (choose another address with --bundle-endpoint)", err)
	}
	l = tls.NewListener(netutil.LimitListener(l, maxBundleConnections), &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: show,
	})
	return socket.Serve(ctx, l, c.endpoint)
}

// certificateFiles show a certificate that others renew. What cannot be read is shown as it was.
type certificateFiles struct {
	certificate, key string

	mu     sync.Mutex
	shown  *tls.Certificate
	looked time.Time
	dated  [2]time.Time
}

func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown != nil && time.Since(f.looked) < rereadCertificate {
		return f.shown, nil
	}
	f.looked = time.Now()
	var dated [2]time.Time
	for i, name := range []string{f.certificate, f.key} {
		if info, err := os.Stat(name); err == nil {
			dated[i] = info.ModTime()
		}
	}
	if f.shown != nil && dated == f.dated {
		return f.shown, nil
	}
	next, err := tls.LoadX509KeyPair(f.certificate, f.key)
	if err == nil {
		f.shown, f.dated = &next, dated
	} else if f.shown == nil {
		return nil, err
	}
	return f.shown, nil
}
