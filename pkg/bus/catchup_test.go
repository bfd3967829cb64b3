package bus

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A snapshot larger than an answer comes in several, and each brings what the one before did not.
func TestLargeSnapshotComesInSeveralAnswers(t *testing.T) {
	s := quietSim(t, 1)
	s.loss = 1
	for k := range simSubjects {
		s.wanted[simSubject(k)] = Body{Data: bytes.Repeat([]byte{byte(k + 1)}, 7*snapshot.ChunkSize)}
	}
	s.publish()
	s.run(time.Second)
	s.loss = 0
	s.run(10 * time.Second)
	s.checkHeld(t)
}

func TestAnswerIsForOneRequestOfOneNode(t *testing.T) {
	s := quietSim(t, 1)
	c := s.controllers[0]
	all := func(string) bool { return true }
	nonce := bytes.Repeat([]byte{7}, catchupNonce)
	answer := func(request *CatchupRequest, node string) *CatchupReply {
		data, err := c.mirror.answer(c.signer, node, request, all)
		if err != nil {
			t.Fatal(err)
		}
		reply := new(CatchupReply)
		if err := proto.Unmarshal(data, reply); err != nil {
			t.Fatal(err)
		}
		return reply
	}
	request := &CatchupRequest{Nonce: nonce, Wants: []*Want{{Subject: simSubject(0)}}}
	good := answer(request, "node0")
	changed := proto.Clone(good).(*CatchupReply)
	changed.Answer[len(changed.Answer)-1] ^= 1
	stranger := proto.Clone(good).(*CatchupReply)
	stranger.KeyId = "other"
	keys := c.mirror.trust.Roster().SigningKeys()
	for _, tt := range []struct {
		name    string
		cluster string
		node    string
		nonce   []byte
		reply   *CatchupReply
		ok      bool
	}{
		{"as it was given", simCluster, "node0", nonce, good, true},
		{"to another node", simCluster, "node1", nonce, good, false},
		{"to another request", simCluster, "node0", bytes.Repeat([]byte{8}, catchupNonce), good, false},
		{"of another cluster", "other", "node0", nonce, good, false},
		{"changed", simCluster, "node0", nonce, changed, false},
		{"by a stranger", simCluster, "node0", nonce, stranger, false},
	} {
		if _, err := openAnswer(keys, tt.cluster, tt.node, tt.nonce, tt.reply); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	for _, bad := range []*CatchupRequest{
		{}, {Nonce: nonce[1:]}, {Nonce: nonce, Wants: make([]*Want, maxWants+1)},
	} {
		if _, err := c.mirror.answer(c.signer, "node0", bad, all); !errors.Is(err, ErrCatchup) {
			t.Errorf("a request with a nonce of %d bytes and %d subjects: %v, want ErrCatchup", len(bad.GetNonce()), len(bad.GetWants()), err)
		}
	}
}

// Bytes that somebody put into the stream are not signed again, not answered with, and use no numbers up.
func TestForgedBytesInTheStream(t *testing.T) {
	s := quietSim(t, 1)
	subject := simSubject(0)
	forger := snapshot.NewSigner(newTestKey(99))
	forged, err := snapshot.Seal(simCluster, forger, []snapshot.Snapshot{{Subject: subject, Version: snapshot.Version{Revision: 1 << 63}, Body: []byte("forged")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{forged[0].Data, []byte("noise")} {
		s.sequence++
		s.entries[forged[0].Subject] = simEntry{s.sequence, data}
		for _, c := range s.controllers {
			c.mirror.apply(s.sequence, forged[0].Subject, data)
		}
		s.republish(snapshot.Raw{Subject: forged[0].Subject, Data: data})
	}
	s.run(5 * time.Second)
	for _, n := range s.nodes {
		if string(n.applied[subject].Body) == "forged" {
			t.Errorf("%s applied what was forged", n.name)
		}
	}
	s.die(s.controllers[0])
	s.run(10 * time.Second)
	s.checkHeld(t)
}
