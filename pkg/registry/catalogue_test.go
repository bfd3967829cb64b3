package registry

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// stream is Records in memory.
type stream struct {
	mu      sync.Mutex
	entries []Entry
	more    chan struct{}
	appends int
	hurry   func() // called in the middle of an Append, as another writer
}

func (s *stream) Get(_ context.Context, subject string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.Backward(s.entries) {
		if e.Subject == subject {
			return e, nil
		}
	}
	return Entry{}, ErrNotFound
}

func (s *stream) Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error) {
	if hurry := s.hurry; hurry != nil {
		s.hurry = nil
		hurry()
	}
	last, _ := s.Get(ctx, subject)
	s.mu.Lock()
	defer s.mu.Unlock()
	if last.Sequence != expect {
		return 0, ErrConflict
	}
	s.appends++
	s.entries = append(s.entries, Entry{subject, data, uint64(len(s.entries) + 1), time.Now()})
	if s.more != nil {
		close(s.more)
		s.more = nil
	}
	return uint64(len(s.entries)), nil
}

func (s *stream) Follow(ctx context.Context, from uint64, fn func(Entry) error) error {
	for {
		s.mu.Lock()
		if int(from) <= len(s.entries) {
			e := s.entries[from-1]
			s.mu.Unlock()
			if err := fn(e); err != nil {
				return err
			}
			from++
			continue
		}
		if s.more == nil {
			s.more = make(chan struct{})
		}
		more := s.more
		s.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newCatalogue(s *stream, changed func(uint64)) *Catalogue {
	if changed == nil {
		changed = func(uint64) {}
	}
	return NewCatalogue(CatalogueConfig{Records: s, Changed: changed, Log: slog.New(slog.DiscardHandler), Rules: Rules{DeleteAfter: 10 * time.Minute},
		Allowed: func(_ string, service exchange.ServiceName) bool { return service.Name != "forbidden" }})
}

func registration(node, name string, change func(*snapshot.Instance)) *snapshot.Instance {
	in := &snapshot.Instance{Service: "default/orders", Node: node, Instance: name, LaneAddress: "192.0.2.1:7000",
		Ports: []*snapshot.InstancePort{{Number: 80, Address: "127.0.0.1:8080"}}}
	if change != nil {
		change(in)
	}
	return in
}

// inBubble runs catalogues of one stream and the test in a bubble.
func inBubble(t *testing.T, test func(t *testing.T, s *stream, run func(func(context.Context) error))) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		test(t, &stream{}, func(f func(context.Context) error) { running.Go(func() { f(ctx) }) })
		stop()
		running.Wait()
	})
}

func TestCatalogueFollowsWhatAnyControllerWrites(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stream, run func(func(context.Context) error)) {
		var told []uint64
		a, b := newCatalogue(s, nil), newCatalogue(s, func(sequence uint64) { told = append(told, sequence) })
		run(a.Run)
		run(b.Run)
		for _, name := range []string{"one", "two"} {
			if err := a.Register(t.Context(), "web.1", registration("web.1", name, nil), false); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Register(t.Context(), "web.1", registration("web.1", "one", nil), false); err != nil || s.appends != 2 {
			t.Errorf("the same registered again: %v, %d records", err, s.appends)
		}
		if err := b.Register(t.Context(), "web.1", registration("web.1", "two", nil), true); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for _, c := range []*Catalogue{a, b} {
			instances, lost, sequence := c.View()
			if len(instances) != 1 || instances[0].Instance != "one" || len(lost) != 0 || sequence != 3 {
				t.Errorf("%v, %v, %d", instances, lost, sequence)
			}
		}
		if !slices.Equal(told, []uint64{1, 2, 3}) {
			t.Errorf("told %v", told)
		}
		if err := a.Register(t.Context(), "web.1", registration("web.1", "two", nil), true); err != nil || s.appends != 3 {
			t.Errorf("removed again: %v, %d records", err, s.appends)
		}
	})
}

func TestTwoWritersOfOneInstance(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stream, run func(func(context.Context) error)) {
		c := newCatalogue(s, nil)
		s.hurry = func() {
			c.Register(t.Context(), "web1", registration("web1", "one", func(in *snapshot.Instance) { in.Unhealthy = true }), false)
		}
		if err := c.Register(t.Context(), "web1", registration("web1", "one", nil), false); err != nil {
			t.Fatal(err)
		}
		e, _ := s.Get(t.Context(), InstanceSubject("web1", Key{orders, "one"}))
		got := &snapshot.Instance{}
		if proto.Unmarshal(e.Data, got); got.Unhealthy || e.Sequence != 2 {
			t.Errorf("sequence %d holds %v", e.Sequence, got)
		}
	})
}

func TestWhatIsNoRegistrationIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*snapshot.Instance)
		want   error
	}{
		{"another node's", func(in *snapshot.Instance) { in.Node = "web2" }, ErrInvalid},
		{"a service that the node may not run", func(in *snapshot.Instance) { in.Service = "default/forbidden" }, ErrNotAllowed},
		{"no service", func(in *snapshot.Instance) { in.Service = "a.b/c" }, ErrInvalid},
		{"no name", func(in *snapshot.Instance) { in.Instance = "" }, ErrInvalid},
		{"no lane", func(in *snapshot.Instance) { in.LaneAddress = "web1:7000" }, ErrInvalid},
		{"a lane to everywhere", func(in *snapshot.Instance) { in.LaneAddress = "0.0.0.0:7000" }, ErrInvalid},
		{"no ports", func(in *snapshot.Instance) { in.Ports = nil }, ErrInvalid},
		{"a port twice", func(in *snapshot.Instance) { in.Ports = append(in.Ports, in.Ports[0]) }, ErrInvalid},
		{"a port too high", func(in *snapshot.Instance) { in.Ports[0].Number = 65536 }, ErrInvalid},
		{"more weight than there is", func(in *snapshot.Instance) { in.Weight = maxWeight + 1 }, ErrInvalid},
		{"a zone that is none", func(in *snapshot.Instance) { in.Zone = "a b" }, ErrInvalid},
		{"a region that is none", func(in *snapshot.Instance) { in.Region = "-" }, ErrInvalid},
		{"a label that is none", func(in *snapshot.Instance) { in.Labels = map[string]string{"version": "a b"} }, ErrInvalid},
		{"a long story", func(in *snapshot.Instance) { in.HealthDetail = string(make([]byte, 201)) }, ErrInvalid},
	} {
		s := &stream{}
		err := newCatalogue(s, nil).Register(t.Context(), "web1", registration("web1", "one", tt.change), false)
		if !errors.Is(err, tt.want) || s.appends != 0 {
			t.Errorf("%s: %v, %d records", tt.name, err, s.appends)
		}
	}
}

func TestInstancesOfANodeAreBounded(t *testing.T) {
	s := &stream{}
	c := newCatalogue(s, nil)
	for i := range maxInstancesOfNode + 1 {
		err := c.Register(t.Context(), "web1", registration("web1", "i"+strconv.Itoa(i), nil), false)
		if (err == nil) != (i < maxInstancesOfNode) {
			t.Fatalf("instance %d: %v", i, err)
		}
		if err == nil {
			c.take(s.entries[i])
		}
	}
}

// What a node registers goes to every caller of its services: all of it together is bounded, and what it takes back
// or makes smaller counts no more.
func TestBytesOfANodeAreBounded(t *testing.T) {
	s := &stream{}
	c := newCatalogue(s, nil)
	labels := map[string]string{}
	for i := range maxLabels {
		labels[strings.Repeat("p", 200)+strconv.Itoa(i)+"/version"] = "v1"
	}
	register := func(name string, long, removed bool) error {
		err := c.Register(t.Context(), "web1", registration("web1", name, func(in *snapshot.Instance) {
			if long {
				in.Labels = labels
			}
		}), removed)
		for _, e := range s.entries[c.Sequence():] {
			c.take(e)
		}
		return err
	}
	n := 0
	for register("i"+strconv.Itoa(n), true, false) == nil {
		n++
	}
	if n < 32 || n > 128 || c.nodes["web1"].bytes > maxNodeBytes {
		t.Fatalf("%d long instances of %d bytes were taken", n, c.nodes["web1"].bytes)
	}
	if err := register("more", true, false); !errors.Is(err, ErrInvalid) {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := errors.Join(register("i0", false, false), register("more", true, false)); err != nil {
		t.Errorf("after one became short: %v", err)
	}
	if err := errors.Join(register("i1", false, true), register("other", true, false)); err != nil {
		t.Errorf("after one was taken back: %v", err)
	}
}

func TestAliveTellsWhatDiffers(t *testing.T) {
	s := &stream{}
	c := newCatalogue(s, nil)
	in := registration("web1", "one", nil)
	if reply := c.Alive("web1", &snapshot.Alive{}); !reply.Differs || len(reply.Held) != 0 {
		t.Errorf("a node that knows nothing: %v", reply)
	}
	c.Register(t.Context(), "web1", in, false)
	c.take(s.entries[0])
	reply := c.Alive("web1", &snapshot.Alive{Digest: Digest(nil)})
	if hash := Hash(in); !reply.Differs || len(reply.Held) != 1 || string(reply.Held[0].Hash) != string(hash[:]) {
		t.Errorf("a node that believes nothing is held: %v", reply)
	}
	digest := Digest(map[Key][32]byte{{orders, "one"}: Hash(in)})
	if reply := c.Alive("web1", &snapshot.Alive{Digest: digest}); reply.Differs {
		t.Errorf("both hold the same: %v", reply)
	}
	if reply := c.Alive("web2", &snapshot.Alive{Digest: digest}); !reply.Differs {
		t.Error("another node's digest passed")
	}
}

func TestTheLeaderRecordsLossAndReturn(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stream, run func(func(context.Context) error)) {
		leader, follower := newCatalogue(s, nil), newCatalogue(s, nil)
		run(leader.Run)
		run(follower.Run)
		run(leader.Lead)
		for i := range 500 {
			node := "node" + strconv.Itoa(i)
			if err := leader.Register(t.Context(), node, registration(node, "one", nil), false); err != nil {
				t.Fatal(err)
			}
		}
		alive := func(d time.Duration, from int) {
			for range d / (5 * time.Second) {
				for i := from; i < 500; i++ {
					leader.Alive("node"+strconv.Itoa(i), &snapshot.Alive{})
				}
				time.Sleep(5 * time.Second)
			}
			synctest.Wait()
		}
		lost := func(c *Catalogue) int {
			_, lost, _ := c.View()
			return len(lost)
		}
		alive(time.Minute, 0)
		time.Sleep(time.Hour) // nobody is heard
		alive(time.Minute, 0)
		if lost(follower) != 0 || s.appends != 500 {
			t.Fatalf("an hour of silence cost %d nodes and %d records", lost(follower), s.appends-500)
		}
		alive(20*time.Second, 1)
		if _, names, _ := follower.View(); len(names) != 1 || !names["node0"] {
			t.Fatalf("lost: %v, want node0", names)
		}
		if n := follower.Nodes(); len(n) != 500 || !n[0].Lost || n[0].Instances != 1 {
			t.Errorf("%+v", n[0])
		}
		alive(5*time.Second, 0)
		if lost(follower) != 0 {
			t.Error("node0 is heard again and still lost")
		}
		if s.appends != 502 {
			t.Errorf("%d records for one loss and one return", s.appends-500)
		}
		alive(time.Minute, 0)
		alive(11*time.Minute, 1)
		if instances, _, _ := follower.View(); len(instances) != 499 || len(follower.Nodes()) > 500 {
			t.Errorf("%d instances after the time of deletion", len(instances))
		}
	})
}

