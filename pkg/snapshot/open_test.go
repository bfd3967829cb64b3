package snapshot

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"
)

func TestOpenRefuses(t *testing.T) {
	signer, stranger := testSigner(1), testSigner(2)
	subject := InSubject("default", "orders")
	good := mustSeal(t, signer,
		Snapshot{Subject: subject, Version: Version{0, 3}, Body: []byte("allow orders")},
		Snapshot{Subject: InSubject("default", "payments"), Version: Version{0, 3}, Body: []byte("allow payments")})
	arrived := Live(ChunkSubject(subject, 0))
	// change returns the first message with something done to it.
	change := func(f func(*Message)) []byte {
		var m Message
		if err := proto.Unmarshal(good[0].Data, &m); err != nil {
			t.Fatal(err)
		}
		f(&m)
		return mustMarshal(t, &m)
	}
	elsewhere, err := Seal("other", signer, []Snapshot{{Subject: subject, Version: Version{0, 9}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		subject string
		data    []byte
		want    error
	}{
		{"as it was sealed", arrived, good[0].Data, nil},
		{"empty", arrived, nil, ErrMalformed},
		{"noise", arrived, []byte("\xff\xff\xff"), ErrMalformed},
		{"under another service's subject", Live(ChunkSubject(InSubject("default", "billing"), 0)), good[0].Data, ErrSubject},
		{"under another chunk's subject", Live(ChunkSubject(subject, 1)), good[0].Data, ErrSubject},
		{"without the chunk's token", Live(subject), good[0].Data, ErrSubject},
		{"of another cluster", arrived, elsewhere[0].Data, ErrCluster},
		{"by a key that is not listed", arrived, mustSeal(t, stranger, Snapshot{Subject: subject})[0].Data, ErrKey},
		{"by a stranger in another's name", arrived, func() []byte {
			var m Message
			_ = proto.Unmarshal(mustSeal(t, stranger, Snapshot{Subject: subject})[0].Data, &m)
			m.KeyId = signer.ID
			return mustMarshal(t, &m)
		}(), ErrSignature},
		{"changed envelope", arrived, change(func(m *Message) { m.Envelope = append(m.Envelope, 0x58, 1) }), ErrSignature},
		{"changed path", arrived, change(func(m *Message) { m.Path[0][5] ^= 1 }), ErrSignature},
		{"without its path", arrived, change(func(m *Message) { m.Path = nil }), ErrMalformed},
		{"as a batch of one", arrived, change(func(m *Message) { m.Path, m.Leaves = nil, 1 }), ErrSignature},
		{"another index", arrived, change(func(m *Message) { m.Index = 1 }), ErrSignature},
		{"an inner node shown as a leaf", arrived, change(func(m *Message) {
			left, right := leafHash(m.GetEnvelope()), hash(m.GetPath()[0])
			m.Envelope, m.Path, m.Leaves = append(left[:], right[:]...), nil, 1
		}), ErrSignature},
		{"cut signature", arrived, change(func(m *Message) { m.Signature = m.Signature[:63] }), ErrSignature},
		{"requires what is not known", arrived,
			mustSeal(t, signer, Snapshot{Subject: subject, Requires: []string{"known", "newer"}})[0].Data, ErrFeature},
		{"requires what is known", arrived,
			mustSeal(t, signer, Snapshot{Subject: subject, Requires: []string{"known"}})[0].Data, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opener := testOpener(signer)
			// A root that is remembered must not let the bad ones pass.
			if _, err := opener.Open(arrived, good[0].Data); err != nil {
				t.Fatal(err)
			}
			o, err := opener.Open(tt.subject, tt.data)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if (o.Envelope != nil) != (tt.want == nil || errors.Is(tt.want, ErrFeature)) {
				t.Errorf("envelope %v with error %v", o.Envelope, err)
			}
		})
	}
}

func TestRevokedKeyIsRefusedAlthoughItsRootIsRemembered(t *testing.T) {
	signer := testSigner(1)
	raw := mustSeal(t, signer, Snapshot{Subject: InSubject("default", "orders"), Version: Version{0, 1}})[0]
	opener := testOpener(signer)
	if _, err := opener.Open(raw.Subject, raw.Data); err != nil {
		t.Fatal(err)
	}
	opener.SetKeys(keysOf(testSigner(2)))
	if _, err := opener.Open(raw.Subject, raw.Data); !errors.Is(err, ErrKey) {
		t.Errorf("after its key left the roster: %v, want ErrKey", err)
	}
	opener.SetKeys(Keys{signer.ID: keysOf(testSigner(2))[testSigner(2).ID]}) // the same name for another key
	if _, err := opener.Open(raw.Subject, raw.Data); !errors.Is(err, ErrSignature) {
		t.Errorf("after its name went to another key: %v, want ErrSignature", err)
	}
}

func TestRememberedRootsAreBounded(t *testing.T) {
	signer := testSigner(1)
	opener := testOpener(signer)
	for i := range 3 * rememberedRoots {
		raw := mustSeal(t, signer, Snapshot{Subject: InSubject("default", "orders"), Version: Version{0, uint64(i + 1)}})[0]
		if _, err := opener.Open(raw.Subject, raw.Data); err != nil {
			t.Fatal(err)
		}
	}
	if len(opener.roots) > rememberedRoots {
		t.Errorf("%d roots remembered, at most %d", len(opener.roots), rememberedRoots)
	}
}

func TestAssemblerMixedVersions(t *testing.T) {
	signer := testSigner(1)
	opener := testOpener(signer)
	subject := InSubject("default", "orders")
	sealed := func(revision uint64, chunks int) []Opened {
		var out []Opened
		for _, raw := range mustSeal(t, signer, Snapshot{Subject: subject, Version: Version{0, revision}, Body: bytes.Repeat([]byte{byte(revision)}, chunks*ChunkSize)}) {
			o, err := opener.Open(raw.Subject, raw.Data)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, o)
		}
		return out
	}
	v1, v2 := sealed(1, 3), sealed(2, 2)
	a := NewAssembler(64 << 20)
	for i, tt := range []struct {
		o    Opened
		want uint64 // the revision that is complete; 0: none
	}{
		{v1[0], 0}, {v1[2], 0}, {v2[1], 0},
		{v1[1], 0}, // would complete revision 1, which was given up for 2
		{v2[1], 0}, {v2[0], 2}, {v1[0], 0},
	} {
		held, complete := a.Add(tt.o)
		if complete != (tt.want != 0) || held.Version.Revision != tt.want {
			t.Fatalf("step %d: complete %v at %v, want %d", i, complete, held.Version, tt.want)
		}
	}
	if version, n := a.Begun(subject); version != v1[0].Version() || n != 1 {
		t.Errorf("begun: %d chunks of %v, want 1 of %v", n, version, v1[0].Version())
	}
}

