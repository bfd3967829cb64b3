package snapshot

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// testSigner returns a key that depends on n alone.
func testSigner(n byte) Signer {
	return NewSigner(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)))
}

func keysOf(signers ...Signer) Keys {
	roster := new(Roster)
	for _, s := range signers {
		roster.Keys = append(roster.Keys, s.Public())
	}
	return roster.SigningKeys()
}

func testOpener(signers ...Signer) *Opener {
	o := NewOpener("shop", []string{"known"})
	o.SetKeys(keysOf(signers...))
	return o
}

func mustSeal(t testing.TB, signer Signer, snapshots ...Snapshot) []Raw {
	t.Helper()
	messages, err := Seal("shop", signer, snapshots)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

// What is sealed comes out again, whatever the order and however often its messages arrive, and a batch
// costs one verification.
func TestSealedComesBackWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		signer := testSigner(1)
		want, came := map[string]Snapshot{}, map[string]bool{}
		var snapshots []Snapshot
		for i := range rapid.IntRange(1, 9).Draw(t, "snapshots") {
			s := Snapshot{
				Subject:   InSubject("default", fmt.Sprint("s", i)),
				Version:   Version{rapid.Uint64().Draw(t, "epoch"), rapid.Uint64Min(1).Draw(t, "revision")},
				BuiltFrom: Inputs{rapid.Uint64().Draw(t, "resources"), rapid.Uint64().Draw(t, "instances")},
				Gone:      rapid.Bool().Draw(t, "gone"),
			}
			if !s.Gone {
				size := rapid.SampledFrom([]int{0, 1, 300, ChunkSize - 1, ChunkSize, ChunkSize + 1, 3 * ChunkSize}).Draw(t, "size")
				s.Body = bytes.Repeat([]byte{byte(i + 1)}, size)
			}
			want[s.Subject] = s
			snapshots = append(snapshots, s)
		}
		messages, err := Seal("shop", signer, snapshots)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, rapid.SliceOf(rapid.SampledFrom(messages)).Draw(t, "duplicates")...)
		messages = rapid.Permutation(messages).Draw(t, "order")
		opener, assembler := testOpener(signer), NewAssembler(64<<20)
		for _, raw := range messages {
			o, err := opener.Open(Live(raw.Subject), raw.Data)
			if err != nil {
				t.Fatal(err)
			}
			held, complete := assembler.Add(o)
			if !complete {
				continue
			}
			s := want[held.Subject]
			if held.Version != s.Version || held.BuiltFrom != s.BuiltFrom || held.Gone != s.Gone || !bytes.Equal(held.Body, s.Body) || held.KeyID != signer.ID {
				t.Fatalf("%s came back otherwise: %v %v", s.Subject, held.Version, len(held.Body))
			}
			came[held.Subject] = true
		}
		if len(came) != len(want) {
			t.Fatalf("%d of %d came back", len(came), len(want))
		}
		if opener.Verifications() != 1 {
			t.Fatalf("%d verifications of one batch", opener.Verifications())
		}
	})
}

