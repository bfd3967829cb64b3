package routing

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// byHash is the backend orders, whose instances are chosen by hash of some keys.
func byHash(balance snapshot.Balance, keys ...*snapshot.HashKey) *snapshot.Backend {
	b := to("orders", 1)
	b.Balance, b.HashKeys = balance, keys
	return b
}

func keyOf(kind snapshot.HashKey_Type, name string) *snapshot.HashKey {
	return &snapshot.HashKey{Type: kind, Name: name}
}

// userTable has orders hashed by the header x-user.
func userTable(t testing.TB, balance snapshot.Balance, node string, endpoints *snapshot.Endpoints) *Table {
	table := New()
	table.Node = node
	apply(t, table, epSubject("orders", 0), 1, endpoints)
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{byHash(balance, keyOf(snapshot.HashKey_HEADER, "X-User"))}}))
	return table
}

// takenBy is the instance that gets the requests of a user.
func takenBy(t testing.TB, table *Table, user string) *Instance {
	t.Helper()
	var d Decision
	table.Pick(callOf(rand.NewPCG(rand.Uint64(), 1)), get("/", exchange.Field{Name: "x-user", Value: user}), &d)
	if d.Instance == nil {
		t.Fatalf("%s: %d %s", user, d.Status, d.Detail)
	}
	d.Done()
	return d.Instance
}

// TestNodesAgreeOnAKey wants every node to send a key to the same instance, of more nodes than each would call
// otherwise, in whatever order and shards they came.
func TestNodesAgreeOnAKey(t *testing.T) {
	for _, balance := range hashing {
		endpoints := manyNodes(100, 0)
		one, other := userTable(t, balance, "host-1", endpoints), New()
		other.Node = "host-2"
		apply(t, other, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{byHash(balance, keyOf(snapshot.HashKey_HEADER, "X-User"))}}))
		halves := [2]*snapshot.Endpoints{{Shards: 2}, {Shards: 2}}
		for i, e := range endpoints.Endpoints {
			halves[(i+1)%2].Endpoints = append(halves[(i+1)%2].Endpoints, e)
		}
		for i, half := range halves {
			apply(t, other, epSubject("orders", uint32(i)), 1, half)
		}
		nodes := map[string]bool{}
		for i := range 2000 {
			user := fmt.Sprint("user-", i)
			a, b := takenBy(t, one, user), takenBy(t, other, user)
			if a.key != b.key {
				t.Fatalf("%v: %s is at %v from one node, and at %v from another", balance, user, a.key, b.key)
			}
			nodes[a.Node] = true
		}
		if len(nodes) < 95 {
			t.Errorf("%v: keys are at %d of 100 nodes", balance, len(nodes))
		}
	}
}

// TestIllInstancesLeaveTheirKeysForAWhile wants the keys of what is unhealthy or unreachable to move, no others, and all
// to come back.
func TestIllInstancesLeaveTheirKeysForAWhile(t *testing.T) {
	for _, balance := range hashing {
		table := userTable(t, balance, "host", instances("a", "b", "c", "d", "e"))
		before := map[string]string{}
		for i := range 500 {
			user := fmt.Sprint("user-", i)
			before[user] = takenBy(t, table, user).ID
		}
		same := func(what, ill string) {
			t.Helper()
			for user, was := range before {
				if is := takenBy(t, table, user).ID; is == ill || is != was && was != ill {
					t.Fatalf("%v, %s: %s went from %s to %s", balance, what, user, was, is)
				}
			}
		}
		circle := table.pools[orders].set.Load().rest.consistent[kindOf(balance)].Load().circle
		unhealthy := instances("a", "b", "c", "d", "e")
		unhealthy.Endpoints[2].Unhealthy = true
		apply(t, table, epSubject("orders", 0), 2, unhealthy)
		same("c is unhealthy", "c")
		if table.pools[orders].set.Load().rest.consistent[kindOf(balance)].Load().circle != circle {
			t.Errorf("%v: the circle was made again although the instances are the same", balance)
		}
		apply(t, table, epSubject("orders", 0), 3, instances("a", "b", "c", "d", "e"))
		same("c is healthy again", "")
		b := table.pools[orders].set.Load().instances[1]
		table.MarkUnreachable(b, start)
		same("b cannot be reached", "b")
		table.MarkReachable(b)
		same("b is reached again", "")
		for i := range unhealthy.Endpoints {
			unhealthy.Endpoints[i].Unhealthy = true
		}
		apply(t, table, epSubject("orders", 0), 4, unhealthy)
		same("all are unhealthy", "")
	}
}

