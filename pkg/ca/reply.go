package ca

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// reply signs what a request is answered with: a grant, or what err says.
func (r *Registrar) reply(request []byte, grant *Grant, err error) ([]byte, error) {
	return r.answer(request, &Reply{Grant: grant}, err)
}

// answer signs a message that grants something, or what err says in its place.
func (r *Registrar) answer(request []byte, message *Reply, err error) ([]byte, error) {
	hash := sha256.Sum256(request)
	message.RequestHash, message.NowUnixMs = hash[:], r.cfg.Now().UnixMilli()
	if err != nil {
		message.Grant, message.Workload, message.Challenge = nil, nil, nil
		message.Refusal = refusalOf(err)
		if message.GetRefusal().GetCode() == RefusalCode_REFUSAL_CODE_TRY_AGAIN {
			r.cfg.Log.Error("a node's request failed", "err", err)
		}
	}
	body, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	signer := r.cfg.Authority.Signer()
	return proto.Marshal(&SignedReply{
		Reply: body, Roster: r.cfg.Authority.Roster(), KeyId: signer.ID, Signature: signer.Sign(replyDomain, body),
	})
}

// unmarshalRequest reads a message of a node.
func unmarshalRequest(data []byte, message proto.Message) error {
	if len(data) > maxRequest {
		return refuse(ErrBadRequest, "%d bytes, at most %d", len(data), maxRequest)
	}
	if err := proto.Unmarshal(data, message); err != nil {
		return refuse(ErrBadRequest, "%v", err)
	}
	return nil
}

// openReply verifies an answer: signed by a key that the newest roster lists (the one in the answer, or the
// one held), which the pinned root signed, and an answer to this very request. held may be nil. It returns
// the newest roster as it is stored.
func openReply(cluster string, root [32]byte, held, request, data []byte) (*Reply, *snapshot.Trust, error) {
	signed := &SignedReply{}
	if err := proto.Unmarshal(data, signed); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	trust := snapshot.NewTrust(cluster, root)
	if held != nil {
		if _, err := trust.Update(held); err != nil {
			return nil, nil, err
		}
	}
	_, err := trust.Update(signed.GetRoster())
	if errors.Is(err, snapshot.ErrRoot) || errors.Is(err, snapshot.ErrCluster) {
		return nil, nil, fmt.Errorf("%w: %w: %w; the token was made by another cluster than the one that answers at the bus address, or somebody stands in between", ErrUntrusted, ErrTokenForeign, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if err := trust.Roster().SigningKeys().Verify(replyDomain, signed.GetKeyId(), signed.GetReply(), signed.GetSignature()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	reply := &Reply{}
	if err := proto.Unmarshal(signed.GetReply(), reply); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if hash := sha256.Sum256(request); !bytes.Equal(hash[:], reply.GetRequestHash()) {
		return nil, nil, fmt.Errorf("%w: it answers another request than this one; somebody on the way changed the request or repeated an old answer", ErrUntrusted)
	}
	return reply, trust, nil
}
