package bus_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// catchup asks for subjects as a node does, which shows a roster.
func catchup(t *testing.T, p *bus.Publisher, node string, roster []byte, subjects ...string) *bus.CatchupAnswer {
	t.Helper()
	request := &bus.CatchupRequest{Nonce: bytes.Repeat([]byte{1}, 16), Roster: roster}
	for _, subject := range subjects {
		request.Wants = append(request.Wants, &bus.Want{Subject: subject})
	}
	payload, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.Catchup(t.Context(), node, payload)
	if err != nil {
		t.Fatal(err)
	}
	var reply bus.CatchupReply
	var answer bus.CatchupAnswer
	if err := proto.Unmarshal(data, &reply); err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(reply.GetAnswer(), &answer); err != nil {
		t.Fatal(err)
	}
	return &answer
}

// A leader that a node shows the root's roster of a newer epoch ends leading, and says so once. What another root signed,
// what is no roster, and an older one change nothing: a node cannot stop a controller by its word.
func TestANewerEpochEndsLeading(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	told := make(chan uint64, 2)
	p, err := bus.NewPublisher(bus.PublisherConfig{
		Conn: b.Controller, Cluster: "shop", Controller: "controller", Epoch: 3, Root: a.root, Roster: a.rosterOf(3), Signer: func() snapshot.Signer { return a.signer }, Log: b.Log,
		MayRun:     func(string, string, string) bool { return true },
		Superseded: func(epoch uint64, _ []byte) { told <- epoch },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	awaitThat(t, "the controller leads", p.Leading)
	for _, roster := range [][]byte{newAuthority(t).rosterOf(9), []byte("no roster"), a.rosterOf(3), a.rosterOf(2)} {
		catchup(t, p, "web1", roster)
	}
	p.Publish(set(1, map[string][]byte{snapshot.OutSubject("default", "orders", ""): []byte("1")}))
	awaitThat(t, "it publishes after all of these", p.Begun)
	if !p.Leading() || p.Superseded() != 0 {
		t.Fatal("a roster that proves nothing ended leading")
	}
	catchup(t, p, "web1", a.rosterOf(4))
	awaitThat(t, "it does not lead", func() bool { return !p.Leading() && p.Superseded() == 4 })
	if epoch := <-told; epoch != 4 || len(told) > 0 {
		t.Errorf("told of epoch %d, and %d times more", epoch, len(told))
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("the publisher ended with: %v", err)
	}
}

// A delegate that named an epoch beyond all others ends with its delegation: what a controller publishes by the next one is
// applied by nodes that believed it, also in an epoch before.
func TestTheNextDelegationEndsWhatTheOneBeforeBegan(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	subject := snapshot.OutSubject("default", "orders", "")
	a.roster = a.delegated(1, 0, 1)
	p, stop := a.publish(t, b, b.Controller)
	awaitThat(t, "the controller leads", p.Leading)
	thiefs := a.delegated(1, 99, 1)
	catchup(t, p, "web2", thiefs)
	awaitThat(t, "it does not lead", func() bool { return p.Superseded() == 99 })
	web1 := a.node(t, b, b.Node(t, "web1", "default/orders"), "web1", []snapshot.Raw{{Subject: snapshot.RosterSubject, Data: thiefs}}, subject)
	web1.until(t, "the epoch", func(applied map[string]bus.Update) bool { return applied[snapshot.RosterSubject].Version.Epoch == 99 })
	stop()

	a.roster = a.delegated(2, 0, 1)
	p, _ = a.publish(t, b, b.Controller)
	p.Publish(set(1, map[string][]byte{subject: []byte("1")}))
	web1.untilBody(t, subject, []byte("1"))
	web1.stop()
	web2 := a.node(t, b, b.Node(t, "web2", "default/orders"), "web2", []snapshot.Raw{{Subject: snapshot.RosterSubject, Data: thiefs}}, subject)
	web2.untilBody(t, subject, []byte("1"))
	if epoch := p.Superseded(); epoch != 0 {
		t.Errorf("whoever shows the roster of before ends that it leads: epoch %d", epoch)
	}
}

// The same, where the delegate named a serial beyond all others: the controller itself had believed and stored that.
func TestTheNextDelegationReplacesWhatIsStored(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	a.roster = a.delegated(1, 0, 1)
	p, stop := a.publish(t, b, b.Controller)
	web1 := a.node(t, b, b.Node(t, "web1", "default/orders"), "web1", nil, snapshot.OutSubject("default", "orders", ""))
	at := func(serial uint64) {
		t.Helper()
		web1.until(t, fmt.Sprintf("serial %d", serial), func(applied map[string]bus.Update) bool {
			return applied[snapshot.RosterSubject].Version.Revision == serial
		})
	}
	at(1)
	catchup(t, p, "web2", a.delegated(1, 0, 99))
	at(99)
	stop()
	a.roster = a.delegated(2, 0, 2)
	a.publish(t, b, b.Controller)
	at(2)
}

// A node that a restored controller does not know everything of is told the roster, and not that the rest is absent: it
// would drop what it serves with.
func TestWhoHasNotShownIsToldTheRosterAlone(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	p, err := bus.NewPublisher(bus.PublisherConfig{
		Conn: b.Controller, Cluster: "shop", Controller: "controller", Epoch: 3, Root: a.root, Roster: a.rosterOf(3), Signer: func() snapshot.Signer { return a.signer }, Log: b.Log,
		MayRun: func(string, string, string) bool { return false },
		Shown:  func(node string) bool { return node == "shown" },
	})
	if err != nil {
		t.Fatal(err)
	}
	in := snapshot.InSubject("default", "orders")
	for node, want := range map[string]int{"shown": 2, "new": 1} {
		answer := catchup(t, p, node, nil, snapshot.RosterSubject, in)
		if got := answer.GetResults(); len(got) != want || got[0].GetSubject() != snapshot.RosterSubject {
			t.Errorf("%s is told of %v", node, got)
		}
	}
}

func awaitThat(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(flowTimeout); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", flowTimeout, what)
		}
	}
}
