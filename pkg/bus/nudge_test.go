package bus_test

import (
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// A nudge reaches the node that it is for, also after it has connected anew, and no other.
func TestNudge(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	web1, web2, web3 := b.Node(t, "web1"), b.Node(t, "web2"), b.Node(t, "web3")
	nudged := make(chan string, 16)
	for _, node := range []struct {
		name string
		hear func(func()) (func(), error)
	}{{"web1", web1.Nudged}, {"web2", web2.Nudged}, {"web3", web3.Nudged}} {
		stop, err := node.hear(func() { nudged <- node.name })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	// Subscribing is not answered: what was nudged before is lost, and nudged again.
	sofar := map[string]bool{} // who was nudged
	for range 2 {
		waitNudge(t, b, "web1", nudged, sofar)
		if err := web1.Reconnect(); err != nil {
			t.Fatal(err)
		}
	}
	waitNudge(t, b, "web2", nudged, sofar)
	waitNudge(t, b, "web3", nudged, sofar) // it does listen, and none of the nudges of the others reached it
}

// waitNudge nudges a node until it hears it. What is heard late of those that were nudged before says nothing.
func waitNudge(t *testing.T, b *bustest.Bus, node string, nudged <-chan string, sofar map[string]bool) {
	t.Helper()
	sofar[node] = true
	for end := time.Now().Add(refusalTime * 4); time.Now().Before(end); {
		if err := b.Controller.Nudge(node); err != nil {
			t.Fatal(err)
		}
		select {
		case who := <-nudged:
			if who == node {
				return
			}
			if !sofar[who] {
				t.Fatalf("%s was nudged in the place of %s", who, node)
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s hears no nudge", node)
}