func TestSealedAgainKeepsItsNumbers(t *testing.T) {
	old, new := testSigner(1), testSigner(2)
	s := Snapshot{Subject: NodeSubject("web1"), Version: Version{0, 7}, Body: bytes.Repeat([]byte("x"), ChunkSize+1)}
	before := mustSeal(t, old, s)
	after, err := SealAgain(new, before)
	if err != nil {
		t.Fatal(err)
	}
	opener := testOpener(new)
	for i, raw := range after {
		o, err := opener.Open(raw.Subject, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if o.Version() != s.Version || o.KeyID != new.ID || raw.Subject != before[i].Subject {
			t.Errorf("chunk %d: %v by %s", i, o.Version(), o.KeyID)
		}
	}
	if _, err := opener.Open(before[0].Subject, before[0].Data); !errors.Is(err, ErrKey) {
		t.Errorf("the old key's message: %v, want ErrKey", err)
	}
}

func TestSealRefusesWhatIsTooLarge(t *testing.T) {
	big := bytes.Repeat([]byte("x"), MaxChunks*ChunkSize+1)
	for _, tt := range []struct {
		name string
		s    Snapshot
	}{
		{"body", Snapshot{Subject: NodeSubject("a"), Body: big}},
		{"canary", Snapshot{Subject: NodeSubject("a"), Canary: &Canary{Body: big[:ChunkSize+1]}}},
		{"beat of two messages", Snapshot{Subject: BeatSubject, Body: big[:ChunkSize+1]}},
	} {
		if _, err := Seal("shop", testSigner(1), []Snapshot{tt.s}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", tt.name, err)
		}
	}
}

// Every leaf of every size of tree leads to the root by its path, and by no other index, size or path.
func TestPaths(t *testing.T) {
	for n := 1; n <= 33; n++ {
		leaves := make([]hash, n)
		for i := range leaves {
			leaves[i] = leafHash([]byte{byte(i)})
		}
		root, paths := tree(leaves)
		for i := range leaves {
			for index := range uint32(n + 1) {
				got, ok := rootOf(leaves[i], index, uint32(n), paths[i])
				if (ok && got == root) != (index == uint32(i)) {
					t.Fatalf("tree of %d, leaf %d as leaf %d: %v", n, i, index, ok && got == root)
				}
			}
			if _, ok := rootOf(leaves[i], uint32(i), uint32(n), append(paths[i], paths[i]...)); ok && n > 1 {
				t.Fatalf("tree of %d, leaf %d: a path too long is accepted", n, i)
			}
		}
	}
}

func TestCanaryGrowsWithoutMovingNodes(t *testing.T) {
	picked := 0
	for i := range 1000 {
		node := fmt.Sprint("node", i)
		small, large := &Canary{Share: 1000, Seed: 5}, &Canary{Share: 5000, Seed: 5}
		if small.Picks(node) && !large.Picks(node) {
			t.Fatalf("%s left the canary when it grew", node)
		}
		if small.Picks(node) {
			picked++
		}
		if (&Canary{Seed: 5}).Picks(node) || !(&Canary{Share: 10_000, Seed: 5}).Picks(node) {
			t.Fatalf("%s: nobody and everybody are picked wrongly", node)
		}
	}
	if picked < 60 || picked > 140 {
		t.Errorf("a tenth is %d of 1000 nodes", picked)
	}
}

func benchmarkOpen(b *testing.B, cached bool) {
	signer := testSigner(1)
	batch := make([]Snapshot, 64)
	for i := range batch {
		batch[i] = Snapshot{Subject: InSubject("default", fmt.Sprint("s", i)), Version: Version{0, 9}, Body: bytes.Repeat([]byte{1}, 4096)}
	}
	raw := mustSeal(b, signer, batch...)
	b.ReportAllocs()
	opener := testOpener(signer)
	for i := 0; b.Loop(); i++ {
		if !cached {
			clear(opener.roots)
		}
		r := raw[i%len(raw)]
		if _, err := opener.Open(r.Subject, r.Data); err != nil {
			b.Fatal(err)
		}
	}
}

// One 4 KB snapshot of a batch of 64: the first of its batch, and those after it.
func BenchmarkOpenFirstOfBatch(b *testing.B) { benchmarkOpen(b, false) }
func BenchmarkOpenRootKnown(b *testing.B)    { benchmarkOpen(b, true) }

func BenchmarkSeal64(b *testing.B) {
	signer := testSigner(1)
	batch := make([]Snapshot, 64)
	for i := range batch {
		batch[i] = Snapshot{Subject: InSubject("default", fmt.Sprint("s", i)), Version: Version{0, 9}, Body: bytes.Repeat([]byte{1}, 4096)}
	}
	b.ReportAllocs()
	for b.Loop() {
		mustSeal(b, signer, batch...)
	}
}

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
