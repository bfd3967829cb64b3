package ca

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// Join answers a node's request to join (bus.Handler, verb "join"). Everything that it refuses is a signed
// refusal in the reply, not an error.
func (r *Registrar) Join(ctx context.Context, node string, request []byte) ([]byte, error) {
	signed := &SignedRequest{}
	if err := unmarshalRequest(request, signed); err != nil {
		return r.reply(nil, nil, err)
	}
	answer, err := r.join(ctx, node, signed)
	if err != nil {
		r.cfg.Log.Warn("a node was refused to join", "node", node, "err", err)
		r.recordRefusal(ctx, node, "join", err)
		answer = new(Reply)
	}
	return r.answer(signed.GetRequest(), answer, err)
}

// join decides in this order: is it a request, does the token exist and match, are the clocks near, is the
// token still good, is the name free. Only then the token is spent, and the node registered. A join whose
// answer was lost is repeated by the same key with the same outcome.
func (r *Registrar) join(ctx context.Context, node string, signed *SignedRequest) (*Reply, error) {
	request := &JoinRequest{}
	if err := unmarshalRequest(signed.GetRequest(), request); err != nil {
		return nil, err
	}
	keys, err := checkWanted(request.GetWanted(), node)
	if err != nil {
		return nil, err
	}
	if request.GetCluster() != r.cfg.Authority.Cluster() {
		return nil, refuse(ErrTokenForeign, "it is of cluster %q, and this is %q; make one here with `sennit join-token create --node %s`", request.GetCluster(), r.cfg.Authority.Cluster(), node)
	}
	token, sequence, err := r.checkToken(ctx, node, request, signed, keys)
	if err != nil {
		return nil, err
	}
	if err := r.checkClock(request.GetWanted()); err != nil {
		return nil, err
	}
	now := r.cfg.Now()
	if now.UnixMilli() > token.GetExpiresUnixMs() {
		return nil, refuse(ErrTokenExpired, "it ended %s; make another with `sennit join-token create --node %s`",
			time.UnixMilli(token.GetExpiresUnixMs()).UTC().Format(time.RFC3339), node)
	}
	if used := token.GetUsedBy(); used != nil && !bytes.Equal(used, keys.node) {
		return nil, refuse(ErrTokenUsed, "a host joined as %s with it on %s; tokens work once: make another with `sennit join-token create --node %s`",
			node, time.UnixMilli(token.GetUsedUnixMs()).UTC().Format(time.DateTime), node)
	}
	for _, service := range request.GetWanted().GetServices() {
		if !slices.Contains(token.GetServices(), service.GetService()) {
			return nil, notAllowed(node, service.GetService())
		}
	}
	if err := keys.readServices(request.GetWanted()); err != nil {
		return nil, err
	}
	var machine *attest.Instance
	if token.GetAttestation() != nil {
		if attest.Provider(token.GetAttestation().GetProvider()) == attest.TPM {
			var challenge *TPMChallenge
			if machine, challenge, err = r.attestedByTPM(token, request, keys.node); challenge != nil {
				return &Reply{Challenge: challenge}, nil
			}
		} else {
			machine, err = r.attested(token, request, keys.node)
		}
		if err != nil {
			return nil, err
		}
		node = machine.Name()
	}
	record, recordSequence, err := r.joinedRecord(ctx, node, token, keys, machine)
	if err != nil {
		return nil, err
	}
	if err := r.cfg.Record(ctx, Decision{
		Node: node, Verb: "join", Address: request.GetWanted().GetAddress(), Services: record.GetServices(), Generation: record.GetGeneration(),
	}); err != nil {
		return nil, err
	}
	if token.GetUsedBy() == nil && machine == nil {
		token.UsedBy, token.UsedUnixMs = keys.node, now.UnixMilli()
		if err := r.spend(ctx, request.GetTokenId(), token, sequence); err != nil {
			return nil, err
		}
	}
	grant, err := r.grant(ctx, "join", record, recordSequence, request.GetWanted(), keys)
	return &Reply{Grant: grant}, err
}

// recordRefusal keeps that a request was refused. What the controller could not answer is not refused.
func (r *Registrar) recordRefusal(ctx context.Context, node, verb string, err error) {
	if refusalOf(err).GetCode() == RefusalCode_REFUSAL_CODE_TRY_AGAIN {
		return
	}
	if err := r.cfg.Record(ctx, Decision{Node: node, Verb: verb, Refused: err}); err != nil {
		r.cfg.Log.Error("a refusal cannot be recorded", "node", node, "err", err)
	}
}

// joinedRecord is the record that a join makes, or has made when its answer was lost.
func (r *Registrar) joinedRecord(ctx context.Context, node string, token *TokenRecord, keys *wantedKeys, machine *attest.Instance) (*NodeRecord, uint64, error) {
	record, sequence, err := r.read(ctx, node)
	generation, now, ended := uint64(1), r.cfg.Now().UnixMilli(), record.GetEndedUsers()
	switch {
	case errors.Is(err, ErrUnknownNode):
	case err != nil:
		return nil, 0, err
	case record.GetState() == NodeState_NODE_STATE_ACTIVE && bytes.Equal(record.GetPublicKey(), keys.node):
		return record, sequence, nil
	case machine != nil && record.GetRevoked():
		return nil, 0, refuse(ErrRemoved, "%s was revoked, and the word of its cloud or TPM is not enough; make a token for it with `sennit join-token create --node %s`", node, node)
	case token.GetUsedBy() != nil && record.GetState() == NodeState_NODE_STATE_REMOVED && record.GetRemovedUnixMs() >= token.GetUsedUnixMs():
		return nil, 0, refuse(ErrRemoved, "the token let %s in before that; make another with `sennit join-token create --node %s`", node, node)
	case machine != nil && machine.Provider == attest.Amazon:
		return nil, 0, admittedBefore(node)
	case !r.free(record):
		return nil, 0, r.taken(record)
	default:
		generation = record.GetGeneration() + 2 // above every receipt that the host before has
	}
	return &NodeRecord{
		Node: node, PublicKey: keys.node, Generation: generation, Floor: generation, Services: token.GetServices(),
		State: NodeState_NODE_STATE_ACTIVE, JoinedUnixMs: now, EndedUsers: ended,
	}, sequence, nil
}

