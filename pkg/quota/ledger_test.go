package quota

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// world is a mesh in simulated time: nodes that spend, owners that come, wait and wake, a disk that is written by
// whoever has the term, and a network that delays, doubles and loses what it carries.
type world struct {
	t     *rapid.T
	at    time.Time // the true time
	disk  map[slotKey]*Reservation
	term  uint64 // whose writes the disk takes
	terms uint64 // of all ledgers, also of those that were lost
	owner []*simOwner
	nodes []*simNode
	wire  []any // *simAsk and *simAnswer
	rules map[string]Limit
	skew  bool // owners' clocks differ, so that only their own windows can be counted

	granted  map[uint64]string // by lease: limit and window, by the clock of who granted it
	windows  map[string]int64  // admitted
	full     map[string]int64  // the bucket of an observer
	admitted int
}

type simOwner struct {
	ledger *Ledger
	term   uint64
	offset time.Duration
}

type simNode struct {
	name   string
	offset time.Duration
	limits map[string]*simPurse
	serial int
}

// simPurse is what a node holds of one limit.
type simPurse struct {
	leases  []*Lease
	returns []*Return
	pending int // the ask whose answer is taken; 0: none
	sent    time.Time
}

type simAsk struct {
	node   *simNode
	serial int
	ask    *Ask
}

type simAnswer struct {
	to    *simAsk
	grant *Grant
}

func (w *world) now(offset time.Duration) time.Time { return w.at.Add(offset) }

func (w *world) takeOver() {
	w.term++
	w.terms++
	o := &simOwner{term: w.term}
	if w.skew {
		o.offset = time.Duration(rapid.Int64Range(-int64(ClockBound/2), int64(ClockBound/2)).Draw(w.t, "owner's clock"))
	}
	var stored []*Reservation
	for _, r := range w.disk {
		stored = append(stored, proto.Clone(r).(*Reservation))
	}
	w.write(o, Begin(stored, w.now(o.offset)))
	o.ledger = NewLedger(w.terms<<40, w.now(o.offset), stored)
	o.ledger.SetLimits(w.rules)
	w.owner = append(w.owner, o)
}

// restore loses the controllers with all that they had stored, and begins from a backup, which knows nothing of what was
// granted. Nodes keep their leases, and what is under way arrives.
func (w *world) restore() {
	w.owner, w.term = nil, 0
	w.disk = map[slotKey]*Reservation{{}: proto.Clone(Restored()).(*Reservation)}
	w.takeOver()
}

// write stores what an owner wants under its term, or refuses it.
func (w *world) write(o *simOwner, reservations []*Reservation) bool {
	if o.term != w.term {
		return false
	}
	for _, r := range reservations {
		w.disk[slotKey{r.GetLimit(), r.GetSlot()}] = proto.Clone(r).(*Reservation)
	}
	return true
}

func (w *world) pass(least, most time.Duration) {
	w.at = w.at.Add(time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(w.t, "time")))
}

func (w *world) node() *simNode { return rapid.SampledFrom(w.nodes).Draw(w.t, "node") }
func (w *world) limit() string {
	return rapid.SampledFrom([]string{"bucket", "hour", "minute", "second"}).Draw(w.t, "limit")
}

// ask sends an ask with all that there is to return.
func (w *world) ask(n *simNode, limit string) {
	p := n.limits[limit]
	n.serial++
	p.pending, p.sent = n.serial, w.now(n.offset)
	w.wire = append(w.wire, &simAsk{n, n.serial, &Ask{
		Account: &Account{Limit: limit}, Want: rapid.Uint64Range(1, 40).Draw(w.t, "want"), Returns: slices.Clone(p.returns),
	}})
	if rapid.Bool().Draw(w.t, "returned once") {
		p.returns = nil
	}
}

// answer has an owner serve asks in one round, with time passing between its steps.
func (w *world) answer(o *simOwner, asked []*simAsk) {
	now := w.now(o.offset)
	var names []string
	var asks []*Ask
	for _, a := range asked {
		names, asks = append(names, a.node.name), append(asks, proto.Clone(a.ask).(*Ask))
	}
	reservations, confirm := o.ledger.Raise(names, asks, now)
	if len(reservations) > 0 || confirm {
		w.pass(0, 20*time.Millisecond)
		began := w.now(o.offset)
		if rapid.IntRange(0, 9).Draw(w.t, "paused") == 0 {
			w.pass(0, 20*time.Second)
		}
		if !w.write(o, reservations) || rapid.IntRange(0, 9).Draw(w.t, "acknowledgement lost") == 0 {
			return
		}
		o.ledger.Stored(reservations, began)
	}
	for i, a := range asked {
		g := o.ledger.Grant(names[i], asks[i], now)
		limit := a.ask.GetAccount().GetLimit()
		if g.GetTokens() > 0 {
			w.granted[g.GetLease()] = fmt.Sprint(limit, o.ledger.clock/int64(w.rules[limit].Per))
		}
		w.wire = append(w.wire, &simAnswer{a, g})
	}
}

