package bus

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// next says when tick has something to do.
func (f *follow) next() time.Time {
	next := f.beats.last.Add(staleAfter)
	if f.stale {
		next = f.moveAt
	}
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	if f.ask != nil {
		earlier(f.ask.deadline)
	} else {
		earlier(f.askAt)
	}
	if !f.reporting {
		earlier(f.reportAt)
	}
	earlier(f.allAt)
	return next
}

// tick does what the time asks for.
func (f *follow) tick(now time.Time) {
	if !f.stale && now.Sub(f.beats.last) >= staleAfter {
		f.stale, f.moveAt = true, now
	}
	if f.stale && !now.Before(f.moveAt) {
		f.move(now)
	}
	if !now.Before(f.allAt) {
		f.allAt = now.Add(f.about(askAllEvery))
		f.resync(now, askSpread)
	}
	if f.ask != nil && !now.Before(f.ask.deadline) {
		f.answer(now, f.ask.nonce, nil, fmt.Errorf("no answer for %s", askTimeout))
	}
	if f.ask == nil && !f.askAt.IsZero() && !now.Before(f.askAt) {
		f.sendAsk(now)
	}
	if f.reportAllAt.IsZero() {
		f.reportAllAt = now.Add(f.about(reportEvery))
	}
	if !now.Before(f.reportAllAt) {
		f.reportAllAt = now.Add(f.about(reportEvery))
		f.reportAll = true
		f.reportSoon(now)
	}
	if !f.reporting && !f.reportAt.IsZero() && !now.Before(f.reportAt) {
		f.sendReport()
	}
}

func (f *follow) move(now time.Time) {
	f.moveAt = now.Add(moveEvery + f.jitter(moveEvery/2))
	if f.silence.fails(now) {
		f.problem("beats are missing: trying another server", fmt.Errorf("none for %s", now.Sub(f.beats.last).Round(time.Second)))
	}
	f.actions = append(f.actions, action{move: true})
}

// sendAsk asks for as many subjects as one request holds.
func (f *follow) sendAsk(now time.Time) {
	f.askAt = time.Time{}
	request := &CatchupRequest{Nonce: f.nonce()}
	asked := &ask{nonce: request.GetNonce(), deadline: now.Add(askTimeout)}
	for _, subject := range slices.Sorted(maps.Keys(f.subjects)) {
		s := f.subjects[subject]
		if s.wanted.Compare(s.newest()) > 0 {
			if now.Before(s.missed) {
				f.askSoon(now, s.missed.Sub(now))
			} else {
				s.ask = true
			}
		}
		if !s.ask || len(asked.subjects) == maxWants {
			continue
		}
		asked.subjects = append(asked.subjects, subject)
		want := &Want{Subject: subject, Epoch: s.version.Epoch, Revision: s.version.Revision, KeyId: s.keyID}
		if s.refused.Compare(s.version) > 0 {
			want.Epoch, want.Revision, want.KeyId = s.refused.Epoch, s.refused.Revision, s.keyOf
		}
		part, chunks := f.parts.Begun(subject)
		want.PartEpoch, want.PartRevision, want.FromChunk = part.Epoch, part.Revision, chunks
		request.Wants = append(request.Wants, want)
	}
	if len(asked.subjects) == 0 {
		return
	}
	request.All = len(asked.subjects) == len(f.subjects)
	if f.outdated || f.disputed {
		request.Roster = f.trust.Raw()
	}
	payload, err := proto.Marshal(request)
	if err != nil {
		f.problem("ask to catch up", err)
		return
	}
	f.ask = asked
	f.actions = append(f.actions, action{catchup: payload, nonce: request.GetNonce()})
}

// answer takes the answer to the outstanding request, or why there is none. What remains to be asked is
// asked at once where the answer brought something, and later and later where it did not.
func (f *follow) answer(now time.Time, nonce, payload []byte, err error) {
	if f.ask == nil || !bytes.Equal(f.ask.nonce, nonce) {
		return // to a request that was given up
	}
	asked := f.ask
	var answer *CatchupAnswer
	if err == nil {
		answer, err = f.open(now, payload, asked)
	}
	if err != nil {
		if f.unasked.fails(now) {
			f.problem("catching up failed", err)
		}
		f.ask = nil
		f.again(now)
		return
	}
	if f.unasked.over() {
		f.problem("catching up is answered again", nil)
	}
	f.ask = nil
	f.outdated = answer.GetEpoch() < f.trust.Roster().GetEpoch()
	at := position{Epoch: answer.GetEpoch(), Revision: answer.GetBeat()}
	progress := false
	for _, result := range answer.GetResults() {
		s := f.subjects[result.GetSubject()]
		if s != nil && slices.Contains(asked.subjects, result.GetSubject()) {
			progress = f.result(now, s, result, at) || progress
		}
	}
	// A server that delays everything still brings beats, old ones.
	if seen := f.beats.seen; seen.Revision != 0 && !f.stale && at.Epoch == seen.Epoch && at.Revision > seen.Revision+uint64(staleAfter/beatEvery) && !now.Before(f.moveAt) {
		f.move(now)
	}
	left := false
	for _, s := range f.subjects {
		left = left || s.ask
	}
	switch {
	case !left:
		f.failures = 0
	case progress:
		f.failures = 0
		f.askSoon(now, 0)
	default:
		f.again(now)
	}
}

