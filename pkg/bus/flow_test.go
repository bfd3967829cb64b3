package bus_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const flowTimeout = 60 * time.Second // generous: tests run beside many others

// authority is a root, its roster and one signing key.
type authority struct {
	root   [32]byte
	roster []byte
	signer snapshot.Signer
	// rosterOf signs the roster of another epoch, and delegated one that is of a delegation too.
	rosterOf  func(epoch uint64) []byte
	delegated func(delegation, epoch, serial uint64) []byte
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{root: snapshot.RootHash(certificate), signer: snapshot.NewSigner(signing)}
	a.rosterOf = func(epoch uint64) []byte { return a.delegated(0, epoch, 1) }
	a.delegated = func(delegation, epoch, serial uint64) []byte {
		roster, err := snapshot.SealRoster(key, certificate, &snapshot.Roster{Cluster: "shop", Delegation: delegation, Epoch: epoch, Serial: serial, Keys: []*snapshot.SigningKey{a.signer.Public()}})
		if err != nil {
			t.Fatal(err)
		}
		return roster
	}
	a.roster = a.rosterOf(0)
	return a
}

// publish runs a publisher that answers nodes. stop ends it as a kill would: nothing is said first.
func (a authority) publish(t testing.TB, b *bustest.Bus, conn *bus.Conn) (p *bus.Publisher, stop func()) {
	t.Helper()
	p, err := bus.NewPublisher(bus.PublisherConfig{
		Conn: conn, Cluster: "shop", Controller: "controller", Root: a.root, Roster: a.roster, Signer: func() snapshot.Signer { return a.signer },
		MayRun: func(node, _, service string) bool { return node == "web1" || service == "all" }, Log: b.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	requests := bus.NewRequests(bus.RequestsConfig{Conn: conn, Limits: bus.DefaultLimits, CutOff: b.Server.CutOff, Log: b.Log})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func() error{
		func() error { return p.Run(ctx) },
		func() error { return requests.Serve(ctx, bus.VerbCatchup, p.Catchup) },
		func() error { return requests.Serve(ctx, bus.VerbApplied, p.Report) },
	} {
		running.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				t.Errorf("ended with: %v", err)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return p, stop
}

// A node is a follower that applies at once, and keeps in memory.
type node struct {
	*bus.Follower
	mu      sync.Mutex
	moved   chan struct{}
	applied map[string]bus.Update
	kept    map[string][]snapshot.Raw
	stop    func()
}

func (a authority) node(t testing.TB, b *bustest.Bus, conn *bus.Conn, name string, kept []snapshot.Raw, subjects ...string) *node {
	t.Helper()
	n := &node{moved: make(chan struct{}), applied: map[string]bus.Update{}, kept: map[string][]snapshot.Raw{}}
	var err error
	n.Follower, err = bus.NewFollower(bus.FollowerConfig{
		Conn: conn, Cluster: "shop", Node: name, Root: a.root, Kept: kept, Log: b.Log,
		Deliver: func(u bus.Update) {
			n.mu.Lock()
			if before := n.applied[u.Subject]; u.Subject != snapshot.RosterSubject && u.Version.Compare(before.Version) < 0 {
				t.Errorf("%s: %v of %s after %v", name, u.Version, u.Subject, before.Version)
			}
			n.applied[u.Subject] = u
			close(n.moved)
			n.moved = make(chan struct{})
			n.mu.Unlock()
			n.Applied(u.Subject, u.Version, "")
		},
		Keep: func(subject string, messages []snapshot.Raw) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.kept[subject] = messages
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("%s ended with: %v", name, err)
		}
	})
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(n.stop)
	if len(subjects) > 0 {
		n.Follow(subjects)
	}
	return n
}

// until waits for what the node has applied.
func (n *node) until(t testing.TB, what string, have func(map[string]bus.Update) bool) {
	t.Helper()
	deadline := time.After(flowTimeout)
	for {
		n.mu.Lock()
		ok, moved := have(n.applied), n.moved
		n.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("the node does not have %s; it follows: %+v", what, n.State())
		}
	}
}

func (n *node) untilBody(t testing.TB, subject string, body []byte) {
	t.Helper()
	n.until(t, fmt.Sprintf("%s of %d bytes", subject, len(body)), func(applied map[string]bus.Update) bool {
		return bytes.Equal(applied[subject].Body, body)
	})
}

func set(resources uint64, bodies map[string][]byte) bus.Set {
	s := bus.Set{Bodies: map[string]bus.Body{}, BuiltFrom: snapshot.Inputs{Resources: resources}}
	for subject, body := range bodies {
		s.Bodies[subject] = bus.Body{Data: body}
	}
	return s
}

func waitApplied(t testing.TB, p *bus.Publisher, resources uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), flowTimeout)
	defer cancel()
	if pending, published, err := p.Applied().Wait(ctx, resources); err != nil {
		t.Fatalf("not applied: published %v, pending %+v: %v", published, pending, err)
	}
}