// receive has a node take an answer, if it is the one that it waits for.
func (w *world) receive(a *simAnswer) {
	p := a.to.node.limits[a.to.ask.GetAccount().GetLimit()]
	if p.pending != a.to.serial {
		return
	}
	p.pending = 0
	if a.grant.GetTokens() > 0 {
		p.leases = append(p.leases, newLease(a.grant, p.sent))
	}
}

func (w *world) close(p *simPurse, i int) {
	p.returns = append(p.returns, &Return{Lease: p.leases[i].id, Unused: uint64(p.leases[i].close())})
	p.leases = slices.Delete(p.leases, i, i+1)
}

// spend admits requests as long as there are tokens, up to a number.
func (w *world) spend(n *simNode, limit string, most int) {
	for _, l := range n.limits[limit].leases {
		for most > 0 {
			if _, ok := l.take(w.now(n.offset)); !ok {
				break
			}
			most--
			w.admit(limit, l)
		}
	}
}

// admit counts a request as an observer does who sees all nodes.
func (w *world) admit(limit string, l *Lease) {
	w.admitted++
	rule := w.rules[limit]
	if rule.Burst > 0 {
		now := w.at.UnixNano()
		w.full[limit] = max(w.full[limit], now) + cost(rule, 1)
		if over := w.full[limit] - now - cost(rule, rule.Burst); over > rule.Burst { // a nanosecond of rounding each
			w.t.Fatalf("%s: more than the burst of %d: %v too early", limit, rule.Burst, time.Duration(over))
		}
		return
	}
	for _, window := range []string{"granted in " + w.granted[l.id], fmt.Sprint(limit, " at ", w.at.UnixNano()/int64(rule.Per))} {
		if w.skew && window[0] != 'g' {
			continue
		}
		if w.windows[window]++; w.windows[window] > rule.Requests {
			w.t.Fatalf("%s: %d admitted, the limit is %d", window, w.windows[window], rule.Requests)
		}
	}
}

func (w *world) pick() (any, bool) {
	if len(w.wire) == 0 {
		return nil, false
	}
	i := rapid.IntRange(0, len(w.wire)-1).Draw(w.t, "message")
	message := w.wire[i]
	switch rapid.IntRange(0, 9).Draw(w.t, "fate") {
	case 0: // lost
		w.wire = slices.Delete(w.wire, i, i+1)
		return nil, false
	case 1, 2: // doubled
	default:
		w.wire = slices.Delete(w.wire, i, i+1)
	}
	return message, true
}

