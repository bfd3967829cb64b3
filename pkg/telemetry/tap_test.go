package telemetry

import (
	"crypto/ed25519"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func tapAccess() *Access {
	return &Access{
		Start: time.Unix(1_700_000_000, 0), Method: "GET", Path: "/charge/7?card=4111", Host: "payments", Instance: "p-1", Rule: "default/split/0", Lane: "quic", Fault: "default/slow/half:delay",
		Edge: Edge{
			Caller: exchange.ServiceName{Namespace: "default", Name: "orders"}, Callee: exchange.ServiceName{Namespace: "default", Name: "payments"},
			Backend: exchange.ServiceName{Namespace: "default", Name: "payments-v2"}, Version: "v2", Node: "host2",
		},
		Sample: Sample{Outcome: exchange.Outcome{Status: 404}, Duration: 3 * time.Millisecond, BytesSent: 5, BytesReceived: 7},
		Trace:  exchange.Trace{ID: [16]byte{1}},
	}
}

func TestTapFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, query string
		want        bool
	}{
		{"nothing is looked at", "", true},
		{"the caller", "from=default/orders", true},
		{"another caller", "from=default/web", false},
		{"a name without its namespace", "from=orders", true},
		{"as it was called", "to=payments", true},
		{"as routing chose", "to=payments-v2", true},
		{"another service", "to=orders", false},
		{"between itself and itself", "from=orders&to=orders", false},
		{"the method in small letters", "method=get", true},
		{"another method", "method=POST", false},
		{"the beginning of the path", "path=/charge", true},
		{"more than the path, which the query is no part of", "path=/charge/7card", false},
		{"another path", "path=/refund", false},
		{"the status", "code=404", true},
		{"its class", "code=4XX", true},
		{"another class", "code=5xx", false},
		{"another status", "code=400", false},
		{"all of it", "from=orders&to=payments&method=GET&path=/&code=4xx", true},
	} {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ParseFilter(q)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		c, err := f.compile()
		if err != nil {
			t.Fatal(err)
		}
		a := tapAccess()
		if got := c.wants(a); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := len(f.Chosen([]*TappedExchange{tapped(a)})) == 1; got != tt.want {
			t.Errorf("%s, told by a node: %v, want %v", tt.name, got, tt.want)
		}
		if again, err := ParseFilter(f.Values()); err != nil || !proto.Equal(again, f) {
			t.Errorf("%s: written and read it is %v, %v", tt.name, again, err)
		}
	}
	for _, bad := range []string{"from=A", "to=a/b/c", "path=charge", "path=/a%3Fb", "code=6xx", "code=99", "code=0", "code=x", "path=/" + strings.Repeat("a", 2000)} {
		q, err := url.ParseQuery(bad)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := ParseFilter(q); !errors.Is(err, ErrFilter) {
			t.Errorf("%s: %v, %v", bad, f, err)
		}
	}
}

// Nobody who is not looked at pays for it, and nobody who looks sees a secret.
func TestTapShowsNoQueryAndNoControlCharacters(t *testing.T) {
	var taps Taps
	taps.See(tapAccess())
	tap, err := taps.Open(&TapFilter{})
	if err != nil {
		t.Fatal(err)
	}
	a := tapAccess()
	a.Host = "pay\x1b[2Jments\u202e"
	a.Method = strings.Repeat("M", 5000)
	taps.See(a)
	seen := <-tap.Seen()
	if seen.GetPath() != "/charge/7" {
		t.Errorf("the node tells of %q", seen.GetPath())
	}
	e := seen.Shown("host1")
	if e.Path != "/charge/7" || e.Lane != "quic" || e.Fault != "default/slow/half:delay" || e.Rule != "default/split/0" || e.Status != 404 || e.ServedBy != "host2" || e.TraceID == "" || e.Duration != 0.003 {
		t.Errorf("shown: %+v", e)
	}
	if strings.ContainsAny(e.Host, "\x1b\u202e") || len(e.Method) > maxValue {
		t.Errorf("a terminal would be given host %q and %d bytes of method", e.Host, len(e.Method))
	}
	told := &TappedExchange{Path: "/a?token=b", Rule: "\x07", TraceId: []byte("short")}
	if s := told.Shown("n"); s.Path != "/a" || s.Rule != "\uFFFD" || s.TraceID != "" {
		t.Errorf("of another node: %+v", s)
	}
	tap.Close()
	if taps.Len() != 0 || taps.open.Load() != nil {
		t.Errorf("%d taps after the last was closed", taps.Len())
	}
	if allocations := testing.AllocsPerRun(100, func() { taps.See(a) }); allocations != 0 {
		t.Errorf("%v allocations though nobody taps", allocations)
	}
}

func TestTapIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var taps Taps
		tap, err := taps.Open(&TapFilter{Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		see := func(n int) {
			for range n {
				taps.See(tapAccess())
			}
			other := tapAccess()
			other.Method = "PUT"
			taps.See(other) // which is not wanted, and so not missed
		}
		see(1000)
		batch := tap.Take(10_000)
		if n, dropped := len(batch.GetExchanges()), batch.GetDropped(); n != tapRate || dropped != 1000-tapRate {
			t.Errorf("of 1000 at once %d were shown and %d dropped", n, dropped)
		}
		for range 3 { // that nobody takes
			time.Sleep(time.Second)
			see(tapRate)
		}
		first, rest := tap.Take(100), tap.Take(10_000)
		if n := len(first.GetExchanges()) + len(rest.GetExchanges()); len(first.GetExchanges()) != 100 || n != tapQueue {
			t.Errorf("%d waited", n)
		}
		if dropped := first.GetDropped() + rest.GetDropped(); dropped != 3*tapRate-tapQueue {
			t.Errorf("%d were dropped", dropped)
		}
		if total := taps.Dropped(); total != 1000-tapRate+3*tapRate-tapQueue {
			t.Errorf("%d were dropped in all", total)
		}
		tap.Lost(first)
		if batch := tap.Take(1); batch.GetDropped() != first.GetDropped()+100 {
			t.Errorf("lost on the way: %d", batch.GetDropped())
		}
		if tap.Take(1) != nil {
			t.Error("there is something to tell")
		}
		for range MaxTaps - 1 {
			if _, err := taps.Open(&TapFilter{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := taps.Open(&TapFilter{}); !errors.Is(err, ErrTooManyTaps) {
			t.Errorf("one more: %v", err)
		}
	})
}

// Who taps a node is what a controller says in answer to the node's own question, and nothing else is.
func TestOpenTaps(t *testing.T) {
	t.Parallel()
	signer := func(seed byte) snapshot.Signer {
		return snapshot.NewSigner(ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+seed)), ed25519.SeedSize))))
	}
	controller, other := signer(0), signer(1)
	keys := (&snapshot.Roster{Keys: []*snapshot.SigningKey{controller.Public()}}).SigningKeys()
	good := TapAnswer{Cluster: "c", Node: "web1", Nonce: []byte("nonce"), Taps: []*TapOrder{{Id: []byte("id")}}}
	seal := func(by snapshot.Signer, change func(*TapAnswer)) []byte {
		answer := proto.CloneOf(&good)
		change(answer)
		data, err := SealTaps(by, answer)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	same := func(*TapAnswer) {}
	body, err := proto.Marshal(&good)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := proto.Marshal(&TapReply{Answer: body, KeyId: controller.ID, Signature: controller.Sign(snapshot.AnswerDomain, body)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
		ok   bool
	}{
		{"a controller's answer", seal(controller, same), true},
		{"by a key that the roster does not list", seal(other, same), false},
		{"to an earlier question", seal(controller, func(a *TapAnswer) { a.Nonce = []byte("older") }), false},
		{"to another node", seal(controller, func(a *TapAnswer) { a.Node = "web2" }), false},
		{"of another cluster", seal(controller, func(a *TapAnswer) { a.Cluster = "d" }), false},
		{"signed for another purpose", elsewhere, false},
		{"changed on the way", append(seal(controller, same), 0x0a, 0x00), false},
		{"nothing", nil, false},
		{"noise", []byte("noise"), false},
	} {
		answer, err := OpenTaps(keys, "c", "web1", []byte("nonce"), tt.data)
		if (err == nil) != tt.ok || tt.ok != (len(answer.GetTaps()) == 1) {
			t.Errorf("%s: %v, %v", tt.name, answer, err)
		}
	}
}
