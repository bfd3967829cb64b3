package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// jetStream are the requests of JetStream's API that would read, change or end a stream or one of its consumers.
func jetStream(stream string) (subjects []string) {
	for _, verb := range []string{
		"STREAM.CREATE.%s", "STREAM.UPDATE.%s", "STREAM.DELETE.%s", "STREAM.PURGE.%s", "STREAM.INFO.%s", "STREAM.SNAPSHOT.%s", "STREAM.RESTORE.%s",
		"STREAM.MSG.GET.%s", "STREAM.MSG.DELETE.%s", "STREAM.PEER.REMOVE.%s", "STREAM.LEADER.STEPDOWN.%s", "DIRECT.GET.%s", "DIRECT.GET.%s.sennit.x",
		"CONSUMER.CREATE.%s", "CONSUMER.CREATE.%s.c", "CONSUMER.CREATE.%s.c.sennit.x", "CONSUMER.DURABLE.CREATE.%s.c", "CONSUMER.DELETE.%s.c", "CONSUMER.INFO.%s.c",
		"CONSUMER.NAMES.%s", "CONSUMER.LIST.%s", "CONSUMER.MSG.NEXT.%s.c", "CONSUMER.PAUSE.%s.c", "CONSUMER.UNPIN.%s.c", "CONSUMER.LEADER.STEPDOWN.%s.c",
	} {
		subjects = append(subjects, "$JS.API."+fmt.Sprintf(verb, stream))
	}
	return append(subjects, "$JS.ACK."+stream+".c.1.1.1.1.1", "$JS.FC."+stream+".c.x", "$JS.API.CONSUMER.RESET."+stream+".c")
}