func TestChangeIsAppliedAndReported(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	out, in := snapshot.OutSubject("default", "orders", ""), snapshot.InSubject("default", "orders")
	p, _ := a.publish(t, b, b.Controller)
	web1 := a.node(t, b, b.Node(t, "web1", "default/orders"), "web1", nil, out, in)
	large := bytes.Repeat([]byte("large "), 200<<10) // five chunks
	p.Publish(set(1, map[string][]byte{out: large, in: []byte("in 1")}))
	web1.untilBody(t, out, large)
	web1.untilBody(t, in, []byte("in 1"))
	waitApplied(t, p, 1)

	// One that follows and has not applied is named.
	p.Publish(set(2, map[string][]byte{out: []byte("out 2"), in: []byte("in 1")}))
	waitApplied(t, p, 2)
	web1.untilBody(t, out, []byte("out 2"))
	web1.stop()
	p.Publish(set(3, map[string][]byte{out: []byte("out 3"), in: []byte("in 1")}))
	now, cancel := context.WithCancel(t.Context())
	cancel()
	var pending []bus.Pending
	var err error
	awaitThat(t, "the third is published", func() (published bool) {
		pending, published, err = p.Applied().Wait(now, 3)
		return published
	})
	if err == nil || len(pending) != 1 || pending[0].Node != "web1" || pending[0].Subject != out {
		t.Errorf("after the node stopped: pending %+v, %v; want web1's %s", pending, err, out)
	}

	// It starts again from what it kept, without what was gone meanwhile.
	var kept []snapshot.Raw
	for _, messages := range web1.kept {
		kept = append(kept, messages...)
	}
	p.Publish(set(4, map[string][]byte{out: []byte("out 3")}))
	web1 = a.node(t, b, b.Node(t, "web1", "default/orders"), "web1", kept, out, in)
	web1.until(t, "the deletion", func(applied map[string]bus.Update) bool { return applied[in].Gone && !applied[in].Absent })
	web1.untilBody(t, out, []byte("out 3"))
	waitApplied(t, p, 4)

	// A node that may not run the service is told nothing of what its nodes need.
	web2 := a.node(t, b, b.Node(t, "web2"), "web2", nil, out, in)
	web2.untilBody(t, out, []byte("out 3"))
	web2.until(t, "an absent subject", func(applied map[string]bus.Update) bool { return applied[in].Absent })
}

