package snapshot

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// A SignedAnswer is a controller's reply to one request of one node: an encoded Answer and who signed it.
type SignedAnswer interface {
	GetAnswer() []byte
	GetKeyId() string
	GetSignature() []byte
}

// An Answer says whose request it answers.
type Answer interface {
	proto.Message
	GetCluster() string
	GetNode() string
	GetNonce() []byte
}

// OpenAnswer verifies an answer, by a controller's key, and decodes it: it is for this node's request of this nonce,
// or an error.
func OpenAnswer(keys Keys, domain Domain, cluster, node string, nonce []byte, signed SignedAnswer, into Answer) error {
	if err := keys.Verify(domain, signed.GetKeyId(), signed.GetAnswer(), signed.GetSignature()); err != nil {
		return err
	}
	if err := proto.Unmarshal(signed.GetAnswer(), into); err != nil {
		return err
	}
	if into.GetCluster() != cluster || into.GetNode() != node || string(into.GetNonce()) != string(nonce) {
		return fmt.Errorf("it is not the answer to this request (cluster %q, node %q)", into.GetCluster(), into.GetNode())
	}
	return nil
}