// TestNeverMoreThanTheLimit runs nodes and owners through crashes, pauses, partitions and a network that delays, doubles
// and loses, and counts what was admitted.
func TestNeverMoreThanTheLimit(t *testing.T) {
	// A hundred histories, rapid's default, find too little; whoever asks for another number gets it.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("3000"); err != nil {
			t.Fatal(err)
		}
	}
	admitted := 0
	rapid.Check(t, func(t *rapid.T) {
		w := &world{
			t: t, disk: map[slotKey]*Reservation{}, granted: map[uint64]string{}, windows: map[string]int64{}, full: map[string]int64{},
			at:   time.Unix(1_800_000_000+rapid.Int64Range(0, 3600).Draw(t, "start"), 0),
			skew: rapid.Bool().Draw(t, "clocks differ"),
		}
		requests := rapid.Int64Range(1, 400)
		w.rules = map[string]Limit{
			"second": {Requests: requests.Draw(t, "a second"), Per: time.Second},
			"minute": {Requests: requests.Draw(t, "a minute"), Per: time.Minute},
			"hour":   {Requests: requests.Draw(t, "an hour"), Per: time.Hour},
			"bucket": {Requests: requests.Draw(t, "rate"), Per: time.Second, Burst: requests.Draw(t, "burst")},
		}
		for i := range 3 {
			n := &simNode{name: fmt.Sprint("node", i), offset: time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "node's clock")), limits: map[string]*simPurse{}}
			for limit := range w.rules {
				n.limits[limit] = &simPurse{}
			}
			w.nodes = append(w.nodes, n)
		}
		w.takeOver()
		actions := map[string]func(*rapid.T){
			"time passes":       func(*rapid.T) { w.pass(0, 300*time.Millisecond) },
			"more time passes":  func(*rapid.T) { w.pass(0, 7*time.Second) },
			"a minute passes":   func(*rapid.T) { w.pass(20*time.Second, 90*time.Second) },
			"a node asks":       func(*rapid.T) { w.ask(w.node(), w.limit()) },
			"a node is killed":  func(*rapid.T) { w.node().limits[w.limit()] = &simPurse{} },
			"a message arrives": func(*rapid.T) { w.deliver() },
			"a lease is closed": func(*rapid.T) {
				if p := w.node().limits[w.limit()]; len(p.leases) > 0 {
					w.close(p, rapid.IntRange(0, len(p.leases)-1).Draw(t, "lease"))
				}
			},
			"requests come":                   func(*rapid.T) { w.spend(w.node(), w.limit(), rapid.IntRange(1, 60).Draw(t, "requests")) },
			"another owner begins":            func(*rapid.T) { w.takeOver() },
			"all goes well":                   func(*rapid.T) { w.smoothly(w.owner[len(w.owner)-1], w.limit()) }, // most of the time it does
			"all goes well for all":           func(*rapid.T) { w.everyone(w.owner[len(w.owner)-1]) },
			"who lost its term goes on":       func(*rapid.T) { w.smoothly(rapid.SampledFrom(w.owner).Draw(t, "owner"), w.limit()) },
			"the term is lost under overload": func(*rapid.T) { w.depose() },
			"a backup is restored":            func(*rapid.T) { w.restore() },
			"a backup is restored under overload": func(*rapid.T) {
				w.everyone(w.owner[len(w.owner)-1])
				w.pass(0, 2*time.Second)
				w.restore()
				for range 3 {
					w.pass(0, time.Second)
					w.everyone(w.owner[0])
				}
			},
		}
		t.Repeat(actions)
		admitted += w.admitted
	})
	if admitted == 0 {
		t.Error("nothing was ever admitted, so that nothing was shown")
	}
	t.Logf("%d admitted", admitted)
}

// smoothly has one node ask one owner, and spend what it gets.
func (w *world) smoothly(o *simOwner, limit string) {
	n := w.node()
	for range 3 {
		w.ask(n, limit)
		asked := w.wire[len(w.wire)-1].(*simAsk)
		w.wire = w.wire[:len(w.wire)-1]
		w.answer(o, []*simAsk{asked})
		w.pass(0, 5*time.Millisecond)
		if answer, ok := w.last(); ok {
			w.receive(answer)
		}
		w.spend(n, limit, rapid.SampledFrom([]int{1, 5, 400}).Draw(w.t, "requests"))
	}
}

func (w *world) everyone(o *simOwner) {
	for _, limit := range []string{"bucket", "hour", "minute", "second"} {
		w.smoothly(o, limit)
	}
}

// depose lets a new owner begin while the one before is asked on.
func (w *world) depose() {
	before := w.owner[len(w.owner)-1]
	limit := w.limit()
	w.smoothly(before, limit)
	w.pass(0, 2*time.Second)
	w.takeOver()
	next := w.owner[len(w.owner)-1]
	for range 4 {
		w.smoothly(before, limit)
		w.pass(0, time.Second)
		w.smoothly(next, limit)
	}
}

func (w *world) last() (*simAnswer, bool) {
	if len(w.wire) == 0 {
		return nil, false
	}
	answer, ok := w.wire[len(w.wire)-1].(*simAnswer)
	if ok {
		w.wire = w.wire[:len(w.wire)-1]
	}
	return answer, ok
}

// deliver gives a message to whom it is for: asks to any owner, also to one that has lost its term and does not know.
func (w *world) deliver() {
	message, ok := w.pick()
	if !ok {
		return
	}
	switch m := message.(type) {
	case *simAsk:
		asked := []*simAsk{m}
		if second, ok := w.pick(); ok {
			if a, ok := second.(*simAsk); ok {
				asked = append(asked, a)
			}
		}
		w.answer(rapid.SampledFrom(w.owner).Draw(w.t, "owner"), asked)
	case *simAnswer:
		w.receive(m)
	}
}

// grantOf asks once and stores what is to be stored.
func grantOf(l *Ledger, limit string, want uint64, now time.Time) *Grant {
	ask := &Ask{Account: &Account{Limit: limit}, Want: want}
	reservations, _ := l.Raise([]string{"node"}, []*Ask{ask}, now)
	l.Stored(reservations, now)
	return l.Grant("node", ask, now)
}

