package bus

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A sim is a whole configuration flow in simulated time, on one goroutine: the stream, controllers that take
// turns at leading, servers that republish, and nodes. All chance comes from one seed.
type sim struct {
	fail   func(format string, args ...any)
	random *rand.Rand
	now    time.Time
	events eventQueue
	order  int
	log    []string

	entries  map[string]simEntry // the stream: the last of each subject
	sequence uint64
	backup   map[string]simEntry

	epoch, serial uint64
	roster        []byte
	signers       []snapshot.Signer // in the roster; the last one signs
	nextKey       byte

	controllers []*simController
	servers     [2]simServer
	nodes       []*simNode
	wanted      map[string]Body
	content     uint64

	loss, duplicate, reorder float64 // of messages between servers and nodes
}

type simEntry struct {
	sequence uint64
	data     []byte
}

type simServer struct {
	stalledUntil time.Time     // what arrives until then is lost
	delay        time.Duration // of everything
}

// simController is one process of a controller; when it dies another takes its place.
type simController struct {
	sim      *sim
	mirror   *mirror
	leader   *leader
	signer   snapshot.Signer
	leads    bool
	dead     bool
	paused   time.Time
	lastBeat time.Time
	fault    writeFault // of its next write
	lagging  []func()   // what its mirror has not read yet
	lag      time.Time
}

type writeFault int

const (
	noFault     writeFault = iota
	diesStored             // stores, and dies before it knows
	diesBetween            // stores configuration, and dies before the beat that lists it
	unknownStored
	unknownLost
)

type simNode struct {
	sim      *sim
	name     string
	server   int
	core     *follow
	up       bool
	life     int
	interest []string
	disk     map[string][]snapshot.Raw
	applied  map[string]Update
	lacks    []Update // what requires features that it does not know
	subs     map[string]bool
	wake     time.Time
}

type event struct {
	at    time.Time
	order int
	do    func()
}
type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func (s *sim) after(d time.Duration, do func()) {
	s.order++
	heap.Push(&s.events, event{s.now.Add(d), s.order, do})
}

func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for len(s.events) > 0 && !s.events[0].at.After(end) {
		e := heap.Pop(&s.events).(event)
		s.now = e.at
		e.do()
	}
	s.now = end
}

func (s *sim) say(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%8.3fs ", s.now.Sub(simStart).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.random.Int64N(int64(high-low)+1))
}

var simStart = time.Unix(1_000_000_000, 0)

var simRoot = sync.OnceValue(func() (root struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}) {
	var err error
	if root.key, err = ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader); err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, root.key.Public(), root.key)
	if err != nil {
		panic(err)
	}
	if root.certificate, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return root
})

const simCluster = "shop"

func simSubject(k int) string { return snapshot.InSubject("default", fmt.Sprint("s", k)) }

const simSubjects = 6

func newSim(seed uint64, fail func(string, ...any)) *sim {
	s := &sim{
		fail: fail, random: rand.New(rand.NewPCG(seed, 1)), now: simStart,
		entries: map[string]simEntry{}, wanted: map[string]Body{},
	}
	s.addKey()
	s.newRoster()
	for range 2 {
		s.addController()
	}
	s.lead(s.controllers[0])
	for k := range simSubjects {
		s.change(k)
	}
	for i := range 3 {
		n := &simNode{sim: s, name: fmt.Sprint("node", i), server: i % 2, disk: map[string][]snapshot.Raw{}, applied: map[string]Update{}}
		for k := range simSubjects {
			if (k+i)%3 != 0 {
				n.interest = append(n.interest, simSubject(k))
			}
		}
		s.nodes = append(s.nodes, n)
		n.start()
	}
	s.tick()
	return s
}

func (s *sim) addKey() snapshot.Signer {
	s.nextKey++
	signer := snapshot.NewSigner(newTestKey(s.nextKey))
	s.signers = append(s.signers, signer)
	return signer
}

// newRoster is the operator's step: what the root signs goes to every controller.
func (s *sim) newRoster() {
	s.serial++
	s.roster = s.sealRoster()
	for _, c := range s.controllers {
		if err := c.mirror.believe(s.roster); err != nil {
			s.fail("roster: %v", err)
		}
	}
}

func (s *sim) sealRoster() []byte {
	roster := &snapshot.Roster{Cluster: simCluster, Epoch: s.epoch, Serial: s.serial}
	for _, signer := range s.signers {
		roster.Keys = append(roster.Keys, signer.Public())
	}
	raw, err := snapshot.SealRoster(simRoot().key, simRoot().certificate, roster)
	if err != nil {
		s.fail("roster: %v", err)
	}
	return raw
}

// addController starts a controller, which reads the stream.
func (s *sim) addController() *simController {
	c := &simController{sim: s, mirror: newMirror(simCluster, snapshot.RootHash(simRoot().certificate)), signer: s.signers[len(s.signers)-1]}
	if err := c.mirror.believe(s.roster); err != nil {
		s.fail("roster: %v", err)
	}
	s.read(c.mirror)
	c.leader = &leader{
		cluster: simCluster, controller: fmt.Sprint("controller", len(s.controllers)), instance: binary.BigEndian.AppendUint64(nil, s.random.Uint64()),
		epoch: s.epoch, signer: c.signer, stream: c, mirror: c.mirror, sent: map[string]time.Time{},
	}
	s.controllers = append(s.controllers, c)
	return c
}

