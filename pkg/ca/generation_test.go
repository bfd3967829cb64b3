package ca

import (
	"bytes"
	"flag"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// One line a case: what the registry has, what the node shows, and the key that it asks for.
func TestJudge(t *testing.T) {
	t.Parallel()
	now := testStart.UnixMilli()
	had := func(key string, generation, number, epoch uint64) *NodeRecord {
		return &NodeRecord{PublicKey: []byte(key), Generation: generation, ReceiptNumber: number, Epoch: epoch, RenewedUnixMs: now}
	}
	shows := func(key string, generation, number, epoch uint64) *Receipt {
		return &Receipt{PublicKey: []byte(key), Generation: generation, Number: number, Epoch: epoch, IssuedUnixMs: now}
	}
	frozen, removed := had("b", 2, 4, 0), had("b", 2, 4, 0)
	frozen.State, removed.State = NodeState_NODE_STATE_FROZEN, NodeState_NODE_STATE_REMOVED
	for _, tt := range []struct {
		name     string
		record   *NodeRecord
		receipt  *Receipt
		key      string
		want     verdict
		believed bool
	}{
		{"a renewal", had("b", 2, 4, 0), shows("b", 2, 4, 0), "c", advances, false},
		{"a service more, with the same key", had("b", 2, 4, 0), shows("b", 2, 4, 0), "b", repeats, false},
		{"the answer did not arrive", had("c", 3, 5, 0), shows("b", 2, 4, 0), "c", repeats, false},
		{"the answer that brought a service did not arrive", had("b", 2, 5, 0), shows("b", 2, 4, 0), "b", repeats, false},
		{"restored to a generation before", had("a", 1, 3, 0), shows("b", 2, 4, 0), "c", advances, true},
		{"restored to before it was allowed a service", had("b", 2, 3, 0), shows("b", 2, 4, 0), "b", repeats, true},
		{"the same, and it renews", had("b", 2, 3, 0), shows("b", 2, 4, 0), "c", advances, true},
		{"restored in an epoch of its own", had("b", 2, 3, 0), shows("b", 2, 4, 7), "b", repeats, true},
		{"restored from what it never got the answer of", had("b", 2, 9, 0), shows("b", 2, 4, 7), "b", repeats, true},
		{"a receipt that the registry has left behind", had("b", 2, 5, 0), shows("b", 2, 4, 0), "c", advances, false},
		{"a receipt of before receipts had numbers", had("b", 2, 5, 0), shows("b", 2, 0, 0), "c", advances, false},
		{"a registry of before receipts had numbers", had("b", 2, 0, 0), shows("b", 2, 1, 0), "c", advances, true},
		{"of a controller that was given up, the same key", had("b", 2, 4, 7), shows("b", 2, 9, 0), "b", repeats, false},
		{"of a controller that was given up, a key of its own", had("b", 2, 4, 7), shows("d", 4, 9, 0), "d", splits, false},
		{"two keys of one generation, the other with more receipts", had("b", 2, 4, 0), shows("d", 2, 9, 0), "d", splits, false},
		{"two successors of one generation", had("c", 3, 5, 0), shows("b", 2, 4, 0), "d", splits, false},
		{"an old image", had("d", 4, 6, 0), shows("b", 2, 4, 0), "c", isOld, false},
		{"frozen, whatever it shows", frozen, shows("b", 2, 9, 0), "c", isFrozen, false},
		{"removed, whatever it shows", removed, shows("b", 9, 9, 9), "c", isRemoved, false},
	} {
		v, believed := judge(tt.record, tt.receipt, []byte(tt.key), testStart, DefaultAbsence)
		if v != tt.want || believed != tt.believed {
			t.Errorf("%s: verdict %d, believed %t, want %d, %t", tt.name, v, believed, tt.want, tt.believed)
		}
	}
}

// lineage is one node and its registry, which is restored to older states. What they do is judged by the real rule.
type lineage struct {
	t       *rapid.T
	record  *NodeRecord
	epoch   uint64
	backups []*NodeRecord
	keys    int
	receipt *Receipt // that the node has stored
	pending []byte   // the key that it asks for, until an answer arrives
	allowed []string // by an operator, since the registry was restored last
}

// ask is one request of the node's, as Registrar.renew answers it; the answer may be lost.
func (l *lineage) ask(rotate bool) {
	if rotate && l.pending == nil {
		l.keys++
		l.pending = fmt.Append(nil, "key ", l.keys)
	}
	key := l.pending
	if key == nil {
		key = l.receipt.GetPublicKey()
	}
	record := proto.CloneOf(l.record)
	v, believed := judge(record, l.receipt, key, testStart, DefaultAbsence)
	if v != advances && v != repeats {
		l.t.Fatalf("verdict %d on the only host: it shows %v for %q, the registry has %v", v, l.receipt, key, record)
	}
	if believed {
		record.believe(l.receipt)
	}
	if v == advances {
		record.PublicKey = key
		record.Generation++
	}
	record.ReceiptNumber++
	record.Allowed = nil
	record.Epoch = l.epoch
	l.record = record
	if rapid.IntRange(0, 3).Draw(l.t, "answer") == 0 {
		return // it is lost
	}
	before := l.receipt
	l.receipt = &Receipt{
		PublicKey: record.GetPublicKey(), Generation: record.GetGeneration(), Services: slices.Clone(record.GetServices()),
		IssuedUnixMs: testStart.UnixMilli(), Epoch: l.epoch, Number: record.GetReceiptNumber(),
	}
	l.pending = nil
	if !bytes.Equal(l.receipt.GetPublicKey(), key) || l.receipt.GetGeneration() < before.GetGeneration() {
		l.t.Fatalf("a node with generation %d asked for %q, and has %v", before.GetGeneration(), key, l.receipt)
	}
	for _, service := range append(before.GetServices(), l.allowed...) {
		if !slices.Contains(l.receipt.GetServices(), service) {
			l.t.Fatalf("%s was allowed, the node had the receipt %v, and has %v", service, before, l.receipt)
		}
	}
}

// TestNothingThatANodeWasAllowedIsForgotten renews, allows, loses answers, and restores backups of any age: whatever a
// node once had on its receipt it keeps, whatever an operator said since it gets, and it is never taken for another host.
func TestNothingThatANodeWasAllowedIsForgotten(t *testing.T) {
	// A hundred histories, rapid's default, find too little; whoever asks for another number gets it.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("10000"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		l := &lineage{t: t, record: &NodeRecord{PublicKey: []byte("key 0"), Generation: 1}, receipt: &Receipt{}}
		l.record.ReceiptNumber, l.record.RenewedUnixMs = 1, testStart.UnixMilli()
		l.receipt = &Receipt{PublicKey: []byte("key 0"), Generation: 1, Number: 1, IssuedUnixMs: testStart.UnixMilli()}
		l.backups = []*NodeRecord{{RenewedUnixMs: testStart.UnixMilli()}, l.record} // the first of before it joined
		services := 0
		t.Repeat(map[string]func(*rapid.T){
			"it renews":           func(*rapid.T) { l.ask(true) },
			"it asks, no renewal": func(*rapid.T) { l.ask(false) },
			"it is allowed more": func(*rapid.T) {
				services++
				l.record = proto.CloneOf(l.record)
				l.allowed = append(l.allowed, fmt.Sprint("default/s", services))
				l.record.allow(l.allowed[len(l.allowed)-1])
			},
			"a backup is taken": func(*rapid.T) { l.backups = append(l.backups, l.record) },
			"a backup is restored": func(t *rapid.T) {
				l.epoch++
				l.allowed = nil
				l.record = rapid.SampledFrom(l.backups).Draw(t, "backup")
			},
		})
	})
}