// TestAttackOnJetStream asks for everything that JetStream can do with each of the streams. All of it is refused, nothing
// changes, nobody answers, and the controller is told how often which node was refused what.
func TestAttackOnJetStream(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	before := s.fingerprint(t)
	answers, err := s.intruder.SubscribeSync(s.intruder.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, stream := range []bus.Stream{
		bus.StreamResource, bus.StreamStatus, bus.StreamInstance, bus.StreamConfig, bus.StreamRegistry, bus.StreamQuota, bus.StreamAudit, "EVIL",
	} {
		for _, subject := range append(jetStream(string(stream)), "$JS.API.ACCOUNT.PURGE.x", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE") {
			if err := s.intruder.PublishRequest(subject, answers.Subject, []byte(`{"name":"EVIL","subjects":["sennit.>"]}`)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	if err := s.intruder.Flush(); err != nil {
		t.Fatal(err)
	}
	for range sent {
		s.refusal(t)
	}
	s.unchanged(t, before)
	if n, _, _ := answers.Pending(); n > 0 {
		t.Errorf("%d of them were answered", n)
	}
	awaitRefused(t, s.Bus, "web1", bus.RefusedPublish, sent)
}

// awaitRefused waits until the server has told that a node was refused something so many times.
func awaitRefused(t *testing.T, b *bustest.Bus, node, kind string, want int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); b.Refused(node, kind) != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s was refused %d times to %s, as was told, want %d", node, b.Refused(node, kind), kind, want)
		}
	}
}

// TestRefusalsAreTold has a node refused in every way. Each is told of that node, also once its connection is gone, and
// nobody can have another's name told.
func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	credential := b.NodeCredential(t, "web1", "default/orders")
	refused := make(chan error, 1024)
	intruder := connectRaw(t, b, credential, func(err error) { refused <- err }, nats.NoReconnect())
	for i := range 3 {
		if err := intruder.Publish(fmt.Sprint("sennit.config.x", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := intruder.SubscribeSync("sennit.audit.>"); err != nil {
			t.Fatal(err)
		}
	}
	if err := intruder.Flush(); err != nil {
		t.Fatal(err)
	}
	intruder.Close()
	awaitRefused(t, b, "web1", bus.RefusedPublish, 3)
	awaitRefused(t, b, "web1", bus.RefusedSubscribe, 2)

	// A user that was ended.
	key, seed, err := bus.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := b.Accounts.RenewUser("web3", key)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Server.End(t.Context(), []string{key}); err != nil {
		t.Fatal(err)
	}
	connect := func(token string, seed []byte) {
		t.Helper()
		pair, err := nkeys.FromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := nats.Connect("tls://"+b.Addr, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Timeout(30*time.Second),
			nats.UserJWT(func() (string, error) { return token, nil }, pair.Sign))
		if err == nil {
			conn.Close()
			t.Error("it is let in")
		}
	}
	connect(token, seed)
	awaitRefused(t, b, "web3", bus.RefusedConnect, 1)

	// Whoever makes a token in another's name himself is nobody.
	account, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.NewUserClaims(key)
	claims.Name = "web2"
	forged, err := claims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	connect(forged, seed)
	awaitRefused(t, b, "", bus.RefusedConnect, 1)
	if n := b.Refused("web2", bus.RefusedConnect); n != 0 {
		t.Errorf("web2, which did nothing, was refused %d times", n)
	}
}

// TestRefusedRequestsAreTold: what controllers refuse is told with the node and the reason; what fails, or is for later, is
// no refusal.
func TestRefusedRequestsAreTold(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	var mu sync.Mutex
	told := map[string]map[string]int{} // by node
	requests := bus.NewRequests(bus.RequestsConfig{
		Conn: b.Controller, Limits: bus.Limits{Rate: 1e-9, Burst: 4, Flood: 3}, CutOff: func(string, string) {}, Log: b.Log,
		Refused: func(node, verb, why string) {
			mu.Lock()
			defer mu.Unlock()
			if told[node] == nil {
				told[node] = map[string]int{}
			}
			told[node][verb+" "+why]++
		},
	})
	answers := map[string]error{
		"denied": &bus.Error{Code: bus.ErrorCode_ERROR_CODE_DENIED}, "later": &bus.Error{Code: bus.ErrorCode_ERROR_CODE_UNAVAILABLE}, "broken": errors.New("broken"),
	}
	bustest.Run(t, func(ctx context.Context) error {
		return requests.Serve(ctx, bus.VerbRegister, func(_ context.Context, _ string, request []byte) ([]byte, error) {
			return nil, answers[string(request)]
		})
	})
	want := fmt.Sprint(map[string]int{"register denied": 1, "register invalid": 3, "register flood": 2})
	for try := 1; ; try++ {
		node := fmt.Sprint("web", try)
		conn := b.Node(t, node)
		for request := range answers {
			if _, err := ask(t, conn, bus.VerbRegister, []byte(request)); err == nil {
				t.Errorf("%s: it was done", request)
			}
		}
		intruder := connectRaw(t, b, b.NodeCredential(t, node), func(error) {})
		for _, data := range [][]byte{[]byte("not a request"), nil, nil, nil, nil} { // one is left, two are refused, and the third of those makes a flood
			_ = intruder.Publish("sennit.node."+node+".register", data)
		}
		if err := intruder.Flush(); err != nil {
			t.Fatal(err)
		}
		so, sum := "", 0
		for deadline := time.Now().Add(30 * time.Second); sum < 6; time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			so, sum = fmt.Sprint(told[node]), 0
			for _, n := range told[node] {
				sum += n
			}
			if len(told) > try {
				t.Errorf("it is told of others: %v", told)
			}
			mu.Unlock()
			if time.Now().After(deadline) {
				t.Fatalf("told is %s, want %s", so, want)
			}
		}
		if so == want {
			return
		}
		if try == 5 {
			t.Fatalf("told is %s, want %s", so, want)
		}
		t.Logf("told is %s, want %s; asked anew, as the second in which a flood is counted may have ended within it", so, want)
	}
}