// checkToken finds the record of a request's token and verifies that the request was made with that token:
// the seed's signature is over the request, and the request says what the whole token was.
func (r *Registrar) checkToken(ctx context.Context, node string, request *JoinRequest, signed *SignedRequest, keys *wantedKeys) (*TokenRecord, uint64, error) {
	if len(request.GetTokenId()) != tokenIDSize {
		return nil, 0, refuse(ErrBadRequest, "token id of %d bytes", len(request.GetTokenId()))
	}
	entry, err := r.cfg.Store.Get(ctx, fmt.Sprintf("%s%x", tokenPrefixes, request.GetTokenId()))
	if errors.Is(err, bus.ErrNotFound) {
		return nil, 0, refuse(ErrTokenUnknown, "it was made by another cluster, or before a restore; make another with `sennit join-token create --node %s`", node)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read a join token: %w", err)
	}
	token := &TokenRecord{}
	if err := proto.Unmarshal(entry.Data, token); err != nil {
		return nil, 0, fmt.Errorf("read a join token: %w", err)
	}
	message := append([]byte(joinDomain), signed.GetRequest()...)
	if !ed25519.Verify(token.GetVerifyKey(), message, signed.GetSeedSignature()) ||
		!bytes.Equal(token.GetDigest(), request.GetTokenDigest()) || token.GetNode() != node {
		return nil, 0, refuse(ErrTokenTampered, "it is not the token that the controller made for %s, or somebody on the way changed the request; copy it again, or make another with `sennit join-token create --node %s`", token.GetNode(), token.GetNode())
	}
	if err := verifyECDSA(keys.node, joinDomain, signed.GetRequest(), signed.GetNewSignature()); err != nil {
		return nil, 0, refuse(ErrBadRequest, "the node's key did not sign it: %v", err)
	}
	if token.GetRevoked() {
		return nil, 0, refuse(ErrTokenUnknown, "an operator or a restore took it back; make another with `sennit join-token create --node %s`", node)
	}
	return token, entry.Sequence, nil
}

// spend marks a token as used, once.
func (r *Registrar) spend(ctx context.Context, id []byte, token *TokenRecord, sequence uint64) error {
	data, err := proto.Marshal(token)
	if err != nil {
		return err
	}
	_, err = r.cfg.Store.Append(ctx, fmt.Sprintf("%s%x", tokenPrefixes, id), data, sequence)
	if errors.Is(err, bus.ErrConflict) {
		return refuse(ErrTryAgain, "another host uses the same token at this moment")
	}
	return err
}

// wantedKeys are the keys of a request's CSRs, which their holders signed.
type wantedKeys struct {
	node     []byte // SubjectPublicKeyInfo
	nodeCert order
	services []order
}

// checkWanted reads what a node asks for, except the keys of its services: to verify up to 256 CSRs is work that
// is done for nobody who has not shown to be the node. The id of the orders are the registrar's to set.
func checkWanted(wanted *Wanted, node string) (*wantedKeys, error) {
	if err := CheckNodeName(node); err != nil {
		return nil, refuse(ErrBadRequest, "%v", err)
	}
	if wanted.GetNode() != node {
		return nil, refuse(ErrBadRequest, "%s asks in the name of %q", node, wanted.GetNode())
	}
	if len(wanted.GetNonce()) != nonceSize || len(wanted.GetAddress()) > maxAddress {
		return nil, refuse(ErrBadRequest, "a field has the wrong length")
	}
	key, err := parseCSR(wanted.GetCsr())
	if err != nil {
		return nil, refuse(ErrBadRequest, "node's key: %v", err)
	}
	keys := &wantedKeys{nodeCert: order{key: key}}
	if keys.node, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return nil, refuse(ErrBadRequest, "node's key: %v", err)
	}
	names := make([]string, 0, len(wanted.GetServices()))
	for _, service := range wanted.GetServices() {
		names = append(names, service.GetService())
	}
	if _, err := parseServices(names); err != nil {
		return nil, refuse(ErrBadRequest, "%v", err)
	}
	return keys, nil
}

// readServices reads the keys of the services that are wanted.
func (k *wantedKeys) readServices(wanted *Wanted) error {
	for _, service := range wanted.GetServices() {
		key, err := parseCSR(service.GetCsr())
		if err != nil {
			return refuse(ErrBadRequest, "key of %s: %v", service.GetService(), err)
		}
		k.services = append(k.services, order{key: key})
	}
	return nil
}

// checkClock refuses a host whose clock would make its certificates worthless, before its token is spent.
func (r *Registrar) checkClock(wanted *Wanted) error {
	skew := time.UnixMilli(wanted.GetSentUnixMs()).Sub(r.cfg.Now())
	if skew.Abs() <= maxSkew {
		return nil
	}
	return refuse(ErrClock, "%s", clockAdvice(skew, r.cfg.Now()))
}

// clockAdvice says which clock is where; skew is how far the host's is ahead.
func clockAdvice(skew time.Duration, controller time.Time) string {
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	return fmt.Sprintf("this host's is %s %s the controller's, which says %s; set the one that is wrong (`timedatectl set-ntp true`, or `chronyc makestep`) and try again",
		skew.Abs().Round(time.Second), direction, controller.UTC().Format(time.RFC3339))
}