func TestAClockThatIsSetBackOpensNoWindowAgain(t *testing.T) {
	limits := map[string]Limit{"minute": {Requests: 10, Per: time.Minute}}
	now := time.Unix(1_800_000_000, 0)
	l := NewLedger(1, now, nil)
	l.SetLimits(limits)
	got := uint64(0)
	for range 20 {
		got += grantOf(l, "minute", 10, now).GetTokens()
	}
	if got != 10 {
		t.Fatalf("%d were granted of 10", got)
	}
	grantOf(l, "minute", 1, now.Add(time.Minute)) // the next window
	for _, back := range []time.Duration{30 * time.Second, time.Hour} {
		for range 20 {
			got += grantOf(l, "minute", 10, now.Add(time.Minute-back)).GetTokens()
		}
	}
	if got > 20 {
		t.Errorf("%d were granted of two windows of 10", got)
	}
}

func TestAFailureCostsLittle(t *testing.T) {
	const requests = 1000
	now := time.Unix(1_800_000_000, 0)
	disk := map[slotKey]*Reservation{}
	serve := func(l *Ledger, want uint64) uint64 {
		ask := &Ask{Account: &Account{Limit: "hour"}, Want: want}
		reservations, _ := l.Raise([]string{"node"}, []*Ask{ask}, now)
		for _, r := range reservations {
			disk[slotKey{r.GetLimit(), r.GetSlot()}] = r
		}
		l.Stored(reservations, now)
		return l.Grant("node", ask, now).GetTokens()
	}
	granted := uint64(0)
	const failures = 20
	for term := range uint64(failures) {
		var stored []*Reservation
		for _, r := range disk {
			stored = append(stored, proto.Clone(r).(*Reservation))
		}
		l := NewLedger(term, now, stored)
		l.SetLimits(map[string]Limit{"hour": {Requests: requests, Per: time.Hour}})
		granted += serve(l, 7)
	}
	l := NewLedger(failures, now, []*Reservation{disk[slotKey{"hour", accountKey{limit: "hour"}.slot()}]})
	l.SetLimits(map[string]Limit{"hour": {Requests: requests, Per: time.Hour}})
	for n := uint64(1); n > 0; granted += n {
		n = serve(l, 500)
	}
	if lost := requests - int64(granted); lost > (failures+1)*requests/reserveShare {
		t.Errorf("%d failures cost %d of %d, more than 0.5 %% each", failures, lost, requests)
	}
}

func TestAnUnknownLimitIsNotGranted(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := NewLedger(1, now, nil)
	if g := grantOf(l, "nobody's", 1, now); !g.GetUnknown() || g.GetTokens() > 0 {
		t.Errorf("granted %v of a limit that is not there", g)
	}
}

func TestWhatIsReturnedIsGrantedAgain(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := NewLedger(1, now, nil)
	l.SetLimits(map[string]Limit{"hour": {Requests: 8, Per: time.Hour}})
	g := grantOf(l, "hour", 4, now)
	for range 10 {
		grantOf(l, "hour", 4, now)
	}
	for range 2 { // the second time means nothing
		l.Raise([]string{"node"}, []*Ask{{Account: &Account{Limit: "hour"}, Returns: []*Return{{Lease: g.GetLease(), Unused: g.GetTokens()}}}}, now)
	}
	l.Raise([]string{"thief"}, []*Ask{{Account: &Account{Limit: "hour"}, Returns: []*Return{{Lease: g.GetLease() + 1, Unused: 1}}}}, now)
	again := uint64(0)
	for range 10 {
		again += grantOf(l, "hour", 8, now).GetTokens()
	}
	if again != g.GetTokens() {
		t.Errorf("%d were granted after %d came back", again, g.GetTokens())
	}
}

func TestALedgerHoldsNoMoreThanItMust(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := NewLedger(1, now, nil)
	l.SetLimits(map[string]Limit{"minute": {Requests: 8, Per: time.Minute}, "bucket": {Requests: 1, Per: time.Second, Burst: 2}})
	for i := range maxAccounts + 10 {
		if e, _ := l.entry(accountKey{"minute", "", fmt.Sprint(i)}, now.UnixNano()); e != nil {
			e.account.(*window).granted = 1
		}
	}
	if len(l.entries) != maxAccounts {
		t.Errorf("%d accounts, the most are %d", len(l.entries), maxAccounts)
	}
	now = now.Add(time.Minute)
	if g := grantOf(l, "bucket", 1, now); g.GetTokens() != 1 {
		t.Errorf("no room after the window: %v", g)
	}
	if l.Sweep(now.Add(time.Minute)); len(l.entries) != 0 {
		t.Errorf("%d accounts are left when all is over", len(l.entries))
	}
}
