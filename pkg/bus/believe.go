package bus

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// keptRosters bounds the rosters that are kept for what their keys signed.
const keptRosters = 4

// load takes what was kept. The newest roster says what is believed from now on. What was verified before a
// key left the roster stays in force, as it would have without the restart: it is verified by the older
// rosters that were kept for it.
func (f *follow) load(now time.Time, features []string, keptMessages []snapshot.Raw) {
	then := snapshot.NewOpener(f.cluster, features)
	keys := snapshot.Keys{}
	for _, raw := range keptMessages {
		if raw.Subject != snapshot.RosterSubject {
			continue
		}
		f.roster(now, raw.Data, false)
		if roster, err := snapshot.OpenRoster(f.cluster, f.root, raw.Data); err == nil {
			maps.Copy(keys, roster.SigningKeys())
			f.rosters = append(f.rosters, raw)
		}
	}
	then.SetKeys(keys)
	for _, raw := range keptMessages {
		subject, _, ok := snapshot.SplitChunk(raw.Subject)
		if !ok || subject == snapshot.RosterSubject || subject == snapshot.BeatSubject {
			continue
		}
		f.add(subject)
		opened, err := then.Open(raw.Subject, raw.Data)
		if err != nil {
			f.problem("kept configuration", err)
			continue
		}
		if held, complete := f.parts.Add(opened); complete {
			f.apply(now, held, false)
		}
	}
}

// roster takes a roster from wherever it comes: it proves itself. What is held by a key that left it stays in
// force, and is asked for again.
func (f *follow) roster(now time.Time, data []byte, keep bool) {
	before := f.trust.Roster().GetDelegation()
	replaced, err := f.trust.Update(data)
	if err != nil {
		f.problem("roster was dropped", err)
	}
	if errors.Is(err, snapshot.ErrDelegation) && !f.disputed {
		f.disputed, f.subjects[snapshot.RosterSubject].ask = true, true
		f.askSoon(now, f.jitter(askSpread))
	}
	if !replaced {
		return
	}
	f.disputed = false
	roster := f.trust.Roster()
	keys := roster.SigningKeys()
	f.opener.SetKeys(keys)
	if roster.GetDelegation() > before || roster.GetEpoch() > f.epoch { // whatever epoch the delegate before named
		f.epoch = roster.GetEpoch()
	}
	f.subjects[snapshot.RosterSubject].version = rosterVersion(roster)
	f.actions = append(f.actions, action{update: &Update{Subject: snapshot.RosterSubject, Version: rosterVersion(roster), Body: data}})
	revoked := false
	for _, s := range f.subjects { // is to be had again, by a key that is listed
		if _, listed := keys[s.keyID]; s.keyID != "" && !listed {
			revoked, s.ask = true, true
			f.askSoon(now, f.jitter(askSpread))
		}
	}
	if !keep {
		return
	}
	if !revoked {
		f.rosters = nil
	}
	f.rosters = append(f.rosters[max(0, len(f.rosters)+1-keptRosters):], snapshot.Raw{Subject: snapshot.RosterSubject, Data: data})
	f.actions = append(f.actions, action{keep: &kept{snapshot.RosterSubject, slices.Clone(f.rosters)}})
}