func TestWhatIsHashed(t *testing.T) {
	field := func(name, value string) exchange.Field { return exchange.Field{Name: name, Value: value} }
	keys := []*snapshot.HashKey{
		keyOf(snapshot.HashKey_HEADER, "X-User"), keyOf(snapshot.HashKey_COOKIE, "id"), keyOf(snapshot.HashKey_QUERY, "user id"), keyOf(snapshot.HashKey_HEADER, "host"),
	}
	k := &hashKeys{"host", keys}
	for _, tt := range []struct {
		name string
		req  *exchange.Request
		want string // what is hashed; "-": nothing
	}{
		{"the header", get("/?user+id=q", field("Cookie", "id=c"), field("x-user", "ann")), "ann"},
		{"the first of its fields", get("/", field("x-user", "ann"), field("x-user", "bob")), "ann"},
		{"an empty header is one", get("/?user+id=q", field("x-user", "")), ""},
		{"else the cookie", get("/?user+id=q", field("Cookie", "a=b; id=c; id=d")), "c"},
		{"of several fields", get("/", field("Cookie", "a=b"), field("cookie", "id=c=d")), "c=d"},
		{"not of a name that ends so", get("/?user%20id=q", field("Cookie", "xid=c; id")), "q"},
		{"else the parameter, as it is meant", get("/?x=1&user%20id=a%62+c&user+id=z"), "ab c"},
		{"a parameter without a value", get("/?user+id"), ""},
		{"else the authority", get("/"), "orders"},
		{"nothing", &exchange.Request{Method: "GET", Path: "/"}, "-"},
		{"bytes that nobody looks at", nil, "-"},
	} {
		if tt.req != nil && tt.req.Authority == "" && tt.want != "-" {
			tt.req.Authority = "orders"
		}
		h, has := k.hash(callOf(rand.NewPCG(1, 1)), tt.req)
		if has != (tt.want != "-") || has && h != hashed(0, tt.want) {
			t.Errorf("%s: %#x %v, want the hash of %q", tt.name, h, has, tt.want)
		}
	}
}

func TestSources(t *testing.T) {
	source := []*snapshot.HashKey{keyOf(snapshot.HashKey_SOURCE, "")}
	call := func(caller, address string) *Call {
		c := callOf(rand.NewPCG(1, 1))
		c.Caller.Name = caller
		if address != "" {
			c.Source = netip.MustParseAddr(address)
		}
		return c
	}
	seen := map[uint64]string{}
	for _, tt := range []struct{ node, caller, address string }{
		{"a", "web", ""}, {"b", "web", ""}, {"a", "cart", ""}, {"a", "edge", "192.0.2.1"}, {"a", "edge", "192.0.2.2"}, {"a", "edge", "2001:db8::1"},
	} {
		h, has := (&hashKeys{tt.node, source}).hash(call(tt.caller, tt.address), nil)
		if other, taken := seen[h]; !has || taken {
			t.Errorf("%v has the hash of %s", tt, other)
		}
		seen[h] = fmt.Sprint(tt)
	}
	a, _ := (&hashKeys{"a", source}).hash(call("edge", "192.0.2.1"), nil)
	b, _ := (&hashKeys{"b", source}).hash(call("edge-2", "192.0.2.1"), nil)
	if a != b {
		t.Error("a client has another hash at another gateway")
	}
}