// The change that the leader stored before it was killed is listed in the first beat of the one after it.
func TestLeaderIsKilledBetweenStoringAndAnnouncing(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	subject := snapshot.OutSubject("default", "orders", "")
	opener := snapshot.NewOpener("shop", nil)
	opener.SetKeys(snapshot.Keys{a.signer.ID: a.signer.Public().GetEd25519()})
	type stored struct {
		subject string
		version snapshot.Version
		beat    *snapshot.Beat
	}
	read := make(chan stored, 1000)
	bustest.Run(t, func(ctx context.Context) error {
		return b.Controller.Records(bus.StreamConfig).Follow(ctx, 1, func(e bus.Entry) error {
			o, err := opener.Open(e.Subject, e.Data)
			if err != nil {
				return nil // the term and the roster
			}
			s := stored{subject: o.GetSubject(), version: o.Version()}
			if s.subject == snapshot.BeatSubject {
				s.beat = new(snapshot.Beat)
				if err := proto.Unmarshal(o.GetBody(), s.beat); err != nil {
					return err
				}
			}
			read <- s
			return nil
		})
	})
	next := func() stored {
		t.Helper()
		select {
		case s := <-read:
			return s
		case <-time.After(flowTimeout):
			t.Fatal("nothing is stored")
			return stored{}
		}
	}
	for try := range 20 {
		p, kill := a.publish(t, b, b.Controller)
		for next().beat == nil {
		}
		p.Publish(set(1, map[string][]byte{subject: fmt.Append(nil, "body ", try)}))
		change := next()
		kill()
		if change.subject != subject {
			continue // a beat came between
		}
		_, kill = a.publish(t, b, b.Controller)
		s := next()
		kill()
		if s.beat == nil {
			t.Fatalf("the new leader stored %s first", s.subject)
		}
		for _, listed := range s.beat.GetStored() {
			if listed.GetSubject() == subject && listed.Version() == change.version {
				return
			}
		}
		t.Fatalf("the first beat after it does not list %v of %s: %v", change.version, subject, s.beat)
	}
	t.Fatal("the leader was never killed between storing and announcing")
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	accounts, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	dir, log := t.TempDir(), bustest.Log(t)
	serverTLS, clientTLS := bustest.TLS(t)
	subject := snapshot.OutSubject("default", "orders", "")
	listen := netip.MustParseAddrPort("127.0.0.1:0")
	start := func() (*bustest.Bus, func()) {
		t.Helper()
		server, err := bus.NewServer(bus.ServerConfig{Name: "controller", Listen: listen, StateDir: dir, TLS: serverTLS, Accounts: accounts, Log: log, MaxStore: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() {
			if err := server.Run(ctx); err != nil {
				t.Errorf("the server ended with: %v", err)
			}
		})
		b := &bustest.Bus{Accounts: accounts, Server: server, Roots: clientTLS, Log: log}
		stop := sync.OnceFunc(func() {
			if b.Controller != nil {
				b.Controller.Close()
			}
			cancel()
			running.Wait()
		})
		t.Cleanup(stop)
		wait, done := context.WithTimeout(t.Context(), flowTimeout)
		defer done()
		if b.Controller, err = server.Controller(wait, log); err != nil {
			t.Fatal(err)
		}
		if err := b.Controller.EnsureStreams(wait, 1); err != nil {
			t.Fatal(err)
		}
		if listen, err = server.Addr(wait); err != nil {
			t.Fatal(err)
		}
		b.Addr = listen.String()
		return b, stop
	}
	b, stop := start()
	p, kill := a.publish(t, b, b.Controller)
	web1 := a.node(t, b, b.Node(t, "web1"), "web1", nil, subject)
	p.Publish(set(1, map[string][]byte{subject: []byte("before")}))
	web1.untilBody(t, subject, []byte("before"))
	kill()
	stop()

	b, _ = start()
	p, _ = a.publish(t, b, b.Controller)
	p.Publish(set(2, map[string][]byte{subject: []byte("after")}))
	web1.untilBody(t, subject, []byte("after"))
	waitApplied(t, p, 2)
}

// A storm over 200 subjects costs a node ten verifications a second, and one for each beat, whatever it
// follows.
func TestStormCostsFewVerifications(t *testing.T) {
	t.Parallel()
	b, a := bustest.Start(t), newAuthority(t)
	p, _ := a.publish(t, b, b.Controller)
	bodies := map[string][]byte{}
	var subjects []string
	for i := range 200 {
		subjects = append(subjects, snapshot.OutSubject("default", fmt.Sprint("s", i), ""))
		bodies[subjects[i]] = []byte("start")
	}
	web1 := a.node(t, b, b.Node(t, "web1"), "web1", nil, subjects...)
	p.Publish(set(1, bodies))
	waitApplied(t, p, 1)
	web1.until(t, "all", func(applied map[string]bus.Update) bool { return len(applied) == 201 }) // the roster as well

	before, began := web1.State().Verifications, time.Now()
	rounds := 0
	for ; time.Since(began) < 3*time.Second; rounds++ {
		next := map[string][]byte{}
		for i, subject := range subjects {
			next[subject] = bodies[subject]
			if i%20 == rounds%20 {
				next[subject] = fmt.Append(nil, "round ", rounds)
			}
		}
		bodies = next
		p.Publish(set(uint64(rounds+2), bodies))
		select {
		case <-time.After(2 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	waitApplied(t, p, uint64(rounds+1))
	took := time.Since(began)
	verifications := web1.State().Verifications - before
	most := uint64(11*took.Seconds()) + 20 // ten batches and a beat each second; what was under way; the burst
	t.Logf("%d rounds of changes in %v cost %d verifications", rounds, took, verifications)
	if verifications > most {
		t.Errorf("%d rounds of changes in %v cost %d verifications, want at most %d", rounds, took, verifications, most)
	}
	if rounds < 100 {
		t.Logf("the machine is too slow for a storm: %d rounds", rounds)
	}
}