func TestAssemblerMemoryIsBounded(t *testing.T) {
	signer := testSigner(1)
	opener := testOpener(signer)
	a := NewAssembler(10 * ChunkSize)
	for i := range 40 {
		raw := mustSeal(t, signer, Snapshot{Subject: EndpointsSubject("default", "orders", uint32(i)), Version: Version{0, 1}, Body: make([]byte, 2*ChunkSize)})[0]
		o, err := opener.Open(raw.Subject, raw.Data)
		if err != nil {
			t.Fatal(err)
		}
		if _, complete := a.Add(o); complete {
			t.Fatal("one of two chunks is complete")
		}
		if a.size > a.limit || len(a.order) != len(a.parts) {
			t.Fatalf("%d bytes kept, at most %d; %d subjects in order, %d kept", a.size, a.limit, len(a.order), len(a.parts))
		}
	}
	for _, subject := range append([]string{}, a.order...) {
		a.Forget(subject)
	}
	if a.size != 0 || len(a.parts) != 0 {
		t.Errorf("%d bytes are left in %d subjects", a.size, len(a.parts))
	}
}

func TestSubjectsAreReadBack(t *testing.T) {
	for _, subject := range []string{
		OutSubject("default", "orders", ""), OutSubject("default", "a.b", "_"), InSubject("ns", "svc"),
		EndpointsSubject("ns", "svc", 17), NodeSubject("web1.example.com"), BeatSubject, RosterSubject,
	} {
		names, err := ParseSubject(subject)
		if err != nil {
			t.Errorf("%s: %v", subject, err)
		}
		again := map[Kind]string{
			KindOut: OutSubject(names.Namespace, names.Service, names.Callers), KindIn: InSubject(names.Namespace, names.Service),
			KindEndpoints: EndpointsSubject(names.Namespace, names.Service, names.Shard), KindNode: NodeSubject(names.Node),
			KindBeat: BeatSubject, KindRoster: RosterSubject,
		}[names.Kind]
		if again != subject {
			t.Errorf("%s is read as %s", subject, again)
		}
		stored := ChunkSubject(subject, 5)
		if back, n, ok := SplitChunk(StoredSubject(Live(stored))); !ok || back != subject || n != 5 && chunked(subject) {
			t.Errorf("%s splits into %s, %d, %v", stored, back, n, ok)
		}
	}
	for _, subject := range []string{
		"", "sennit.config.", "sennit.config.in.a", "sennit.config.in.a.b.c", "sennit.config.endpoints.a.b.x",
		"sennit.config.endpoints.a.b.01", "sennit.config.endpoints.a.b.-1", "sennit.config.in.a._", "sennit.live.in.a.b", "sennit.config.beat.0",
	} {
		if names, err := ParseSubject(subject); !errors.Is(err, ErrMalformed) && err == nil {
			t.Errorf("%q is read as %+v", subject, names)
		}
	}
	for _, stored := range []string{"", "sennit.config.in.a.b", "sennit.config.in.a.b.01", "sennit.config.in.a.b.64", "x.0"} {
		if subject, n, ok := SplitChunk(stored); ok {
			t.Errorf("%q splits into %s, %d", stored, subject, n)
		}
	}
}