func (f *follow) open(now time.Time, payload []byte, asked *ask) (*CatchupAnswer, error) {
	reply := new(CatchupReply)
	if err := proto.Unmarshal(payload, reply); err != nil {
		return nil, fmt.Errorf("open the answer to a catch-up: %w", err)
	}
	if len(reply.GetRoster()) > 0 {
		f.roster(now, reply.GetRoster(), true) // it proves itself, and may hold the key of the rest
	}
	return openAnswer(f.trust.Roster().SigningKeys(), f.cluster, f.node, asked.nonce, reply)
}

// result takes what an answer says of one subject, and reports whether that brought it further.
func (f *follow) result(now time.Time, s *followed, result *CatchupResult, at position) (progress bool) {
	subject, had := result.GetSubject(), s.newest()
	_, begun := f.parts.Begun(subject)
	opened := true
	for _, m := range result.GetMessages() {
		o, err := f.opener.Open(m.GetSubject(), m.GetData())
		switch {
		case o.Envelope == nil || o.GetSubject() != subject:
			f.problem("an answer brought what does not verify", err)
			opened = false
		case o.GetEpoch() < f.epoch:
		case err != nil:
			f.refuse(now, s, o, err)
		default:
			f.piece(now, s, o)
		}
	}
	if !opened {
		return false
	}
	if result.GetMore() {
		_, now := f.parts.Begun(subject)
		return now > begun
	}
	if at.Compare(s.from) < 0 {
		return s.newest() != had // what answered had not read the beat that made us ask
	}
	if result.GetAbsent() {
		f.absent(now, s, subject, at)
	}
	s.through = maxPosition(s.through, at)
	s.ask, s.wanted = false, snapshot.Version{}
	return true
}

// absent takes the word of a controller that nothing is stored. Within an epoch nothing that was published
// vanishes: then, what is held stays. In a newer one it belonged to a history that was given up.
func (f *follow) absent(now time.Time, s *followed, subject string, at position) {
	switch {
	case s.version.IsZero() && !s.told:
	case !s.version.IsZero() && s.version.Epoch < at.Epoch && s.newest().Epoch < at.Epoch:
		s.version, s.keyID = snapshot.Version{Epoch: at.Epoch}, ""
		f.actions = append(f.actions, action{keep: &kept{subject: subject}})
	default:
		return
	}
	s.told = true
	f.epoch = max(f.epoch, at.Epoch)
	f.actions = append(f.actions, action{update: &Update{Subject: subject, Version: s.version, Gone: true, Absent: true}})
}

// again asks once more after a while.
func (f *follow) again(now time.Time) {
	wait := min(askBackoff<<min(f.failures, 10), askSlowest)
	f.failures++
	f.askSoon(now, wait/2+f.jitter(wait/2))
}

// applied is told what is in force of a subject, or why something newer is not.
func (f *follow) applied(now time.Time, subject string, version snapshot.Version, problem string) {
	s := f.subjects[subject]
	if s == nil || subject == snapshot.RosterSubject || version == s.applied && problem == s.problem {
		return
	}
	s.applied, s.problem, s.unsaid = version, problem, true
	if problem == "" && s.refused.Compare(version) > 0 {
		s.problem = "requires a feature that this node does not know"
	}
	f.reportSoon(now)
}

func (f *follow) sendReport() {
	f.reportAt = time.Time{}
	report := &AppliedReport{All: f.reportAll}
	for _, subject := range slices.Sorted(maps.Keys(f.subjects)) {
		s := f.subjects[subject]
		if subject == snapshot.RosterSubject || !s.unsaid && !f.reportAll {
			continue
		}
		report.Entries = append(report.Entries, &AppliedEntry{Subject: subject, Epoch: s.applied.Epoch, Revision: s.applied.Revision, Problem: s.problem})
		s.unsaid = false
	}
	if len(report.GetEntries()) == 0 && !f.reportAll {
		return
	}
	f.reportAll = false
	payload, err := proto.Marshal(report)
	if err != nil {
		f.problem("report what is applied", err)
		return
	}
	f.reporting = true
	f.actions = append(f.actions, action{report: payload})
}

// reported takes the outcome of a report: what did not arrive is said again.
func (f *follow) reported(now time.Time, err error) {
	if err != nil {
		if f.unreported.fails(now) {
			f.problem("reporting what is applied failed", err)
		}
		f.reportAll = true
		f.reportAt = now.Add(askBackoff + f.jitter(askSpread))
	} else if f.unreported.over() {
		f.problem("what is applied is reported again", nil)
	}
	f.reporting = false
}

// take returns what is to be done, in order, and forgets it.
func (f *follow) take() []action {
	actions := f.actions
	f.actions = nil
	return actions
}

// state is what a node says of its configuration.
func (f *follow) state() Following {
	state := Following{Beat: f.beats.seen, Missing: []string{}, Verifications: f.opener.Verifications()}
	if f.stale {
		state.StaleSince = f.beats.last
	}
	for _, subject := range slices.Sorted(maps.Keys(f.subjects)) {
		if s := f.subjects[subject]; s.version.IsZero() && !s.told {
			state.Missing = append(state.Missing, subject)
		}
		if s := f.subjects[subject]; s.refused.Compare(s.version) > 0 {
			state.Refused = append(state.Refused, subject)
		}
	}
	return state
}

// Following is the state of a Follower, for status and metrics.
type Following struct {
	Beat          snapshot.Version // the newest: epoch and number
	StaleSince    time.Time        // when the last beat came; zero while beats come
	Missing       []string         // subjects of which nothing is known yet
	Refused       []string         // subjects whose newest snapshot requires a feature that is unknown here
	Verifications uint64           // signatures verified so far
}
