package ca

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A TokenRequest says what a join token is to be for.
type TokenRequest struct {
	Node      string
	Services  []exchange.ServiceName // that the node may run
	TTL       time.Duration          // 0: DefaultTokenTTL; at most 30 days, or 366 with Attest
	Addresses []string               // of the bus; nil: as the registrar is configured
	// Attest lets many hosts join, each under the name of its machine; Node is what the token is called then. nil: one host.
	Attest *Attest
}

// CreateToken makes a token with which one host can join once under the node's name. It refuses with
// ErrNameTaken where a node of that name lives. The controllers keep nothing of the token that would let a
// reader of the registry join.
func (r *Registrar) CreateToken(ctx context.Context, request TokenRequest) (*Token, error) {
	if err := CheckNodeName(request.Node); err != nil {
		return nil, err
	}
	if request.TTL == 0 {
		request.TTL = DefaultTokenTTL
	}
	longest := maxTokenTTL
	if request.Attest != nil {
		longest = attestTTL
		if err := request.Attest.Check(); err != nil {
			return nil, err
		}
		if request.Attest.Provider != attest.TPM && !r.cfg.Attest.Has(request.Attest.Provider) {
			return nil, fmt.Errorf("%w: this controller has no keys of %s to verify it with; start it with --attest-%s",
				ErrNotAttested, request.Attest.Provider, request.Attest.Provider)
		}
	}
	if request.TTL < minTokenTTL || request.TTL > longest {
		return nil, fmt.Errorf("join token that lives %s: want between %s and %s", request.TTL, minTokenTTL, longest)
	}
	if request.Addresses == nil {
		request.Addresses = r.cfg.Addresses
	}
	record, _, err := r.read(ctx, request.Node)
	switch {
	case err == nil && !r.free(record):
		return nil, r.taken(record)
	case err != nil && !errors.Is(err, ErrUnknownNode):
		return nil, err
	}
	expires := r.cfg.Now().Add(request.TTL)
	busToken, busSeed, err := r.cfg.Users.JoinUser(request.Node, expires)
	if err != nil {
		return nil, err
	}
	random := make([]byte, tokenIDSize+seedSize)
	_, _ = rand.Read(random) // never fails
	hash := r.cfg.Authority.RootHash()
	body := &TokenBody{
		Cluster: r.cfg.Authority.Cluster(), TrustDomain: r.cfg.Authority.TrustDomain(), Node: request.Node, RootHash: hash[:],
		Addresses: request.Addresses, BusJwt: busToken, BusSeed: string(busSeed),
		Id: random[:tokenIDSize], Seed: random[tokenIDSize:], ExpiresUnixMs: expires.UnixMilli(),
	}
	for _, service := range request.Services {
		body.Services = append(body.Services, service.String())
	}
	var attestation *Attestation
	if a := request.Attest; a != nil {
		body.Attest = string(a.Provider)
		attestation = &Attestation{Provider: string(a.Provider), Accounts: a.Accounts, Places: a.Places, EndorsementKeys: a.TPMs.Keys}
		for _, authority := range a.TPMs.Authorities {
			attestation.Authorities = append(attestation.Authorities, authority.Raw)
		}
	}
	token, err := newToken(body)
	if err != nil {
		return nil, fmt.Errorf("make a join token for %s: %w", request.Node, err)
	}
	digest := token.digest()
	data, err := proto.Marshal(&TokenRecord{
		Node: request.Node, Services: body.GetServices(), ExpiresUnixMs: body.GetExpiresUnixMs(),
		VerifyKey: token.key().Public().(ed25519.PublicKey), Digest: digest[:],
		Attestation: attestation,
	})
	if err != nil {
		return nil, err
	}
	if _, err := r.cfg.Store.Append(ctx, tokenPrefixes+token.ID(), data, 0); err != nil {
		return nil, fmt.Errorf("store the join token for %s: %w", request.Node, err)
	}
	return token, nil
}

// A TokenStatus is a join token as the registry knows it: what would let its reader join is not there.
type TokenStatus struct {
	ID       string
	Node     string
	Services []exchange.ServiceName
	Expires  time.Time
	Used     time.Time // zero: not yet
	Attest   *Attest   // nil: it is for one host
}

// RevokeToken takes a join token back: it admits nobody from then on, and is not listed. A host that joined
// with it stays. It returns ErrTokenUnknown where there is none.
func (r *Registrar) RevokeToken(ctx context.Context, id string) error {
	if len(id) != 2*tokenIDSize || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: %q is no token's name", ErrTokenUnknown, id)
	}
	entry, err := r.cfg.Store.Get(ctx, tokenPrefixes+id)
	if errors.Is(err, bus.ErrNotFound) {
		return fmt.Errorf("%w: %s", ErrTokenUnknown, id)
	}
	record := &TokenRecord{}
	if err == nil {
		err = proto.Unmarshal(entry.Data, record)
	}
	record.Revoked = true
	var data []byte
	if err == nil {
		data, err = proto.Marshal(record)
	}
	if err == nil {
		_, err = r.cfg.Store.Append(ctx, tokenPrefixes+id, data, entry.Sequence)
	}
	if err != nil {
		return fmt.Errorf("revoke join token %s: %w", id, err)
	}
	return nil
}

// free reports whether a node's name may be given to another host.
func (r *Registrar) free(record *NodeRecord) bool {
	return record.GetState() == NodeState_NODE_STATE_REMOVED ||
		r.cfg.Now().Sub(time.UnixMilli(record.GetRenewedUnixMs())) > r.cfg.Absence
}

func (r *Registrar) taken(record *NodeRecord) error {
	return refuse(ErrNameTaken, "%s joined on %s and last renewed on %s; choose another name, or end that node with `sennit node remove %s`",
		record.GetNode(), time.UnixMilli(record.GetJoinedUnixMs()).UTC().Format(time.DateTime),
		time.UnixMilli(record.GetRenewedUnixMs()).UTC().Format(time.DateTime), record.GetNode())
}
