package registry

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// controller is the other side of Bus: it takes what it is told, and can be away.
type controller struct {
	mu     sync.Mutex
	away   bool
	refuse string // the instance that it does not take
	held   map[Key][32]byte
	calls  int
	alive  []time.Time
}

func (c *controller) Register(_ context.Context, in *snapshot.Instance, removed bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	key := Key{orders, in.Instance}
	switch {
	case c.away || c.refuse == in.Instance:
		return errDown
	case removed:
		delete(c.held, key)
	default:
		c.held[key] = Hash(in)
	}
	return nil
}

func (c *controller) Alive(_ context.Context, alive *snapshot.Alive) (*snapshot.AliveReply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return nil, errDown
	}
	c.alive = append(c.alive, time.Now())
	if string(alive.Digest) == string(Digest(c.held)) {
		return &snapshot.AliveReply{}, nil
	}
	reply := &snapshot.AliveReply{Differs: true}
	for key, hash := range c.held {
		reply.Held = append(reply.Held, &snapshot.HeldInstance{Service: key.Service.String(), Instance: key.Name, Hash: hash[:]})
	}
	return reply, nil
}

func (c *controller) state() (names string, calls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{"a", "b", "c"} {
		if _, ok := c.held[Key{orders, name}]; ok {
			names += name
		}
	}
	calls, c.calls = c.calls, 0
	return names, calls
}

