package bus

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func version(revision uint64) snapshot.Version { return snapshot.Version{Revision: revision} }

func reportOf(all bool, subject string, revision uint64) *AppliedReport {
	return &AppliedReport{All: all, Entries: []*AppliedEntry{{Subject: subject, Revision: revision}}}
}

func TestWaitNamesThoseThatHaveNotApplied(t *testing.T) {
	a := newApplied()
	a.interest("web1", &CatchupRequest{All: true, Wants: []*Want{{Subject: "orders"}}})
	a.interest("web2", &CatchupRequest{All: true, Wants: []*Want{{Subject: "orders"}, {Subject: "payments"}}})
	a.publish(map[string]snapshot.Version{"orders": version(5), "payments": version(4), "nobody's": version(9)}, snapshot.Inputs{Resources: 7})
	a.report("web1", reportOf(false, "orders", 5))
	a.report("web2", reportOf(false, "orders", 4))
	names := func() (names []string) {
		for _, p := range a.Pending() {
			names = append(names, p.Node+" "+p.Subject)
		}
		return names
	}
	for _, tt := range []struct {
		name string
		do   func()
		want []string
	}{
		{"one applied, one is behind", func() {}, []string{"web2 orders", "web2 payments"}},
		{"interest without a report counts", func() { a.report("web2", reportOf(false, "orders", 6)) }, []string{"web2 payments"}},
		{"asking again forgets nothing", func() {
			a.interest("web2", &CatchupRequest{All: true, Wants: []*Want{{Subject: "orders"}, {Subject: "payments"}}})
		}, []string{"web2 payments"}},
		{"what is followed no more is not waited for", func() { a.report("web2", reportOf(true, "orders", 6)) }, nil},
		{"an older report of what runs is believed", func() { a.report("web1", reportOf(true, "orders", 3)) }, []string{"web1 orders"}},
		{"a node that is lost is not waited for", func() { a.Forget("web1") }, nil},
	} {
		tt.do()
		if got := names(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: pending %q, want %q", tt.name, got, tt.want)
		}
	}
}

// The host of a node that was removed goes on to report for a while, and may then end; one that declares a service
// which it may not run follows what it is never told. A change must not wait for either.
func TestWaitIgnoresWhatIsNotTold(t *testing.T) {
	a := newApplied()
	inbound := snapshot.InSubject("default", "orders")
	removed, allowed := true, false
	a.removed = func(node string) bool { return node == "web1" && removed }
	a.may = func(node, subject string) bool { return node != "web2" || subject != inbound || allowed }
	a.Forget("web1") // and then it reports again
	a.report("web1", reportOf(true, "orders", 1))
	a.report("web2", reportOf(true, inbound, 0))
	a.publish(map[string]snapshot.Version{"orders": version(5), inbound: version(5)}, snapshot.Inputs{Resources: 7})
	if pending, published, err := a.Wait(t.Context(), 7); err != nil || !published || len(pending) > 0 {
		t.Errorf("waits for %+v: published %v, %v", pending, published, err)
	}
	if s := a.Standings(); len(s) != 1 || s["web2"].Behind != 0 {
		t.Errorf("standings: %+v, want web2 alone, which is not behind", s)
	}
	removed, allowed = false, true // its name was given to another host; the service was allowed
	if pending := a.Pending(); len(pending) != 2 {
		t.Errorf("pending: %+v, want both", pending)
	}
}

func TestWaitReturnsWhenAllHaveApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApplied()
		a.interest("web1", &CatchupRequest{Wants: []*Want{{Subject: "orders"}}})
		returned := make(chan error, 1)
		go func() {
			_, published, err := a.Wait(t.Context(), 7)
			if !published {
				t.Error("returned although it was not published")
			}
			returned <- err
		}()
		steps := []func(){
			func() { a.report("web1", reportOf(false, "orders", 4)) },
			func() { a.publish(map[string]snapshot.Version{"orders": version(4)}, snapshot.Inputs{Resources: 6}) }, // not what is waited for
			func() { a.publish(map[string]snapshot.Version{"orders": version(5)}, snapshot.Inputs{Resources: 7}) },
			// What comes later does not delay it.
			func() { a.publish(map[string]snapshot.Version{"orders": version(6)}, snapshot.Inputs{Resources: 8}) },
		}
		for i, step := range steps {
			step()
			synctest.Wait()
			if len(returned) != 0 {
				t.Fatalf("returned after step %d", i)
			}
		}
		a.report("web1", reportOf(false, "orders", 5))
		if err := <-returned; err != nil {
			t.Error(err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	a := newApplied()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, published, err := a.Wait(ctx, 1); published || err == nil {
		t.Errorf("published %v, %v; want the context's error", published, err)
	}
}

func TestInterestOfOneNodeIsBounded(t *testing.T) {
	a := newApplied()
	for i := range maxFollowed + 100 {
		a.interest("web1", &CatchupRequest{Wants: []*Want{{Subject: simSubject(i)}}})
	}
	if n := len(a.nodes["web1"]); n > maxFollowed {
		t.Errorf("%d subjects are kept of one node, at most %d", n, maxFollowed)
	}
}

// What a node says of itself is its own to choose: neither its length nor its bytes may harm a controller, or the
// terminal on which an operator reads it.
func TestWhatANodeSaysIsBounded(t *testing.T) {
	a := newApplied()
	long := strings.Repeat("s", maxNodePayload/2)
	a.interest("web1", &CatchupRequest{Wants: []*Want{{Subject: long}}})
	a.report("web1", &AppliedReport{Entries: []*AppliedEntry{
		{Subject: long + "2"},
		{Subject: "orders", Problem: "\x1b]0;owned\a\nno error\u202e" + strings.Repeat("ü", maxNodePayload/4)},
	}})
	a.publish(map[string]snapshot.Version{"orders": version(5), long: version(5)}, snapshot.Inputs{})
	pending := a.Pending()
	if len(pending) != 1 || len(a.nodes["web1"]) != 1 {
		t.Fatalf("%d subjects are kept and %d pending, want one", len(a.nodes["web1"]), len(pending))
	}
	problem := pending[0].Problem
	if len(problem) > maxProblemBytes+len("…") || !utf8.ValidString(problem) {
		t.Errorf("the problem has %d bytes, valid %v; at most %d are kept", len(problem), utf8.ValidString(problem), maxProblemBytes)
	}
	if !strings.HasPrefix(problem, " ]0;owned  no error ü") {
		t.Errorf("the problem begins with %q", problem[:min(len(problem), 40)])
	}
}
