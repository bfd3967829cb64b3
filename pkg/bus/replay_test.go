package bus_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// What a hostile bus can deliver to a follower changes nothing that it believes: here the attacker has a
// controller's place on the bus, and everything that was ever published, but no signing key.
func TestAttackReplayingSnapshots(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	subject, other := snapshot.OutSubject("default", "orders", ""), snapshot.OutSubject("default", "payments", "")
	p, _ := a.publish(t, b, b.Controller)
	web2 := a.node(t, b, b.Node(t, "web2"), "web2", nil, subject, other)
	p.Publish(set(1, map[string][]byte{subject: []byte("first"), other: []byte("payments")}))
	web2.untilBody(t, subject, []byte("first"))
	web2.untilBody(t, other, []byte("payments"))
	waitApplied(t, p, 1)
	web2.mu.Lock()
	first, payments := web2.kept[subject][0], web2.kept[other][0]
	web2.mu.Unlock()
	p.Publish(set(2, map[string][]byte{subject: []byte("second"), other: []byte("payments")}))
	web2.untilBody(t, subject, []byte("second"))
	web2.mu.Lock()
	version := web2.applied[subject].Version
	web2.mu.Unlock()

	foreign := newAuthority(t)
	newer := []snapshot.Snapshot{{Subject: subject, Version: snapshot.Version{Epoch: version.Epoch + 1, Revision: version.Revision + 1}, Body: []byte("forged")}}
	sealed := func(cluster string, by authority) []byte {
		messages, err := snapshot.Seal(cluster, by.signer, newer)
		if err != nil {
			t.Fatal(err)
		}
		return messages[0].Data
	}
	user, err := b.Accounts.ControllerUser("attacker")
	if err != nil {
		t.Fatal(err)
	}
	attacker := connectRaw(t, b, user, func(error) {})
	say := func(subject string, data []byte) {
		if err := attacker.PublishMsg(&nats.Msg{Subject: subject, Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	live := snapshot.Live(first.Subject)
	say(live, first.Data)                                                     // an old one
	say(live, payments.Data)                                                  // another subject's
	say(live, sealed("shop", foreign))                                        // a key that the roster does not list
	say(live, sealed("other", a))                                             // of another cluster, were its key the same
	say(live, bytes.Replace(first.Data, []byte("first"), []byte("forge"), 1)) // changed
	say(live, nil)                                                            // nothing
	say(live, []byte("\xff\xff\xff\xff"))                                     // noise
	say(snapshot.Live(snapshot.RosterSubject), foreign.roster)                // another root's roster
	say(snapshot.Live(snapshot.BeatSubject), sealed("shop", foreign))         // no beat
	say("_INBOX.node.web2.x", first.Data)                                     // no answer
	if err := attacker.FlushTimeout(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	// What comes after is applied, and nothing came between: node fails the test on any older version.
	p.Publish(set(3, map[string][]byte{subject: []byte("second"), other: []byte("third")}))
	web2.untilBody(t, other, []byte("third"))
	web2.mu.Lock()
	defer web2.mu.Unlock()
	if got := web2.applied[subject]; string(got.Body) != "second" || got.Version != version {
		t.Errorf("the node believes %q of version %v, want what was signed last: %q of %v", got.Body, got.Version, "second", version)
	}
}