func (c *controller) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// registering runs a Registrar over a Local that declares the instances named, in a bubble.
func registering(t *testing.T, c *controller, names string, test func(t *testing.T, r *Registrar, l *Local)) {
	synctest.Test(t, func(t *testing.T) {
		var r *Registrar
		l := newLocal(t, LocalConfig{Changed: func() {
			if r != nil {
				r.Wake()
			}
		}})
		for _, name := range strings.Split(names, "") {
			if _, err := l.Set("cli", []byte(declared(name, "127.0.0.1:1"))); err != nil {
				t.Fatal(err)
			}
		}
		r = NewRegistrar(RegistrarConfig{Node: "web1", Local: l, LaneAddress: func() string { return "192.0.2.1:7000" }, Bus: c, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { r.Run(ctx); close(done) }()
		test(t, r, l)
		stop()
		<-done
	})
}

func expect(t *testing.T, c *controller, when, names string, calls int) {
	t.Helper()
	synctest.Wait()
	if gotNames, gotCalls := c.state(); gotNames != names || gotCalls != calls {
		t.Errorf("%s: the controller holds %q after %d calls, want %q after %d", when, gotNames, gotCalls, names, calls)
	}
}

func TestRegistrationsConverge(t *testing.T) {
	c := &controller{held: map[Key][32]byte{}}
	registering(t, c, "ab", func(t *testing.T, r *Registrar, l *Local) {
		expect(t, c, "at the start", "ab", 2)
		time.Sleep(time.Minute)
		expect(t, c, "while nothing changes", "ab", 0)
		l.Set("cli", []byte(declared("c", "127.0.0.1:3")))
		expect(t, c, "an instance more", "abc", 1)
		l.Remove(Key{orders, "a"})
		expect(t, c, "one less", "bc", 1)
		r.Resend()
		expect(t, c, "asked again, with nothing lost", "bc", 0)
		c.set(func() { delete(c.held, Key{orders, "b"}) }) // the controller lost one
		time.Sleep(6 * time.Second)
		expect(t, c, "after the next alive", "bc", 1)
		c.set(func() { c.held[Key{orders, "a"}] = [32]byte{} }) // and has one that was gone while it was away
		time.Sleep(6 * time.Second)
		expect(t, c, "after the next alive", "bc", 1)
		c.set(func() { c.alive = nil })
		time.Sleep(10 * time.Minute)
		n := 0
		c.set(func() { n = len(c.alive) })
		if n < 110 || n > 130 {
			t.Errorf("%d times alive in ten minutes, want 120", n)
		}
	})
}

func TestARestartRegistersOnlyWhatChanged(t *testing.T) {
	c := &controller{held: map[Key][32]byte{}}
	registering(t, c, "ab", func(t *testing.T, _ *Registrar, _ *Local) { expect(t, c, "the first time", "ab", 2) })
	registering(t, c, "bc", func(t *testing.T, _ *Registrar, _ *Local) { expect(t, c, "the second time", "bc", 2) })
}

func TestAControllerThatWasAway(t *testing.T) {
	c := &controller{held: map[Key][32]byte{}, away: true}
	registering(t, c, "ab", func(t *testing.T, r *Registrar, l *Local) {
		time.Sleep(time.Hour)
		synctest.Wait()
		c.set(func() { c.away, c.calls = false, 0 })
		r.Resend() // as at a reconnection
		expect(t, c, "at once when it is back", "ab", 2)
	})
}

// A controller that starts has its bus before it answers. A node that is connected tries soon again then, however long it had
// waited between its attempts while the bus was away.
func TestAControllerThatAnswersSoon(t *testing.T) {
	for range 20 { // the pauses are drawn
		c := &controller{held: map[Key][32]byte{}, away: true}
		registering(t, c, "a", func(t *testing.T, r *Registrar, _ *Local) {
			time.Sleep(time.Minute)
			r.Resend()
			synctest.Wait()
			c.set(func() { c.away = false })
			time.Sleep(firstPause)
			expect(t, c, "half a second after the connection", "a", 1)
		})
	}
}

func TestARefusedInstanceHoldsNoOtherBack(t *testing.T) {
	c := &controller{held: map[Key][32]byte{}, refuse: "a"}
	registering(t, c, "ab", func(t *testing.T, r *Registrar, l *Local) {
		synctest.Wait()
		if names, _ := c.state(); names != "b" {
			t.Errorf("the controller holds %q", names)
		}
		if err := r.Failures()[Key{orders, "a"}]; err == nil {
			t.Error("no failure is told")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, calls := c.state(); calls < 15 || calls > 60 {
			t.Errorf("%d attempts in ten minutes, want one every half minute at the end", calls)
		}
		c.set(func() { c.refuse = "" })
		time.Sleep(time.Minute)
		expect(t, c, "allowed at last", "ab", 1)
		if len(r.Failures()) != 0 {
			t.Errorf("failures %v", r.Failures())
		}
	})
}

func TestDrainTakesEverythingBack(t *testing.T) {
	c := &controller{held: map[Key][32]byte{}}
	registering(t, c, "ab", func(t *testing.T, r *Registrar, l *Local) {
		expect(t, c, "at the start", "ab", 2)
		if err := r.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		l.Set("cli", []byte(declared("c", "127.0.0.1:3")))
		time.Sleep(time.Minute)
		expect(t, c, "after draining", "", 2)
		c.set(func() { c.away = true })
	})
}

func TestWhatIsNotKnownYetIsLeftAsItIs(t *testing.T) {
	c := &controller{held: map[Key][32]byte{{orders, "a"}: {1}}, away: true}
	registering(t, c, "b", func(t *testing.T, r *Registrar, l *Local) {
		// "a" was registered before the restart; its first check has not ended.
		l.Set("cli", []byte(declared("a", "127.0.0.1:1")+"health: {tcp: {port: 80}}\n"))
		c.set(func() { c.away, c.calls = false, 0 })
		r.Resend()
		time.Sleep(time.Minute)
		expect(t, c, "before the first result", "ab", 1)
		l.observe(t.Context(), Key{orders, "a"}, &Check{}, nil)
		expect(t, c, "after it", "ab", 1)
	})
}

// TestWhatARegistrationTells wants callers to learn where an instance is and what it weighs.
func TestWhatARegistrationTells(t *testing.T) {
	in := (&Instance{Service: orders, Name: "a", Weight: 50}).registration(&RegistrarConfig{Node: "web1", Zone: "eu-1a", Region: "eu-1"}, "192.0.2.1:7000", true, "")
	if in.Node != "web1" || in.Zone != "eu-1a" || in.Region != "eu-1" || in.Weight != 50 {
		t.Errorf("%v", in)
	}
}
