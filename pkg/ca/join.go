package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// Join makes the host a node: keys are made here and stored, the token's bus user asks, the token's seed
// and the new key sign, and the answer is believed only where it chains to the token's root and answers
// this request. Where it is cut short, calling it again with the same token ends with the same node. dial
// may be nil. It refuses a host that has joined with ErrAlreadyJoined.
func (i *Identity) Join(ctx context.Context, token *Token, dial Dial) error {
	if err := i.join(ctx, token, dial); err != nil {
		return fmt.Errorf("join as %q: %w", token.Node(), err)
	}
	return nil
}

func (i *Identity) join(ctx context.Context, token *Token, dial Dial) error {
	i.renewing.Lock()
	defer i.renewing.Unlock()
	if dial == nil {
		dial = dialBus
	}
	state := i.current()
	if state.GetReceipt() != nil {
		return refuse(ErrAlreadyJoined, "it is node %s of cluster %s; start it without a token, or remove its state directory %s to join anew",
			state.GetNode(), state.GetCluster(), i.cfg.Dir)
	}
	if err := token.Expired(i.cfg.Now()); err != nil {
		return err
	}
	if !bytes.Equal(state.GetTokenId(), token.body.GetId()) {
		fresh, err := newState(token)
		if err != nil {
			return err
		}
		if err := i.begin(fresh); err != nil {
			return err
		}
		state = fresh
	}
	key, err := parseKey(state.GetPendingKey())
	if err != nil {
		return err
	}
	conn, end, err := dial(ctx, bus.ConnConfig{
		Name: token.Node(), Servers: token.Addresses(), Log: i.cfg.Log,
		TLS:        controllerTLS([32]byte(token.body.GetRootHash()), token.body.GetTrustDomain(), i.cfg.Now),
		Credential: bus.JoinCredential(token.Node(), token.body.GetBusJwt(), []byte(token.body.GetBusSeed())),
	})
	if err != nil {
		return fmt.Errorf("reach the bus at %s: %w", strings.Join(token.Addresses(), ", "), err)
	}
	defer end()
	services, err := parseServices(token.body.GetServices())
	if err != nil {
		return err
	}
	wanted, keys, err := i.want(state, key, services)
	if err != nil {
		return err
	}
	digest := token.digest()
	request, err := proto.Marshal(&JoinRequest{
		Cluster: token.Cluster(), TokenId: token.body.GetId(), TokenDigest: digest[:], Wanted: wanted,
	})
	if err != nil {
		return err
	}
	signature, err := signECDSA(key, joinDomain, request)
	if err != nil {
		return err
	}
	payload, err := proto.Marshal(&SignedRequest{
		Request: request, NewSignature: signature,
		SeedSignature: ed25519.Sign(token.key(), append([]byte(joinDomain), request...)),
	})
	if err != nil {
		return err
	}
	data, err := conn.Request(ctx, bus.VerbJoin, payload)
	if err != nil {
		return fmt.Errorf("ask a controller: %w", err)
	}
	return i.accept(key, keys, request, data)
}

// begin stores what a host is before it has joined.
func (i *Identity) begin(fresh *NodeIdentity) error {
	i.writing.Lock()
	defer i.writing.Unlock()
	return i.store(fresh)
}

// newState is a host that is about to join with a token.
func newState(token *Token) (*NodeIdentity, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	seed, err := user.Seed()
	if err != nil {
		return nil, err
	}
	return &NodeIdentity{
		Cluster: token.Cluster(), TrustDomain: token.body.GetTrustDomain(), Node: token.Node(), RootHash: token.body.GetRootHash(),
		Addresses: token.Addresses(), TokenId: token.body.GetId(), PendingKey: der, BusSeed: string(seed),
	}, nil
}

// want makes a request for a certificate of the node's key and of each service, with a new key for each
// service. It returns those keys by name.
func (i *Identity) want(state *NodeIdentity, key *ecdsa.PrivateKey, services []exchange.ServiceName) (*Wanted, map[string]*ecdsa.PrivateKey, error) {
	csr, err := newCSR(key)
	if err != nil {
		return nil, nil, err
	}
	user, err := nkeys.FromSeed([]byte(state.GetBusSeed()))
	if err != nil {
		return nil, nil, fmt.Errorf("read the key of the node's bus user: %w", err)
	}
	public, err := user.PublicKey()
	if err != nil {
		return nil, nil, err
	}
	nonce := make([]byte, nonceSize)
	_, _ = rand.Read(nonce) // never fails
	i.mu.Lock()
	address := i.address
	i.mu.Unlock()
	wanted := &Wanted{
		Node: state.GetNode(), Nonce: nonce, SentUnixMs: i.cfg.Now().UnixMilli(), Csr: csr, BusUser: public, Address: address,
	}
	keys := make(map[string]*ecdsa.PrivateKey, len(services))
	for _, service := range services {
		key, err := newKey()
		if err != nil {
			return nil, nil, err
		}
		csr, err := newCSR(key)
		if err != nil {
			return nil, nil, err
		}
		keys[service.String()] = key
		wanted.Services = append(wanted.Services, &ServiceRequest{Service: service.String(), Csr: csr})
	}
	return wanted, keys, nil
}
