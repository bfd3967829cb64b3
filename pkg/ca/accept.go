package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// heldEnough is what part of their life certificates must have left for others to be refused: an eighth.
const heldEnough = 8

// accept checks an answer, stores what it grants and uses it. key is the node's, keys those of services,
// that the request was made for. Nothing changes where it fails.
func (i *Identity) accept(key *nodeKey, keys map[string]*ecdsa.PrivateKey, request, data []byte) error {
	rotation, err := i.take(key, keys, request, data)
	if err == nil {
		i.cfg.Rotated(rotation)
	}
	return err
}

func (i *Identity) take(key *nodeKey, keys map[string]*ecdsa.PrivateKey, request, data []byte) (rotation Rotation, err error) {
	i.writing.Lock()
	defer i.writing.Unlock()
	state := i.current() // a newer roster may have come since the request was made
	reply, trust, err := openReply(state.GetCluster(), [32]byte(state.GetRootHash()), state.GetRoster(), request, data)
	if err != nil {
		return rotation, err
	}
	now := i.cfg.Now()
	skew := now.Sub(time.UnixMilli(reply.GetNowUnixMs()))
	i.mu.Lock()
	i.skew = skew
	i.mu.Unlock()
	if reply.GetRefusal() != nil {
		return rotation, reply.GetRefusal().err()
	}
	if skew.Abs() > maxSkew {
		i.cfg.Log.Warn("this host's clock and the controller's disagree", "node", state.GetNode(), "err", refuse(ErrClock, "%s", clockAdvice(skew, time.UnixMilli(reply.GetNowUnixMs()))))
	}
	grant := reply.GetGrant()
	next := cloneState(state)
	root := trust.Root()
	next.Roster, next.RootHash = trust.Raw(), root[:]
	next.CarriedSerials = i.believed.Load().carried(state, trust.Roster())
	b, err := newBelieved(next)
	if err != nil {
		return rotation, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	receipt, err := openReceipt(b.roster, grant.GetReceipt())
	if err != nil {
		return rotation, fmt.Errorf("%w: receipt: %w", ErrUntrusted, err)
	}
	if known := b.roster.GetEpoch(); receipt.GetEpoch() < known {
		return rotation, refuse(ErrOldEpoch, "its registry is of epoch %d, and a controller was restored into epoch %d since; stop the older one", receipt.GetEpoch(), known)
	}
	if receipt.GetNode() != state.GetNode() || !bytes.Equal(receipt.GetPublicKey(), key.spki) {
		return rotation, fmt.Errorf("%w: the receipt is of another node or key", ErrUntrusted)
	}
	if _, err := parseServices(receipt.GetServices()); err != nil {
		return rotation, fmt.Errorf("%w: receipt: %w", ErrUntrusted, err)
	}
	next.Key = key.stored
	if err := b.checkIssued(grant.GetNodeChain(), NodeID(state.GetTrustDomain(), state.GetNode()), key, time.UnixMilli(reply.GetNowUnixMs())); err != nil {
		return rotation, err
	}
	if err := i.checkTime(grant.GetNodeChain(), now, skew); err != nil {
		return rotation, err
	}
	next.NodeChain, next.Receipt = grant.GetNodeChain(), grant.GetReceipt()
	next.PendingKey, next.TokenId = nil, nil
	if rotation.Bus = state.GetRenewJwt() != "" && busIssuer(grant.GetRenewJwt()) != busIssuer(state.GetRenewJwt()); rotation.Bus {
		next.FormerRenewJwt = state.GetRenewJwt()
	}
	next.BusJwt, next.BusExpiresUnixMs, next.RenewJwt = grant.GetBusJwt(), grant.GetBusExpiresUnixMs(), grant.GetRenewJwt()
	rotation.Key = !bytes.Equal(next.GetKey(), state.GetKey())
	if next.Services, rotation.Services, err = b.mergeServices(state, receipt, grant, keys, time.UnixMilli(reply.GetNowUnixMs())); err != nil {
		return rotation, err
	}
	if err := i.store(next); err != nil {
		return rotation, err
	}
	if err := i.use(next); err != nil {
		return rotation, err
	}
	i.busRefusals.Store(0)
	if len(grant.GetNotAllowed()) > 0 {
		i.cfg.Log.Warn("the registry no longer allows services that this node ran", "node", state.GetNode(), "service", grant.GetNotAllowed())
	}
	return rotation, nil
}

// checkTime refuses certificates that this host's clock takes for not valid yet, while those that it has are good
// for longer by both clocks: where the controller's is wrong, every peer would refuse the new ones. The renewal is
// repeated, and taken when there is no time left to wait for the clock to be set.
func (i *Identity) checkTime(chain [][]byte, now time.Time, skew time.Duration) error {
	certificates, err := parseChain(chain)
	if err != nil {
		return err
	}
	held := i.own.Load()
	if held == nil || !now.Before(certificates[0].NotBefore) {
		return nil
	}
	controller := now.Add(-skew)
	left := min(held.Leaf.NotAfter.Sub(now), held.Leaf.NotAfter.Sub(controller))
	if left <= held.Leaf.NotAfter.Sub(held.Leaf.NotBefore)/heldEnough {
		return nil
	}
	return refuse(ErrClock, "%s; the certificates that it has are used meanwhile", clockAdvice(skew, controller))
}

// mergeServices returns the credentials that a grant leaves a node with: those granted, and those held that
// the registry still allows. changed are those that are new or gone.
func (b *believed) mergeServices(state *NodeIdentity, receipt *Receipt, grant *Grant, keys map[string]*ecdsa.PrivateKey, now time.Time) (merged []*Credential, changed []exchange.ServiceName, err error) {
	granted := map[string]bool{}
	for _, service := range grant.GetServices() {
		name, err := exchange.ParseServiceName(service.GetService())
		if err != nil || keys[name.String()] == nil || granted[name.String()] {
			return nil, nil, fmt.Errorf("%w: it grants %q, which was not asked for", ErrUntrusted, service.GetService())
		}
		key := keys[name.String()]
		if err := b.checkIssued(service.GetChain(), ServiceID(b.trustDomain, name), key, now); err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, nil, err
		}
		granted[name.String()] = true
		merged = append(merged, &Credential{Service: name.String(), Key: der, Chain: service.GetChain()})
		changed = append(changed, name)
	}
	for _, held := range state.GetServices() {
		switch {
		case granted[held.GetService()]:
		case slices.Contains(receipt.GetServices(), held.GetService()):
			merged = append(merged, held)
		default:
			name, err := exchange.ParseServiceName(held.GetService())
			if err != nil {
				return nil, nil, err
			}
			changed = append(changed, name)
		}
	}
	return merged, changed, nil
}

// checkIssued makes sure that a chain is what was asked for: this name, this key, this cluster's root.
func (b *believed) checkIssued(chain [][]byte, id string, key crypto.Signer, now time.Time) error {
	certificates, err := parseChain(chain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	got, err := verifyChain(certificates, b.roots, b.trustDomain, now)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if got.String() != id || !sameKey(key, certificates[0].PublicKey) {
		return fmt.Errorf("%w: it holds a certificate of %s where that of %s was asked for, or of another key", ErrUntrusted, got, id)
	}
	return nil
}

func cloneState(state *NodeIdentity) *NodeIdentity { return proto.CloneOf(state) }
