package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
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
		dial = func(ctx context.Context, cfg bus.ConnConfig) (Requester, func(), error) {
			return dialBus(ctx, cfg, [32]byte(token.body.GetRootHash()))
		}
	}
	state := i.current()
	if state.GetReceipt() != nil {
		return refuse(ErrAlreadyJoined, "it is node %s of cluster %s; start it without a token, or remove its state directory %s to join anew",
			state.GetNode(), state.GetCluster(), i.cfg.Dir)
	}
	if err := token.Expired(i.cfg.Now()); err != nil {
		return err
	}
	mustTPM := i.cfg.KeysInTPM || attest.Provider(token.body.GetAttest()) == attest.TPM
	if !bytes.Equal(state.GetTokenId(), token.body.GetId()) || mustTPM && !inTPM(state.GetPendingKey()) {
		fresh, err := i.newState(token, mustTPM)
		if err != nil {
			return err
		}
		if err := i.begin(fresh); err != nil {
			return err
		}
		state = fresh
	}
	key, err := i.openKey(state.GetPendingKey())
	if err != nil {
		return err
	}
	var evidence []byte
	var attestor attest.Attestor
	if token.body.GetAttest() != "" {
		state = cloneState(state)
		if attest.Provider(token.body.GetAttest()) == attest.TPM {
			attestor, state.Node, err = i.attestor()
		} else {
			evidence, state.Node, err = i.attest(ctx, token, key)
		}
		if err != nil {
			return err
		}
		if err := i.begin(state); err != nil { // an answer is taken by the name
			return err
		}
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
	wanted.Node = token.Node() // which a token for many hosts names all alike
	digest := token.digest()
	join := &JoinRequest{
		Cluster: token.Cluster(), TokenId: token.body.GetId(), TokenDigest: digest[:], Wanted: wanted, Evidence: evidence,
	}
	if attestor != nil {
		if join.Tpm, err = i.answerChallenge(ctx, conn, token, key, join, attestor); err != nil {
			return err
		}
	}
	request, data, err := askToJoin(ctx, conn, token, key, join)
	if err != nil {
		return err
	}
	return i.accept(key, keys, request, data)
}

// askToJoin signs a request with the token's seed and the node's key, and sends it. It returns what was sent and the answer,
// which nobody has verified yet.
func askToJoin(ctx context.Context, conn Requester, token *Token, key crypto.Signer, join *JoinRequest) (request, answer []byte, err error) {
	if request, err = proto.Marshal(join); err != nil {
		return nil, nil, err
	}
	signature, err := signECDSA(key, joinDomain, request)
	if err != nil {
		return nil, nil, err
	}
	payload, err := proto.Marshal(&SignedRequest{
		Request: request, NewSignature: signature,
		SeedSignature: ed25519.Sign(token.key(), append([]byte(joinDomain), request...)),
	})
	if err != nil {
		return nil, nil, err
	}
	if answer, err = conn.Request(ctx, bus.VerbJoin, payload); err != nil {
		return nil, nil, fmt.Errorf("ask a controller: %w", err)
	}
	return request, answer, nil
}

// begin stores what a host is before it has joined.
func (i *Identity) begin(fresh *NodeIdentity) error {
	i.writing.Lock()
	defer i.writing.Unlock()
	return i.store(fresh)
}

// newState is a host that is about to join with a token.
func (i *Identity) newState(token *Token, inTPM bool) (*NodeIdentity, error) {
	key, err := i.newKey(inTPM)
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
		Addresses: token.Addresses(), TokenId: token.body.GetId(), PendingKey: key.stored, BusSeed: string(seed),
	}, nil
}

// want makes a request for a certificate of the node's key and of each service, with a new key for each
// service. It returns those keys by name.
func (i *Identity) want(state *NodeIdentity, key crypto.Signer, services []exchange.ServiceName) (*Wanted, map[string]*ecdsa.PrivateKey, error) {
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
