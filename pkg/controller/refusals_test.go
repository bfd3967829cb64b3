package controller

import (
	"fmt"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/audit"
)

// TestAHostileNodeDoesNotFillTheAudit has one node refused a thousand times a second for a day, in three ways, and another
// twice: all are counted, the hostile node's records are few, and say how many they stand for, and the other's is made at once.
func TestAHostileNodeDoesNotFillTheAudit(t *testing.T) {
	t.Parallel()
	var r refusals
	start := time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)
	kinds := []string{"publish", "subscribe", "denied"}
	const each = 1000
	records, stands, recordedAfter := map[string]int{}, map[string]uint64{}, time.Duration(-1)
	take := func(events []*audit.Event, at time.Duration) {
		for _, e := range events {
			if e.GetKind() != audit.Refusal || e.GetName() != e.GetActor() || e.GetDetail() == "" {
				t.Fatalf("%v", e)
			}
			records[e.GetActor()]++
			stands[e.GetActor()] += 1 + e.GetUnrecorded()
			if e.GetActor() == "honest" && recordedAfter < 0 {
				recordedAfter = at
			}
		}
	}
	day := int((24 * time.Hour).Seconds())
	for second := range day {
		at := time.Duration(second) * time.Second
		for _, kind := range kinds {
			r.add("hostile", kind, "sennit.config.x", each)
		}
		if second == day/2 || second == day/2+1 {
			r.add("honest", "denied", "register", 1)
		}
		take(r.overdue(start.Add(at)), at)
	}
	take(r.overdue(start.Add(48*time.Hour)), 48*time.Hour)
	if most := 40 * len(kinds); records["hostile"] > most {
		t.Errorf("%d records, at most %d", records["hostile"], most)
	}
	if least := 25 * len(kinds); records["hostile"] < least { // each hour at the least
		t.Errorf("%d records, at least %d", records["hostile"], least)
	}
	totals := map[string]uint64{}
	r.each(func(node, kind string, total uint64) { totals[node] += total })
	if want := uint64(each * len(kinds) * day); totals["hostile"] != want || stands["hostile"] != want {
		t.Errorf("%d are counted, and %d recorded, of %d", totals["hostile"], stands["hostile"], want)
	}
	if totals["honest"] != 2 || stands["honest"] != 2 || recordedAfter != time.Duration(day/2)*time.Second {
		t.Errorf("of another: %d counted, %d recorded, at %s", totals["honest"], stands["honest"], recordedAfter)
	}
	t.Logf("%d records of %d refusals", records["hostile"], totals["hostile"])

	for i := range 2 * maxRefused {
		r.add(fmt.Sprint("web", i), "publish", "x", 1)
	}
	apart := 0
	r.each(func(string, string, uint64) { apart++ })
	if apart > maxRefused+10 {
		t.Errorf("%d are told apart, at most %d", apart, maxRefused)
	}
}

// TestRefusalsAreRecordedAtOnceAfterASilence, with what the first of them was, and nothing is recorded where nothing came.
func TestRefusalsAreRecordedAtOnceAfterASilence(t *testing.T) {
	t.Parallel()
	var r refusals
	now := time.Date(2030, 3, 1, 12, 0, 0, 0, time.UTC)
	first := r.now("web1", "join", "first", now)
	if first.GetDetail() != "first" || first.GetUnrecorded() != 0 || first.GetName() != "web1" {
		t.Errorf("the first: %v", first)
	}
	if event := r.now("web1", "join", "second", now.Add(time.Second)); event != nil {
		t.Errorf("the second in a second: %v", event)
	}
	r.add("web1", "join", "third", 1)
	if events := r.overdue(now.Add(firstRefusalPause)); len(events) != 1 || events[0].GetDetail() != "second" || events[0].GetUnrecorded() != 1 {
		t.Errorf("after the pause: %v", events)
	}
	if events := r.overdue(now.Add(time.Hour)); len(events) > 0 {
		t.Errorf("where nothing came: %v", events)
	}
	for range 12 { // until the pause is the longest
		r.add("web1", "join", "x", 1)
		now = now.Add(longestRefusalPause)
		r.overdue(now)
	}
	now = now.Add(3 * longestRefusalPause)
	if event := r.now("web1", "join", "again", now); event.GetDetail() != "again" {
		t.Errorf("the first after a silence: %v", event)
	}
	r.add("web1", "join", "more", 1)
	if events := r.overdue(now.Add(firstRefusalPause)); len(events) != 1 {
		t.Errorf("the pause after a silence is not the shortest: %v", events)
	}
	total := uint64(0)
	r.each(func(_, _ string, n uint64) { total += n })
	if total != 3+12+2 {
		t.Errorf("%d are counted", total)
	}
}