func TestDecodeGivesTheKindOfTheSubject(t *testing.T) {
	body := mustMarshal(t, &Endpoints{Endpoints: []*Endpoint{{Node: "web1"}}})
	m, err := Decode(EndpointsSubject("default", "orders", 0), body)
	if e, ok := m.(*Endpoints); err != nil || !ok || e.GetEndpoints()[0].GetNode() != "web1" {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := Decode(InSubject("default", "orders"), []byte("\xff")); !errors.Is(err, ErrMalformed) {
		t.Errorf("noise: %v, want ErrMalformed", err)
	}
}

// Nothing that arrives makes opening and assembling panic, and what opens was signed: its envelope is one of
// those that were sealed.
func FuzzOpen(f *testing.F) {
	signer := testSigner(1)
	subject := InSubject("default", "orders")
	sealed := mustSeal(f, signer, Snapshot{Subject: subject, Version: Version{0, 1}, Body: []byte("body")},
		Snapshot{Subject: NodeSubject("web1"), Version: Version{0, 2}, Gone: true})
	signed := map[string]bool{}
	for _, raw := range sealed {
		var m Message
		if err := proto.Unmarshal(raw.Data, &m); err != nil {
			f.Fatal(err)
		}
		signed[string(m.GetEnvelope())] = true
		f.Add(raw.Subject, raw.Data)
	}
	f.Add(Live(ChunkSubject(subject, 0)), mustMarshal(f, &Message{Leaves: 1, KeyId: signer.ID, Signature: make([]byte, 64)}))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		o, err := testOpener(signer).Open(subject, data)
		if err != nil {
			return
		}
		var m Message
		if err := proto.Unmarshal(data, &m); err != nil || !signed[string(m.GetEnvelope())] {
			t.Fatalf("opened what nobody signed: %v", o.Envelope)
		}
		NewAssembler(1 << 20).Add(o)
	})
}