// read gives a mirror the whole stream.
func (s *sim) read(m *mirror) {
	for _, subject := range slices.SortedFunc(maps.Keys(s.entries), func(a, b string) int {
		return cmp.Compare(s.entries[a].sequence, s.entries[b].sequence)
	}) {
		m.apply(s.entries[subject].sequence, subject, s.entries[subject].data)
	}
}

// lead makes a controller believe that it is its turn. Others are not told.
func (s *sim) lead(c *simController) {
	s.say("%s leads", c.leader.controller)
	c.leads = true
	c.leader.want(s.set())
}

func (s *sim) set() Set {
	return Set{Bodies: maps.Clone(s.wanted), BuiltFrom: snapshot.Inputs{Resources: s.content}}
}

func (s *sim) die(c *simController) {
	if c.dead {
		return
	}
	s.say("%s dies", c.leader.controller)
	c.dead, c.leads = true, false
	s.controllers = slices.DeleteFunc(s.controllers, func(other *simController) bool { return other == c })
	s.addController()
	s.after(s.between(100*time.Millisecond, 3*time.Second), s.elect)
}

// elect gives somebody the turn where nobody alive has it.
func (s *sim) elect() {
	for _, c := range s.controllers {
		if c.leads && c.paused.Before(s.now) {
			return
		}
	}
	s.lead(s.controllers[s.random.IntN(len(s.controllers))])
}

func (s *sim) tick() {
	for _, c := range slices.Clone(s.controllers) {
		if !c.leads || c.dead || s.now.Before(c.paused) {
			continue
		}
		beat, err := c.leader.step(context.Background(), s.now, s.now.Sub(c.lastBeat) >= beatEvery)
		if beat && err == nil {
			c.lastBeat = s.now
		}
		if errors.Is(err, ErrDeposed) {
			s.say("%s is deposed", c.leader.controller)
			c.leads = false
		} else if err != nil {
			s.say("%s: %v", c.leader.controller, err)
		}
	}
	s.after(50*time.Millisecond, s.tick)
}

func (s *sim) change(k int) {
	s.content++
	size := 40
	if s.random.IntN(40) == 0 {
		size = snapshot.ChunkSize + 1
	}
	body := make([]byte, size)
	binary.BigEndian.PutUint64(body, s.content)
	s.wanted[simSubject(k)] = Body{Data: body}
	s.publish()
}

func (s *sim) publish() {
	for _, c := range s.controllers {
		if c.leads {
			c.leader.want(s.set())
		}
	}
}

// simController is the configStream of its leader.

func (c *simController) term(context.Context) (*TermRecord, uint64, error) {
	entry, ok := c.sim.entries[termSubject]
	if !ok {
		return nil, 0, nil
	}
	record := new(TermRecord)
	return record, entry.sequence, proto.Unmarshal(entry.data, record)
}

var errSim = errors.New("simulated: outcome unknown")

func (c *simController) write(_ context.Context, fence uint64, messages []snapshot.Raw) (uint64, error) {
	s := c.sim
	if c.dead {
		return 0, errSim
	}
	if s.entries[termSubject].sequence != fence {
		return 0, errRefused
	}
	fault := c.fault
	config := messages[0].Subject != snapshot.BeatSubject && messages[0].Subject != termSubject
	if fault == diesBetween && !config {
		fault = noFault
	} else {
		c.fault = noFault
	}
	if fault == unknownLost {
		return 0, errSim
	}
	for _, raw := range messages {
		s.sequence++
		s.entries[raw.Subject] = simEntry{s.sequence, raw.Data}
		sequence := s.sequence
		for _, other := range s.controllers {
			apply := func() { other.mirror.apply(sequence, raw.Subject, raw.Data) }
			if other != c && s.now.Before(other.lag) {
				other.lagging = append(other.lagging, apply)
			} else {
				other.catchUp()
				apply()
			}
		}
		s.republish(raw)
	}
	switch fault {
	case diesStored, diesBetween:
		s.die(c)
		return 0, errSim
	case unknownStored:
		return 0, errSim
	}
	return s.sequence, nil
}

func (c *simController) catchUp() {
	for _, apply := range c.lagging {
		apply()
	}
	c.lagging = nil
}

func (s *sim) republish(raw snapshot.Raw) {
	for i := range s.servers {
		if s.now.Before(s.servers[i].stalledUntil) {
			continue
		}
		for _, n := range s.nodes {
			if name, _, ok := snapshot.SplitChunk(raw.Subject); !ok || n.server != i || !n.up || !n.subs[name] {
				continue
			}
			life := n.life
			s.deliver(i, func() {
				if n.up && n.life == life {
					n.core.message(s.now, snapshot.Live(raw.Subject), raw.Data)
					n.act()
				}
			})
		}
	}
}