func TestANodeThatSaidGoodbyeIsNotLost(t *testing.T) {
	inBubble(t, func(t *testing.T, s *stream, run func(func(context.Context) error)) {
		c := newCatalogue(s, nil)
		run(c.Run)
		run(c.Lead)
		in := registration("web1", "one", nil)
		c.Register(t.Context(), "web1", in, false)
		synctest.Wait()
		c.Alive("web1", &snapshot.Alive{Draining: true})
		c.Register(t.Context(), "web1", in, true)
		time.Sleep(time.Hour)
		synctest.Wait()
		if nodes := c.Nodes(); len(nodes) != 0 {
			t.Errorf("%+v", nodes)
		}
	})
}

func TestANodeAndAControllerAgree(t *testing.T) {
	subject := InstanceSubject("web.1", Key{exchange.ServiceName{Namespace: "shop", Name: "orders"}, "a_b"})
	node, key, err := parseInstanceSubject(subject)
	if err != nil || node != "web.1" || key.String() != "shop/orders/a_b" {
		t.Errorf("%s: %q %v %v", subject, node, key, err)
	}
	changes := []func(*snapshot.Instance){
		func(in *snapshot.Instance) { in.Service = "x" }, func(in *snapshot.Instance) { in.Node = "x" },
		func(in *snapshot.Instance) { in.Instance = "x" }, func(in *snapshot.Instance) { in.LaneAddress = "x" },
		func(in *snapshot.Instance) { in.Labels = map[string]string{"a": "b"} },
		func(in *snapshot.Instance) { in.Weight = 50 },
		func(in *snapshot.Instance) { in.Zone = "x" }, func(in *snapshot.Instance) { in.Region = "x" },
		func(in *snapshot.Instance) { in.Unhealthy = true }, func(in *snapshot.Instance) { in.HealthDetail = "x" },
		func(in *snapshot.Instance) { in.Ports[0].Number++ }, func(in *snapshot.Instance) { in.Ports[0].Name = "x" },
		func(in *snapshot.Instance) { in.Ports[0].Protocol++ }, func(in *snapshot.Instance) { in.Ports[0].Address = "x" },
	}
	seen := map[[32]byte]bool{Hash(registration("web1", "one", nil)): true}
	for i, change := range changes {
		hash := Hash(registration("web1", "one", change))
		if seen[hash] {
			t.Errorf("change %d does not change the hash", i)
		}
		seen[hash] = true
	}
}

// A node says which version it is; it can make the controller keep little, and nothing that a terminal obeys.
func TestAliveTellsTheVersion(t *testing.T) {
	c := newCatalogue(&stream{}, nil)
	for _, tt := range []struct{ name, says, want string }{
		{"a release", "v1.2.3", "v1.2.3"},
		{"too much", strings.Repeat("v", 1000), strings.Repeat("v", maxVersion)},
		{"what moves a cursor", "v1\x1b[2J\n", "v1?[2J?"},
	} {
		c.Alive("web1", &snapshot.Alive{Version: tt.says})
		if got := c.Nodes()[0].Version; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
