package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Renew answers a node's request to renew (bus.Handler, verb "renew"): a new key and new certificates,
// or, for the key that the node has, certificates alone. Everything that it refuses is a signed refusal in
// the reply, not an error.
func (r *Registrar) Renew(ctx context.Context, node string, request []byte) ([]byte, error) {
	signed := &SignedRequest{}
	if err := unmarshalRequest(request, signed); err != nil {
		return r.reply(nil, nil, err)
	}
	for attempt := 1; ; attempt++ {
		grant, err := r.renew(ctx, node, signed)
		if errors.Is(err, bus.ErrConflict) && attempt < casAttempts {
			continue
		}
		if err != nil {
			r.recordRefusal(ctx, node, "renew", err)
		}
		return r.reply(signed.GetRequest(), grant, err)
	}
}

func (r *Registrar) renew(ctx context.Context, node string, signed *SignedRequest) (*Grant, error) {
	request := &RenewRequest{}
	if err := unmarshalRequest(signed.GetRequest(), request); err != nil {
		return nil, err
	}
	keys, err := checkWanted(request.GetWanted(), node)
	if err != nil {
		return nil, err
	}
	if request.GetCluster() != r.cfg.Authority.Cluster() {
		return nil, refuse(ErrBadRequest, "%s is of cluster %q, and this is %q", node, request.GetCluster(), r.cfg.Authority.Cluster())
	}
	receipt, err := r.openReceipt(ctx, request.GetReceipt(), node)
	if err != nil {
		return nil, err
	}
	// Both keys sign the whole request: who has an old key alone cannot ask in the name of its successor.
	if err := verifyECDSA(receipt.GetPublicKey(), renewDomain, signed.GetRequest(), signed.GetCurrentSignature()); err != nil {
		return nil, refuse(ErrBadRequest, "the node's key did not sign it: %v", err)
	}
	if err := verifyECDSA(keys.node, renewDomain, signed.GetRequest(), signed.GetNewSignature()); err != nil {
		return nil, refuse(ErrBadRequest, "the node's new key did not sign it: %v", err)
	}
	record, sequence, err := r.read(ctx, node)
	if errors.Is(err, ErrUnknownNode) { // a registry that was restored to before the node joined
		record, sequence, err = &NodeRecord{Node: node, State: NodeState_NODE_STATE_ACTIVE, JoinedUnixMs: receipt.GetIssuedUnixMs()}, 0, nil
	}
	if err != nil {
		return nil, err
	}
	verdict, believed := judge(record, receipt, keys.node, r.cfg.Now(), r.cfg.Absence)
	if err := r.refusalFor(ctx, verdict, record, sequence, receipt, keys); err != nil {
		return nil, err
	}
	if err := keys.readServices(request.GetWanted()); err != nil {
		return nil, err
	}
	if believed {
		r.report(Incident{Node: node, What: fmt.Sprintf("a node's receipt is newer than the registry and was believed (receipt %d of generation %d, the registry had %d of %d)",
			receipt.GetNumber(), receipt.GetGeneration(), record.GetReceiptNumber(), record.GetGeneration())})
		record.believe(receipt)
	}
	if verdict == advances {
		record.PreviousKey = record.GetPublicKey()
		record.PublicKey = keys.node
		record.Generation++
	}
	return r.grant(ctx, "renew", record, sequence, request.GetWanted(), keys)
}

// refusalFor is the error of a verdict that grants nothing. Two successors are recorded before they are
// refused.
func (r *Registrar) refusalFor(ctx context.Context, v verdict, record *NodeRecord, sequence uint64, receipt *Receipt, keys *wantedKeys) error {
	node := record.GetNode()
	var err error
	switch v {
	case advances, repeats:
		return nil
	case splits:
		record.State = NodeState_NODE_STATE_FROZEN
		record.RivalKey = keys.node
		record.Why = fmt.Sprintf("two hosts renewed generation %d on %s", receipt.GetGeneration(), r.cfg.Now().UTC().Format(time.DateTime))
		if err := r.write(ctx, record, sequence); err != nil {
			return err
		}
		fallthrough
	case isFrozen:
		err = refuse(ErrFrozen, "%s (%s): a host was copied, with its state, or its disk restored; stop the copy, remove its state directory, and accept the other with `sennit node accept %s --key %s` or `--key %s`",
			node, record.GetWhy(), node, fingerprint(record.GetPublicKey()), fingerprint(record.GetRivalKey()))
	case isOld:
		err = refuse(ErrOldGeneration, "%s shows generation %d and the registry has %d: its state directory was restored from an old image; remove it, and join again after `sennit node remove %s`",
			node, receipt.GetGeneration(), record.GetGeneration(), node)
	case isRemoved:
		err = refuse(ErrRemoved, "%s; join again with a new token: `sennit join-token create --node %s`", node, node)
	case isAbsent:
		err = refuse(ErrAbsent, "%s was last heard on %s, and the limit is %s; join again with a new token: `sennit join-token create --node %s`",
			node, time.UnixMilli(max(receipt.GetIssuedUnixMs(), record.GetRenewedUnixMs())).UTC().Format(time.DateTime), r.cfg.Absence, node)
	}
	r.report(Incident{Node: node, Err: err, What: "a node was refused to renew"})
	return err
}

// openReceipt verifies a receipt against every key that the roster lists. One of a signing key that was replaced since, which
// somebody else may have, is good where it is the very one that the registry has of the node: then it says nothing new.
func (r *Registrar) openReceipt(ctx context.Context, signed *SignedReceipt, node string) (*Receipt, error) {
	roster, err := snapshot.OpenRoster(r.cfg.Authority.Cluster(), r.cfg.Authority.RootHash(), r.cfg.Authority.Roster())
	if err != nil {
		return nil, err
	}
	receipt, err := openReceipt(roster, signed)
	if errors.Is(err, snapshot.ErrKey) {
		if record, _, failed := r.read(ctx, node); failed == nil && proto.Equal(record.GetReceipt(), signed) {
			receipt, err = readReceipt(roster, signed)
		}
	}
	if err != nil {
		return nil, refuse(ErrBadRequest, "receipt: %v", err)
	}
	if receipt.GetNode() != node {
		return nil, refuse(ErrBadRequest, "%s shows the receipt of %q", node, receipt.GetNode())
	}
	return receipt, nil
}

// openReceipt verifies a receipt against a roster.
func openReceipt(roster *snapshot.Roster, signed *SignedReceipt) (*Receipt, error) {
	if err := roster.SigningKeys().Verify(receiptDomain, signed.GetKeyId(), signed.GetReceipt(), signed.GetSignature()); err != nil {
		return nil, err
	}
	return readReceipt(roster, signed)
}

// readReceipt reads a receipt whose signature counts.
func readReceipt(roster *snapshot.Roster, signed *SignedReceipt) (*Receipt, error) {
	receipt := &Receipt{}
	if err := proto.Unmarshal(signed.GetReceipt(), receipt); err != nil {
		return nil, err
	}
	if receipt.GetCluster() != roster.GetCluster() {
		return nil, fmt.Errorf("of cluster %q", receipt.GetCluster())
	}
	return receipt, nil
}
