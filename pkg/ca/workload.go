package ca

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
	"slices"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// Bounds of what one request for SVIDs of processes may ask for.
const (
	maxWorkloadSVIDs = 8   // certificates and tokens together
	MaxAudiences     = 16  // of one JWT-SVID
	MaxAudience      = 512 // bytes of one of them
)

// sealedJWTInfo binds what is sealed to its purpose and to the service.
const sealedJWTInfo = "sennit jwt-svid v1 "

// Workload answers a node's request for SVIDs that it hands to processes (bus.Handler, verb "workload"): of services that
// the registry allows the node to run, and no others. What it refuses is a signed refusal in the reply. A request that is
// repeated by others than the node gives them nothing: certificates are of keys that the node made, and tokens are sealed to one.
func (r *Registrar) Workload(ctx context.Context, node string, request []byte) ([]byte, error) {
	signed := &SignedRequest{}
	if err := unmarshalRequest(request, signed); err != nil {
		return r.reply(nil, nil, err)
	}
	grant, err := r.workload(ctx, node, signed)
	if err != nil {
		r.recordRefusal(ctx, node, "workload", err)
	}
	return r.answer(signed.GetRequest(), &Reply{Workload: grant}, err)
}

func (r *Registrar) workload(ctx context.Context, node string, signed *SignedRequest) (*WorkloadGrant, error) {
	request := &WorkloadRequest{}
	if err := unmarshalRequest(signed.GetRequest(), request); err != nil {
		return nil, err
	}
	authority := r.cfg.Authority
	switch n := len(request.GetCertificates()) + len(request.GetTokens()); {
	case request.GetNode() != node:
		return nil, refuse(ErrBadRequest, "%s asks in the name of %q", node, request.GetNode())
	case request.GetCluster() != authority.Cluster():
		return nil, refuse(ErrBadRequest, "%s is of cluster %q, and this is %q", node, request.GetCluster(), authority.Cluster())
	case n == 0 || n > maxWorkloadSVIDs || len(request.GetNonce()) != nonceSize:
		return nil, refuse(ErrBadRequest, "%d SVIDs (1 to %d), or a nonce of the wrong length", n, maxWorkloadSVIDs)
	}
	record, err := r.workingNode(ctx, node, signed)
	if err != nil {
		return nil, err
	}
	revoked, err := r.revoked(ctx)
	if err != nil {
		return nil, err
	}
	var orders []order
	grant := &WorkloadGrant{}
	for _, wanted := range request.GetCertificates() {
		id, err := r.workloadID(record, wanted.GetService())
		if err != nil {
			return nil, err
		}
		key, err := parseCSR(wanted.GetCsr())
		if err != nil {
			return nil, refuse(ErrBadRequest, "key of %s: %v", wanted.GetService(), err)
		}
		orders = append(orders, order{id: id, key: key, node: node, after: revoked.after(node, id)})
		grant.Certificates = append(grant.Certificates, &ServiceGrant{Service: wanted.GetService()})
	}
	tokens, issued, err := r.signJWTs(record, request, revoked)
	if err != nil {
		return nil, err
	}
	if len(orders) > 0 {
		chains, certificates, err := authority.issue(r.cfg.TTL, orders...)
		if err != nil {
			return nil, err
		}
		for i, chain := range chains {
			grant.Certificates[i].Chain = chain
		}
		issued = append(issued, certificates...)
	}
	if err := r.cfg.Record(ctx, Decision{
		Node: node, Verb: "workload", Address: record.GetAddress(), Services: record.GetServices(), Generation: record.GetGeneration(), Issued: issued,
	}); err != nil {
		return nil, err
	}
	grant.SealedTokens = tokens
	return grant, nil
}

// workingNode returns the record of a node that signed the request with its key, or with the one before, and that may have
// new SVIDs: one that is frozen may not, since one of the two hosts that are it is not meant to.
func (r *Registrar) workingNode(ctx context.Context, node string, signed *SignedRequest) (*NodeRecord, error) {
	record, _, err := r.read(ctx, node)
	if err != nil {
		return nil, err
	}
	switch record.GetState() {
	case NodeState_NODE_STATE_FROZEN:
		return nil, refuse(ErrFrozen, "%s (%s); see `sennit node accept`", node, record.GetWhy())
	case NodeState_NODE_STATE_REMOVED:
		return nil, refuse(ErrRemoved, "%s", node)
	}
	err = verifyECDSA(record.GetPublicKey(), workloadDomain, signed.GetRequest(), signed.GetCurrentSignature())
	if err != nil && record.GetPreviousKey() != nil {
		err = verifyECDSA(record.GetPreviousKey(), workloadDomain, signed.GetRequest(), signed.GetCurrentSignature())
	}
	if err != nil {
		return nil, refuse(ErrBadRequest, "the node's key did not sign it: %v", err)
	}
	return record, nil
}

// workloadID is the SPIFFE ID of a service that a node may run.
func (r *Registrar) workloadID(record *NodeRecord, service string) (string, error) {
	name, err := exchange.ParseServiceName(service)
	if err != nil {
		return "", refuse(ErrBadRequest, "%v", err)
	}
	if !slices.Contains(record.GetServices(), name.String()) {
		return "", notAllowed(record.GetNode(), name.String())
	}
	id := ServiceID(r.cfg.Authority.TrustDomain(), name)
	if r.cfg.Authority.revoked(id) {
		return "", refuse(ErrNotAllowed, "the identity %s is revoked", id)
	}
	return id, nil
}

// revoked reports whether the newest roster revokes an identity.
func (a *Authority) revoked(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.roster.GetRevokedIdentities(), id)
}

// signJWTs makes the tokens of a request, sealed to its key.
func (r *Registrar) signJWTs(record *NodeRecord, request *WorkloadRequest, revoked *revokedSet) (sealed [][]byte, issued []Issued, err error) {
	if len(request.GetTokens()) == 0 {
		return nil, nil, nil
	}
	public, err := ecdh.X25519().NewPublicKey(request.GetSealingKey())
	if err != nil {
		return nil, nil, refuse(ErrBadRequest, "key that tokens are sealed to: %v", err)
	}
	to, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return nil, nil, refuse(ErrBadRequest, "key that tokens are sealed to: %v", err)
	}
	for _, wanted := range request.GetTokens() {
		id, err := r.workloadID(record, wanted.GetService())
		if err != nil {
			return nil, nil, err
		}
		if err := CheckAudience(wanted.GetAudience()); err != nil {
			return nil, nil, refuse(ErrBadRequest, "%v", err)
		}
		token, one, err := r.cfg.Authority.signJWT(id, record.GetNode(), wanted.GetAudience(), revoked.tokenAfter(record.GetNode(), id))
		if err != nil {
			return nil, nil, err
		}
		ciphertext, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(sealedJWTInfo+wanted.GetService()), []byte(token))
		if err != nil {
			return nil, nil, refuse(ErrBadRequest, "key that tokens are sealed to: %v", err) // as one of which everybody has the other half
		}
		sealed, issued = append(sealed, ciphertext), append(issued, one)
	}
	return sealed, issued, nil
}

// CheckAudience returns an error that says what is wrong with the audience of a JWT-SVID.
func CheckAudience(audience []string) error {
	if len(audience) == 0 || len(audience) > MaxAudiences {
		return fmt.Errorf("%d audiences: a JWT-SVID has 1 to %d", len(audience), MaxAudiences)
	}
	for _, one := range audience {
		if one == "" || len(one) > MaxAudience {
			return fmt.Errorf("an audience of %d bytes: want 1 to %d", len(one), MaxAudience)
		}
	}
	return nil
}