// TestWithoutAKeyAllAreTaken wants requests that have none of the keys not to fall on one instance.
func TestWithoutAKeyAllAreTaken(t *testing.T) {
	table := userTable(t, snapshot.Balance_BALANCE_MAGLEV, "host", instances("a", "b", "c", "d"))
	got := picked(table, callOf(rand.NewPCG(1, 2)), 4000)
	if x := chiSquare(got, map[string]float64{"a": 1000, "b": 1000, "c": 1000, "d": 1000}); x > 16.3 { // p = 0.001 at 3 degrees
		t.Errorf("chi-square %.1f of %v", x, got)
	}
}

// TestPickAgainLeavesTheKeysInstance wants a second attempt to go elsewhere, and to the same for all requests of a key.
func TestPickAgainLeavesTheKeysInstance(t *testing.T) {
	for _, balance := range hashing {
		table := userTable(t, balance, "host", instances("a", "b", "c", "d", "e"))
		req, ways := get("/", exchange.Field{Name: "x-user", Value: "ann"}), map[string]bool{}
		for range 20 {
			var d Decision
			call, way := callOf(random(t)), ""
			table.Pick(call, req, &d)
			for ok := true; ok; ok = table.PickAgain(call, &d) {
				way += d.Instance.ID
			}
			ways[way] = true
			if len(way) != maxTries {
				t.Errorf("%v: tried %s", balance, way)
			}
		}
		if len(ways) != 1 {
			t.Errorf("%v: one key goes different ways: %v", balance, ways)
		}
	}
}

// TestCirclesComeWithThePolicy wants a policy that changes to find the instances that are there already, at each port.
func TestCirclesComeWithThePolicy(t *testing.T) {
	endpoints := instances("a", "b", "c")
	for _, e := range endpoints.Endpoints {
		e.Ports = []*snapshot.EndpointPort{{Number: 80, Target: 8080}}
	}
	table := tableOf(t, endpoints, &snapshot.Rule{Backends: []*snapshot.Backend{to("orders", 1)}})
	for revision, balance := range hashing {
		b := byHash(balance, keyOf(snapshot.HashKey_HEADER, "x-user"))
		apply(t, table, outSubject("orders"), uint64(10+revision), outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
		first := takenBy(t, table, "ann")
		for range 50 {
			if takenBy(t, table, "ann") != first {
				t.Fatalf("%v: ann is at several instances", balance)
			}
		}
	}
}

func TestHashedPicksAllocateNothing(t *testing.T) {
	for _, balance := range hashing {
		table, req := hashedCrowd(t, balance)
		call := callOf(rand.NewPCG(1, 2))
		var d Decision
		if n := testing.AllocsPerRun(100, func() {
			table.Pick(call, req, &d)
			table.PickAgain(call, &d)
			d.Done()
		}); n != 0 {
			t.Errorf("%v: %v allocations", balance, n)
		}
	}
}

// hashedCrowd has a thousand instances, hashed by a parameter that is encoded.
func hashedCrowd(t testing.TB, balance snapshot.Balance) (*Table, *exchange.Request) {
	table := New()
	apply(t, table, epSubject("orders", 0), 1, manyNodes(500, 20))
	b := byHash(balance, keyOf(snapshot.HashKey_COOKIE, "none"), keyOf(snapshot.HashKey_QUERY, "user"))
	apply(t, table, outSubject("orders"), 1, outboundOf(&snapshot.Rule{Backends: []*snapshot.Backend{b}}))
	return table, get("/cart?page=7&user=%61nn", fieldsOf("x-user", "beta")...)
}

func BenchmarkPickHashed(b *testing.B) {
	for _, balance := range hashing {
		b.Run(balance.String(), func(b *testing.B) {
			table, req := hashedCrowd(b, balance)
			call := callOf(rand.NewPCG(1, 2))
			var d Decision
			b.ReportAllocs()
			for b.Loop() {
				table.Pick(call, req, &d)
				d.Done()
			}
		})
	}
}
