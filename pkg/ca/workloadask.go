package ca

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// WorkloadCertificate asks for a certificate of a service that a process of this host gets, with a new key that no lane
// has. It returns ErrNotAllowed where the registry does not let this node run the service.
func (i *Identity) WorkloadCertificate(ctx context.Context, conn Requester, service exchange.ServiceName) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := newCSR(key)
	if err != nil {
		return nil, err
	}
	grant, b, now, err := i.askWorkload(ctx, conn, &WorkloadRequest{Certificates: []*ServiceRequest{{Service: service.String(), Csr: csr}}})
	if err != nil {
		return nil, fmt.Errorf("ask for a certificate of %s for its process: %w", service, err)
	}
	if len(grant.GetCertificates()) != 1 {
		return nil, fmt.Errorf("%w: %d certificates where one was asked for", ErrUntrusted, len(grant.GetCertificates()))
	}
	chain := grant.GetCertificates()[0].GetChain()
	if err := b.checkIssued(chain, ServiceID(b.trustDomain, service), key, now); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key}, nil
}

// WorkloadToken asks for a JWT-SVID of a service that a process of this host gets. Only this node can read the answer.
func (i *Identity) WorkloadToken(ctx context.Context, conn Requester, service exchange.ServiceName, audience []string) (string, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	grant, _, _, err := i.askWorkload(ctx, conn, &WorkloadRequest{
		Tokens: []*JWTRequest{{Service: service.String(), Audience: audience}}, SealingKey: key.PublicKey().Bytes(),
	})
	if err != nil {
		return "", fmt.Errorf("ask for a JWT-SVID of %s: %w", service, err)
	}
	if len(grant.GetSealedTokens()) != 1 {
		return "", fmt.Errorf("%w: %d JWT-SVIDs where one was asked for", ErrUntrusted, len(grant.GetSealedTokens()))
	}
	from, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return "", err
	}
	token, err := hpke.Open(from, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedJWTInfo+service.String()), grant.GetSealedTokens()[0])
	if err != nil {
		return "", fmt.Errorf("%w: the JWT-SVID is not sealed to this request's key: %w", ErrUntrusted, err)
	}
	return string(token), nil
}

// askWorkload signs and sends a request, and verifies the answer. It returns whom the node believes, as of the answer, and
// the controller's time.
func (i *Identity) askWorkload(ctx context.Context, conn Requester, request *WorkloadRequest) (*WorkloadGrant, *believed, time.Time, error) {
	state := i.current()
	if state.GetReceipt() == nil {
		return nil, nil, time.Time{}, ErrNotJoined
	}
	key, err := i.openKey(state.GetKey())
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	request.Cluster, request.Node, request.Nonce = state.GetCluster(), state.GetNode(), make([]byte, nonceSize)
	_, _ = rand.Read(request.GetNonce()) // never fails
	encoded, err := proto.Marshal(request)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	signature, err := signECDSA(key, workloadDomain, encoded)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	payload, err := proto.Marshal(&SignedRequest{Request: encoded, CurrentSignature: signature})
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	data, err := conn.Request(ctx, bus.VerbWorkload, payload)
	if err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("ask a controller: %w", err)
	}
	reply, trust, err := openReply(state.GetCluster(), [32]byte(state.GetRootHash()), state.GetRoster(), encoded, data)
	if err != nil {
		return nil, nil, time.Time{}, err
	}
	if reply.GetRefusal() != nil {
		return nil, nil, time.Time{}, reply.GetRefusal().err()
	}
	next := cloneState(state)
	next.Roster = trust.Raw()
	next.CarriedSerials = i.believed.Load().carried(state, trust.Roster())
	b, err := newBelieved(next)
	if err != nil {
		return nil, nil, time.Time{}, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return reply.GetWorkload(), b, time.UnixMilli(reply.GetNowUnixMs()), nil
}

// Roots are the certificates that X.509-SVIDs of the trust domain chain to at this moment: its bundle. The caller changes
// nothing in them.
func (i *Identity) Roots() []*x509.Certificate {
	b := i.believed.Load()
	if b == nil {
		return nil
	}
	return slices.Clone(b.certificates)
}

// MayHold returns nil where a process of this host may have SVIDs of a service: the registry lets the node run it, and
// nothing revokes it.
func (i *Identity) MayHold(service exchange.ServiceName) error {
	b := i.believed.Load()
	switch {
	case b == nil:
		return ErrNotJoined
	case !slices.Contains(i.Services(), service):
		return notAllowed(i.Node(), service.String())
	case b.identities[ServiceID(b.trustDomain, service)]:
		return fmt.Errorf("%w: %s is revoked", ErrPeer, ServiceID(b.trustDomain, service))
	}
	if certificate := (*i.certificates.Load())[service]; certificate != nil {
		return i.ended(certificate.Leaf)
	}
	return nil
}

// CheckWorkload returns nil where a certificate that WorkloadCertificate returned can be shown now: it has not ended, it
// chains to a root, and nothing in it is revoked.
func (i *Identity) CheckWorkload(certificate *tls.Certificate, service exchange.ServiceName) error {
	b := i.believed.Load()
	if b == nil {
		return ErrNotJoined
	}
	chain, err := parseChain(certificate.Certificate)
	if err != nil {
		return err
	}
	id, err := b.verify(chain, i.cfg.Now())
	if err != nil {
		return err
	}
	if err := i.revoked.Load().check(chain, id.String()); err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	key, ok := certificate.PrivateKey.(*ecdsa.PrivateKey)
	if id.String() != ServiceID(b.trustDomain, service) || !ok || !key.PublicKey.Equal(chain[0].PublicKey) {
		return fmt.Errorf("%w: %s, or its key, is not that of %s", ErrPeer, id, service)
	}
	return nil
}

// CheckToken returns ErrPeer where a JWT-SVID whose signature and times were verified is revoked: its SPIFFE ID, when it was
// made, and the node that it was made for (NodeClaim). Of other trust domains nothing is known.
func (i *Identity) CheckToken(id, node string, issued time.Time) error {
	b := i.believed.Load()
	if b == nil {
		return ErrNotJoined
	}
	if b.identities[id] {
		return fmt.Errorf("%w: %s is revoked", ErrPeer, id)
	}
	if err := i.revoked.Load().checkToken(node, id, issued); err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return nil
}
