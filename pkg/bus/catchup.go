package bus

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// maxWants bounds a request to catch up; a node that follows more asks several times.
	maxWants = 512
	// maxAnswer bounds an answer, in bytes of messages; what does not fit is asked for again.
	maxAnswer    = 1 << 20
	catchupNonce = 16
)

// ErrCatchup is returned for a request to catch up that is none.
var ErrCatchup = errors.New("not a request to catch up")

// answer tells a node what differs from what it holds, signed with its nonce and with the number of the
// newest beat that was read: everything stored up to that beat is in the answer. What the node may not be told
// is absent to it.
func (m *mirror) answer(signer snapshot.Signer, node string, request *CatchupRequest, may func(subject string) bool) ([]byte, error) {
	if len(request.GetNonce()) != catchupNonce || len(request.GetWants()) > maxWants {
		return nil, fmt.Errorf("%w: a nonce of %d bytes (want %d), %d subjects (at most %d)", ErrCatchup,
			len(request.GetNonce()), catchupNonce, len(request.GetWants()), maxWants)
	}
	m.mu.Lock()
	answer := &CatchupAnswer{
		Cluster: m.cluster, Node: node, Nonce: request.GetNonce(), Epoch: m.beat.Epoch, Beat: m.beat.Revision,
	}
	reply := new(CatchupReply)
	room := maxAnswer
	for _, want := range request.GetWants() {
		if want.GetSubject() == snapshot.RosterSubject {
			if m.trust.Roster() != nil && rosterVersion(m.trust.Roster()) != wantVersion(want) { // of a newer delegation, its numbers may be smaller
				reply.Roster = m.trust.Raw()
			}
			answer.Results = append(answer.Results, &CatchupResult{Subject: want.GetSubject()})
			continue
		}
		result := &CatchupResult{Subject: want.GetSubject(), Absent: true}
		if may(want.GetSubject()) {
			if result = m.result(want, &room); result == nil {
				break
			}
		}
		answer.Results = append(answer.Results, result)
	}
	m.mu.Unlock()
	var err error
	if reply.Answer, err = proto.Marshal(answer); err != nil {
		return nil, fmt.Errorf("answer a catch-up: %w", err)
	}
	reply.KeyId, reply.Signature = signer.ID, signer.Sign(snapshot.AnswerDomain, reply.GetAnswer())
	data, err := proto.Marshal(reply)
	if err != nil {
		return nil, fmt.Errorf("answer a catch-up: %w", err)
	}
	return data, nil
}

// result answers for one subject, or with nil where there is no room left. At least one message fits.
func (m *mirror) result(want *Want, room *int) *CatchupResult {
	result := &CatchupResult{Subject: want.GetSubject()}
	stored := m.subjects[want.GetSubject()]
	switch {
	case stored == nil:
		result.Absent = true
		return result
	case stored.Version == wantVersion(want) && stored.KeyID == want.GetKeyId():
		return result
	}
	from := 0
	if want.GetPartEpoch() == stored.Version.Epoch && want.GetPartRevision() == stored.Version.Revision {
		from = min(int(want.GetFromChunk()), len(stored.Raw)-1)
	}
	for _, raw := range stored.Raw[from:] {
		if *room < len(raw.Data) && *room < maxAnswer {
			*room = 0
			if len(result.GetMessages()) == 0 {
				return nil
			}
			result.More = true
			return result
		}
		*room -= len(raw.Data)
		result.Messages = append(result.Messages, &CatchupMessage{Subject: raw.Subject, Data: raw.Data})
	}
	return result
}

func wantVersion(w *Want) snapshot.Version {
	return snapshot.Version{Epoch: w.GetEpoch(), Revision: w.GetRevision()}
}

// openAnswer verifies an answer: by a controller's key, to this node, with this nonce, of this cluster.
func openAnswer(keys snapshot.Keys, cluster, node string, nonce []byte, reply *CatchupReply) (*CatchupAnswer, error) {
	answer := new(CatchupAnswer)
	if err := snapshot.OpenAnswer(keys, snapshot.AnswerDomain, cluster, node, nonce, reply, answer); err != nil {
		return nil, fmt.Errorf("open the answer to a catch-up: %w", err)
	}
	return answer, nil
}