// deliver brings a message over the link between a server and a node, or not.
func (s *sim) deliver(server int, do func()) {
	times := 1
	if s.random.Float64() < s.loss {
		times = 0
	} else if s.random.Float64() < s.duplicate {
		times = 2
	}
	for range times {
		delay := 2*time.Millisecond + s.servers[server].delay
		if s.random.Float64() < s.reorder {
			delay += s.between(0, 3*time.Second)
		}
		s.after(delay, do)
	}
}

// start runs a node with what is on its disk.
func (n *simNode) start() {
	s := n.sim
	n.up, n.life, n.subs = true, n.life+1, map[string]bool{}
	var messages []snapshot.Raw
	for _, subject := range slices.Sorted(maps.Keys(n.disk)) {
		messages = append(messages, n.disk[subject]...)
	}
	s.random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	before := n.applied
	n.applied = map[string]Update{}
	n.core = n.follow(messages)
	n.act()
	for subject, update := range before {
		if got, ok := n.applied[subject]; !update.Absent && (!ok || got.Version != update.Version || !bytes.Equal(got.Body, update.Body)) {
			s.fail("%s: %s was %v before the restart, and is %v after it", n.name, subject, update.Version, got.Version)
		}
	}
	n.core.interest(s.now, n.interest)
	n.act()
}

func (n *simNode) follow(messages []snapshot.Raw) *follow {
	s := n.sim
	return newFollow(simCluster, n.name, snapshot.RootHash(simRoot().certificate), nil, s.random,
		func() []byte {
			return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.random.Uint64()), s.random.Uint64())
		},
		func(what string, err error) { s.say("%s: %s: %v", n.name, what, err) }, s.now, messages)
}

// act does what the node's core wants.
func (n *simNode) act() {
	s := n.sim
	for actions := n.core.take(); len(actions) > 0; actions = n.core.take() {
		for _, a := range actions {
			n.do(a)
		}
	}
	next := n.core.next()
	if next.Before(s.now) {
		next = s.now
	}
	if n.wake.After(s.now) && !next.Before(n.wake) {
		return
	}
	n.wake = next
	life := n.life
	s.after(next.Sub(s.now)+time.Millisecond, func() {
		if n.up && n.life == life {
			n.core.tick(s.now)
			n.act()
		}
	})
}

func (n *simNode) do(a action) {
	s, life := n.sim, n.life
	alive := func(do func()) func() {
		return func() {
			if n.up && n.life == life {
				do()
				n.act()
			}
		}
	}
	switch {
	case a.subscribe != "":
		n.subs[a.subscribe] = true
	case a.unsubscribe != "":
		delete(n.subs, a.unsubscribe)
		delete(n.applied, a.unsubscribe)
		delete(n.disk, a.unsubscribe)
	case a.move:
		s.say("%s moves", n.name)
		n.server = (n.server + 1) % len(s.servers)
		s.after(s.between(10*time.Millisecond, time.Second), alive(func() { n.core.reconnected(s.now) }))
	case a.keep != nil:
		n.disk[a.keep.subject] = a.keep.messages
	case a.update != nil:
		n.apply(*a.update)
	case a.report != nil:
		var err error
		if s.now.Before(s.servers[n.server].stalledUntil) {
			err = errSim
		}
		n.core.reported(s.now, err)
	case a.catchup != nil:
		n.request(a, alive)
	}
}

// apply is what the property is about: never an older version than before.
func (n *simNode) apply(u Update) {
	if u.Subject == snapshot.RosterSubject {
		return
	}
	if len(u.Refused) > 0 {
		n.lacks = append(n.lacks, u)
		return
	}
	if before, ok := n.applied[u.Subject]; ok && u.Version.Compare(before.Version) <= 0 && !before.Version.IsZero() {
		n.sim.fail("%s applies %v of %s over %v", n.name, u.Version, u.Subject, before.Version)
	}
	n.applied[u.Subject] = u
	n.core.applied(n.sim.now, u.Subject, u.Version, "")
}

func (n *simNode) request(a action, alive func(func()) func()) {
	s, server := n.sim, n.server
	if s.now.Before(s.servers[server].stalledUntil) {
		return
	}
	s.deliver(server, func() {
		c := s.controllers[s.random.IntN(len(s.controllers))]
		if s.now.Before(c.paused) {
			return
		}
		if !s.now.Before(c.lag) {
			c.catchUp()
		}
		request := new(CatchupRequest)
		if err := proto.Unmarshal(a.catchup, request); err != nil {
			s.fail("request: %v", err)
		}
		reply, err := c.mirror.answer(c.signer, n.name, request, func(string) bool { return true })
		if err != nil {
			s.fail("answer: %v", err)
		}
		if s.now.Before(s.servers[server].stalledUntil) {
			return
		}
		s.deliver(server, alive(func() { n.core.answer(s.now, a.nonce, reply, nil) }))
	})
}

// newTestKey returns a key that depends on n alone.
func newTestKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}
