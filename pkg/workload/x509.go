package workload

import (
	"bytes"
	"context"
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/ca"
)

// fetchX509SVID tells a process its certificate and key and whom it may believe, now and at each change.
func (s *Server) fetchX509SVID(ctx context.Context, c *call) error {
	service, err := s.caller(ctx)
	if err != nil {
		return err
	}
	release := s.svids.watch(service)
	defer release()
	return follow(ctx, s, c, func(ctx context.Context) (*X509SVIDResponse, error) {
		now, err := s.caller(ctx)
		if err != nil {
			return nil, err
		}
		if now != service {
			return nil, fail(codeUnavailable, "this process is another service now: ask again")
		}
		certificate, err := s.svids.get(ctx, service)
		if err != nil {
			return nil, s.failed("a certificate", service, err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
		if err != nil {
			return nil, fail(codeInternal, "the key cannot be written")
		}
		bundles := s.x509Bundles()
		own := bundles[spiffeid.RequireTrustDomainFromString(s.cfg.TrustDomain).IDString()]
		delete(bundles, spiffeid.RequireTrustDomainFromString(s.cfg.TrustDomain).IDString())
		return &X509SVIDResponse{
			Svids: []*X509SVID{{
				SpiffeId: ca.ServiceID(s.cfg.TrustDomain, service), X509Svid: bytes.Join(certificate.Certificate, nil), X509SvidKey: key, Bundle: own,
			}},
			FederatedBundles: bundles,
		}, nil
	})
}

// fetchX509Bundles tells a process whom it may believe, now and at each change.
func (s *Server) fetchX509Bundles(ctx context.Context, c *call) error {
	return follow(ctx, s, c, func(ctx context.Context) (*X509BundlesResponse, error) {
		if _, err := s.caller(ctx); err != nil {
			return nil, err
		}
		return &X509BundlesResponse{Bundles: s.x509Bundles()}, nil
	})
}

// x509Bundles are the roots of each trust domain, one behind the other, by the trust domain's SPIFFE ID.
func (s *Server) x509Bundles() map[string][]byte {
	all := map[string][]byte{}
	for _, bundle := range s.cfg.Bundles().Bundles() {
		var der []byte
		for _, root := range bundle.X509Authorities() {
			der = append(der, root.Raw...)
		}
		all[bundle.TrustDomain().IDString()] = der
	}
	return all
}

// follow sends what answer returns, and again whenever it returns something else, until it fails or the call ends.
func follow[M proto.Message](ctx context.Context, s *Server, c *call, answer func(context.Context) (M, error)) error {
	var last M
	sent := false
	for {
		changed := s.waits() // before the answer: what changes behind it is not missed
		next, err := answer(ctx)
		if err != nil {
			return err
		}
		if !sent || !proto.Equal(last, next) {
			if err := c.send(next); err != nil {
				return err
			}
			last, sent = next, true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}
