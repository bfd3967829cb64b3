package bus_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// The attack test: web1 is a node that joined, runs default/orders, and tries everything that it must not
// do, with its real credentials on a real server with real streams. web2 is another node.

// refusalTime is long: the server's word is here already, and only has to reach a callback.
const refusalTime = 5 * time.Second

// stage is a bus with something worth attacking on it.
type stage struct {
	*bustest.Bus
	intruder *nats.Conn // web1's user, on a plain client without our manners
	refused  chan error // what the server refuses it
	web2     *bus.Conn
	handled  atomic.Pointer[func(node, verb string, request []byte)] // what controllers were made to handle
	tap      chan *nats.Msg                                          // all that moves in the controllers' account
}

// keptOut is a first cut-off that is not over before the test is, however slow the machine.
const keptOut = 10 * time.Minute

const (
	secretSubject = "sennit.resource.v1.secrets.default.tls"
	tokenSubject  = "sennit.registry.token.web3"
	configSubject = "sennit.config.in.default.orders"
	auditSubject  = "sennit.audit.controller.log"
	theTrue       = "the true one"   // what is stored under each subject
	honest        = "asked honestly" // by web2
)

func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageOn(t, bustest.Start(t))
}

func newStageOn(t *testing.T, b *bustest.Bus) *stage {
	t.Helper()
	s := &stage{Bus: b, refused: make(chan error, 1024), tap: make(chan *nats.Msg, 1<<16)}
	for stream, subject := range map[bus.Stream]string{
		bus.StreamResource: secretSubject, bus.StreamRegistry: tokenSubject, bus.StreamConfig: configSubject,
		bus.StreamInstance: "sennit.instance.default.orders.web2.orders-1", bus.StreamStatus: "sennit.status.v1.services.default.orders",
		bus.StreamQuota: "sennit.quota.reserved.default.0", bus.StreamAudit: auditSubject,
	} {
		if _, err := s.Controller.Records(stream).Append(t.Context(), subject, []byte(theTrue), 0); err != nil {
			t.Fatal(err)
		}
	}
	nothing := func(string, string, []byte) {}
	s.handled.Store(&nothing)
	for _, verb := range []string{bus.VerbRegister, bus.VerbApplied} {
		serving(t, s.Bus, bus.DefaultLimits, verb, func(_ context.Context, node string, request []byte) ([]byte, error) {
			(*s.handled.Load())(node, verb, request)
			return request, nil // an answer that the asker chooses: the worst case
		})
	}
	s.web2 = s.Node(t, "web2", "default/payments")
	for _, verb := range []string{bus.VerbRegister, bus.VerbApplied} {
		if _, err := ask(t, s.web2, verb, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.intruder = connectRaw(t, s.Bus, s.NodeCredential(t, "web1", "default/orders"), func(err error) { s.refused <- err })
	user, err := s.Accounts.ControllerUser("tap")
	if err != nil {
		t.Fatal(err)
	}
	tap := connectRaw(t, s.Bus, user, func(error) {})
	if _, err := tap.ChanSubscribe(">", s.tap); err != nil {
		t.Fatal(err)
	}
	if err := tap.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

// connectRaw is any NATS client with a user's credential.
func connectRaw(t *testing.T, b *bustest.Bus, credential bus.Credential, failed func(error), more ...nats.Option) *nats.Conn {
	t.Helper()
	key, err := nkeys.FromSeed(credential.Seed)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nats.Connect("tls://"+b.Addr, append([]nats.Option{
		nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(credential.Token, key.Sign),
		nats.CustomInboxPrefix(credential.Inbox), nats.Timeout(30 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { failed(err) }),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// fingerprint is the state of everything that is stored: any record that was added, changed or removed, and
// any change to a stream's settings changes it.
func (s *stage) fingerprint(t *testing.T) string {
	t.Helper()
	var state strings.Builder
	for _, stream := range []bus.Stream{bus.StreamResource, bus.StreamStatus, bus.StreamInstance, bus.StreamConfig, bus.StreamRegistry, bus.StreamQuota, bus.StreamAudit} {
		records := s.Controller.Records(stream)
		first, err := records.First(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
		last, err := records.Last(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", stream, err)
		}
		fmt.Fprintf(&state, "%s %d-%d\n", stream, first, last)
		for _, entry := range follow(t, records, 1, last) {
			fmt.Fprintf(&state, "%d %s %x\n", entry.Sequence, entry.Subject, sha256.Sum256(entry.Data))
		}
	}
	return state.String()
}

// unchanged checks that an attempt changed nothing, and that nobody in the controllers' account was made to
// publish what is not an answer.
func (s *stage) unchanged(t *testing.T, before string) {
	t.Helper()
	if after := s.fingerprint(t); after != before {
		t.Errorf("what is stored has changed from\n%sto\n%s", before, after)
	}
	for {
		select {
		case message := <-s.tap:
			if string(message.Data) == theTrue || bytes.HasSuffix(message.Data, []byte(honest)) {
				continue // read by fingerprint, or what web2 really asks
			}
			for _, prefix := range []string{"sennit.config.", "sennit.live.", "sennit.resource.", "sennit.registry.", "$JS.ACK.", "$JS.API.STREAM.P", "$JS.API.STREAM.D", "$JS.API.STREAM.U", "sennit.node.web2."} {
				if strings.HasPrefix(message.Subject, prefix) {
					t.Errorf("a message appeared in the controllers' account on %s: %q", message.Subject, message.Data)
				}
			}
		default:
			return
		}
	}
}

// refusal waits until the server has refused the intruder something.
func (s *stage) refusal(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.refused:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("failed with %v, want a permissions violation", err)
		}
	case <-time.After(refusalTime):
		t.Error("the server did not refuse it")
	}
}

// calm checks that nothing was refused that is not accounted for.
func (s *stage) calm(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.refused:
		t.Errorf("unexpected: %v", err)
	default:
	}
}

// request is a well-formed one, as bytes.
func request(t *testing.T, subject string, payload []byte) []byte {
	t.Helper()
	data, err := proto.Marshal(&bus.RequestMessage{Nonce: make([]byte, 16), Subject: subject, Payload: payload})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAttackPublishing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	headers := nats.Header{
		"Nats-Msg-Id": {"1"}, "Nats-Rollup": {"all"}, "Nats-Expected-Stream": {"SENNIT_CONFIG"},
		"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"},
	}
	for _, subject := range []string{
		// as another node, or as one that has yet to join
		"sennit.node.web2.register", "sennit.node.web2.alive", "sennit.node.web2.applied", "sennit.node.web1.join", "sennit.node.web1.other",
		"sennit.node.web1", "sennit.node.web1.register.x", "sennit.node.web2.tap",
		"sennit.node.web2.quota", "sennit.node.web2.telemetry", "sennit.node.web2.renew", "sennit.node.web2.catchup", "sennit.node.web2.workload",
		// make another node ask who taps it
		"sennit.live.tap.web2", "sennit.live.tap.web1",
		// configuration, where it is stored and where it is republished
		configSubject, "sennit.config.in.default.orders.0", snapshot.BeatSubject, snapshot.RosterSubject,
		"sennit.live.in.default.orders", "sennit.live.in.default.orders.0", "sennit.live.beat", "sennit.live.roster", "sennit.live.node.web2",
		// who is revoked, what a gateway holds, the roots of another trust domain
		snapshot.RevokedSubject, "sennit.live.revoked", "sennit.live.revoked.0", "sennit.config.in.edge.gateway", "sennit.live.in.edge.gateway.0",
		snapshot.BundleSubject, "sennit.live.bundle",
		// what was reserved, what happened, what is revoked, who is a node
		"sennit.quota.reserved.default.0", "sennit.quota.term", auditSubject, "sennit.audit.web1.log", "sennit.registry.revoked", "sennit.registry.node.web1", "sennit.config.term",
		// the other streams
		secretSubject, tokenSubject, "sennit.status.v1.services.default.orders", "sennit.instance.default.orders.web1.orders-1",
		// roll up, purge, delete, change, take or replace a stream
		"$JS.API.STREAM.PURGE.SENNIT_CONFIG", "$JS.API.STREAM.DELETE.SENNIT_CONFIG", "$JS.API.STREAM.UPDATE.SENNIT_CONFIG",
		"$JS.API.STREAM.CREATE.EVIL", "$JS.API.STREAM.MSG.DELETE.SENNIT_CONFIG", "$JS.API.STREAM.SNAPSHOT.SENNIT_RESOURCE",
		"$JS.API.STREAM.RESTORE.SENNIT_CONFIG", "$JS.API.STREAM.LEADER.STEPDOWN.SENNIT_CONFIG", "$JS.API.ACCOUNT.PURGE.X",
		// read resources and tokens
		"$JS.API.INFO", "$JS.API.STREAM.INFO.SENNIT_RESOURCE", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.MSG.GET.SENNIT_RESOURCE",
		"$JS.API.DIRECT.GET.SENNIT_RESOURCE", "$JS.API.DIRECT.GET.SENNIT_RESOURCE." + secretSubject,
		"$JS.API.CONSUMER.CREATE.SENNIT_RESOURCE", "$JS.API.CONSUMER.CREATE.SENNIT_REGISTRY.x." + tokenSubject,
		"$JS.API.CONSUMER.MSG.NEXT.SENNIT_RESOURCE.x", "$JS.sennit.API.STREAM.MSG.GET.SENNIT_RESOURCE",
		"$JS.ACK.SENNIT_CONFIG.x.1.1.1.1.1", "$JS.FC.SENNIT_CONFIG.x",
		// answer another's request
		"_INBOX.node.web2.x", "_INBOX.controller.x", "_INBOX.x", "_R_.x",
		// the server itself
		"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.x.KICK", "$SYS.REQ.USER.INFO", "$SRV.PING",
	} {
		for _, how := range []string{"plain", "with headers"} {
			t.Run(subject+" "+how, func(t *testing.T) {
				before := s.fingerprint(t)
				message := &nats.Msg{Subject: subject, Reply: s.intruder.NewInbox(), Data: request(t, subject, []byte("forged"))}
				if how == "with headers" {
					message.Header = headers
				}
				answer, err := s.intruder.SubscribeSync(message.Reply)
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Unsubscribe()
				if err := s.intruder.PublishMsg(message); err != nil {
					t.Fatal(err)
				}
				if err := s.intruder.Flush(); err != nil {
					t.Fatal(err)
				}
				s.refusal(t)
				s.unchanged(t, before)
				if n, _, _ := answer.Pending(); n > 0 {
					t.Error("it was answered")
				}
			})
		}
	}
}

func TestAttackSubscribing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var taken []*nats.Subscription
	for _, subject := range []string{
		">", "*", "*.>", "sennit.>", "sennit.live.>", "sennit.*.>", "sennit.resource.>", secretSubject, "sennit.registry.>", tokenSubject,
		"sennit.config.>", "sennit.instance.>", "sennit.status.>", "sennit.quota.>", "sennit.audit.>", auditSubject, "sennit.telemetry.>", "sennit.applied.>",
		"sennit.live.in.edge.gateway", "sennit.live.in.edge.gateway.>", "sennit.live.in.edge.>",
		"sennit.live.in.>", "sennit.live.in.*.*", "sennit.live.in.default.payments", "sennit.live.in.default.payments.>", "sennit.live.node.>", "sennit.live.node.web2",
		"sennit.live.tap.>", "sennit.live.tap.*", "sennit.live.tap.web2",
		"sennit.node.>", "sennit.node.*.*", "sennit.node.*.register", "sennit.node.web2.register", "sennit.node.web1.register",
		"_INBOX.>", "_INBOX.node.>", "_INBOX.node.*.*", "_INBOX.node.web2.>", "_INBOX.controller.>", "_INBOX.join.web1.>", "_R_.>",
		"$JS.>", "$JS.API.>", "$JS.EVENT.>", "$SYS.>", "$SRV.>", "$JSC.>",
	} {
		for _, queue := range []string{"", "controllers"} {
			t.Run(subject+" "+queue, func(t *testing.T) {
				subscription, err := s.intruder.QueueSubscribeSync(subject, queue)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.intruder.Flush(); err != nil {
					t.Fatal(err)
				}
				s.refusal(t)
				taken = append(taken, subscription)
			})
		}
	}
	// Now everything that it listened for happens.
	for stream, subject := range map[bus.Stream]string{
		bus.StreamResource: "sennit.resource.v1.secrets.default.other", bus.StreamRegistry: "sennit.registry.token.web4",
		bus.StreamConfig: "sennit.config.in.default.payments", bus.StreamInstance: "sennit.instance.default.orders.web2.orders-2",
	} {
		if _, err := s.Controller.Records(stream).Append(t.Context(), subject, []byte("secret"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.web2.Request(t.Context(), bus.VerbRegister, []byte("mine")); err != nil {
		t.Fatalf("web2 is not answered while web1 listens: %v", err)
	}
	if err := s.intruder.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, subscription := range taken {
		if n, _, err := subscription.Pending(); err == nil && n > 0 {
			t.Errorf("%d messages were delivered on %s", n, subscription.Subject)
		}
	}
}

// What the server cannot refuse, because it checks subjects and not reply subjects or headers, must be
// without effect.
func TestAttackByReplySubjectAndHeader(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	payload, err := proto.Marshal(&bus.RequestMessage{Nonce: make([]byte, 16), Subject: "sennit.node.web2.applied", Payload: []byte("forged")})
	if err != nil {
		t.Fatal(err)
	}
	web2Inbox := "_INBOX.node.web2.known"
	attempts := map[string]*nats.Msg{}
	for _, reply := range []string{
		configSubject, "sennit.config.beat", "sennit.live.in.default.orders", "sennit.live.beat", secretSubject, tokenSubject,
		"$JS.API.STREAM.PURGE.SENNIT_CONFIG", "$JS.API.STREAM.DELETE.SENNIT_CONFIG", "$JS.API.CONSUMER.CREATE.SENNIT_RESOURCE",
		"$JS.ACK.SENNIT_CONFIG.x.1.1.1.1.1", "$JS.ACK." + configSubject,
		"sennit.node.web2.applied", "sennit.node.web2.register", web2Inbox, "_R_.x", "_INBOX.controller.x", "$SYS.REQ.SERVER.PING",
	} {
		attempts["reply to "+reply] = &nats.Msg{Reply: reply}
	}
	for name, values := range map[string]string{
		"Nats-Msg-Id": "1", "Nats-Rollup": "all", "Nats-Expected-Last-Subject-Sequence": "1", "Nats-Expected-Stream": "SENNIT_CONFIG",
		"Nats-Batch-Id": "b", "Nats-Trace-Dest": configSubject, "Nats-Trace-Only": "1", "Nats-Request-Info": `{"acc":"x","user":"web2"}`,
		"Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Schedule-Target": configSubject, "Nats-TTL": "1s", "Status": "503",
	} {
		attempts["header "+name] = &nats.Msg{Reply: configSubject, Header: nats.Header{name: {values}}}
	}
	for name, message := range attempts {
		for _, verb := range []string{bus.VerbRegister, bus.VerbApplied} {
			t.Run(name+" "+verb, func(t *testing.T) {
				before := s.fingerprint(t)
				spoke := func(node, verb string, request []byte) {
					if node != "web1" && string(request) != honest {
						t.Errorf("a controller was made to believe that %s asked to %s", node, verb)
					}
				}
				s.handled.Store(&spoke)
				message := *message
				message.Subject = "sennit.node.web1." + verb
				message.Data = request(t, message.Subject, payload)
				if err := s.intruder.PublishMsg(&message); err != nil {
					t.Fatal(err)
				}
				if err := s.intruder.Flush(); err != nil {
					t.Fatal(err)
				}
				// An honest request behind it is answered after it was handled or dropped.
				answer, err := s.intruder.Request(message.Subject, request(t, message.Subject, []byte("and then")), 20*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				var reply bus.ReplyMessage
				if err := proto.Unmarshal(answer.Data, &reply); err != nil || string(reply.Payload) != "and then" {
					t.Errorf("the honest request was answered with %q, %v", answer.Data, err)
				}
				if _, err := s.web2.Request(t.Context(), verb, []byte(honest)); err != nil {
					t.Errorf("web2 is not answered: %v", err)
				}
				s.unchanged(t, before)
				for _, refused := range []string{"header Nats-Trace-Dest", "reply to $JS.ACK.", "reply to _R_."} {
					if strings.HasPrefix(name, refused) {
						s.refusal(t) // these the server does refuse
					}
				}
				s.calm(t)
				nothing := func(string, string, []byte) {}
				s.handled.Store(&nothing)
			})
		}
	}
}

// An answer to somebody else, delivered to the inbox of a waiting request, is not taken for its answer.
func TestAttackAnsweringAnothersRequest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	waiting, release := make(chan struct{}), make(chan struct{})
	slow := func(node, _ string, request []byte) {
		if node == "web2" && string(request) == "slow" {
			close(waiting)
			<-release
		}
	}
	s.handled.Store(&slow)
	got := make(chan string, 1)
	go func() {
		reply, err := s.web2.Request(t.Context(), bus.VerbRegister, []byte("slow"))
		got <- fmt.Sprintf("%s %v", reply, err)
	}()
	<-waiting
	// The worst case: the intruder knows the inbox. It cannot hear it, so the test looks for it.
	inboxes := s.Server.Subscribed("_INBOX.node.web2.")
	if len(inboxes) == 0 {
		t.Fatal("web2 waits nowhere")
	}
	for _, inbox := range inboxes {
		for range 3 {
			if err := s.intruder.PublishRequest("sennit.node.web1.register", inbox, request(t, "sennit.node.web1.register", []byte("forged"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.intruder.Request("sennit.node.web1.register", request(t, "sennit.node.web1.register", nil), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	close(release)
	if reply := <-got; reply != "slow <nil>" {
		t.Fatalf("web2 took %q for the answer to its request", reply)
	}
}

func TestAttackFlooding(t *testing.T) {
	t.Parallel()
	s := newStageOn(t, bustest.StartCuttingOff(t, keptOut))
	before := s.fingerprint(t)
	closed := make(chan struct{})
	credential := s.NodeCredential(t, "web3")
	flooder := connectRaw(t, s.Bus, credential, func(error) {},
		nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	bustest.Run(t, func(ctx context.Context) error {
		data := request(t, "sennit.node.web3.applied", nil)
		for ctx.Err() == nil && flooder.Publish("sennit.node.web3.applied", data) == nil {
		}
		return nil
	})
	var slowest time.Duration
	for answered := 0; ; answered++ {
		start := time.Now()
		if _, err := s.web2.Request(t.Context(), bus.VerbRegister, []byte(honest)); err != nil && bus.Code(err) != bus.ErrorCode_ERROR_CODE_TOO_MANY {
			t.Fatalf("web2's request %d during the flood: %v", answered, err)
		}
		slowest = max(slowest, time.Since(start))
		select {
		case <-closed:
			t.Logf("cut off; meanwhile %d requests of another node were answered, the slowest in %s", answered, slowest)
		case <-time.After(30 * time.Millisecond):
			continue
		}
		break
	}
	pair, err := nkeys.FromSeed(credential.Seed)
	if err != nil {
		t.Fatal(err)
	}
	again, err := nats.Connect("tls://"+s.Addr, nats.Secure(s.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(credential.Token, pair.Sign), nats.Timeout(30*time.Second))
	if err == nil {
		again.Close()
		t.Error("it was let in again at once")
	}
	if s.intruder.Status() != nats.CONNECTED || s.web2.Err() != nil {
		t.Error("others were cut off with it")
	}
	s.unchanged(t, before)
}

// A flood that no controller is asked to answer is one all the same: of what the server refuses, and of a verb
// that nobody serves. Neither fills the controller's log.
func TestAttackFloodingWhatNobodyAnswers(t *testing.T) {
	t.Parallel()
	for name, subject := range map[string]string{"refused": "sennit.node.web2.register", "served by nobody": "sennit.node.web1.quota"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := bustest.StartCuttingOff(t, keptOut)
			other := b.Node(t, "web2")
			credential := b.NodeCredential(t, "web1")
			closed := make(chan struct{})
			flooder := connectRaw(t, b, credential, func(error) {}, nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
			bustest.Run(t, func(ctx context.Context) error {
				for ctx.Err() == nil && flooder.Publish(subject, nil) == nil {
				}
				return nil
			})
			select {
			case <-closed:
			case <-time.After(30 * time.Second):
				t.Fatal("it was not cut off")
			}
			pair, err := nkeys.FromSeed(credential.Seed)
			if err != nil {
				t.Fatal(err)
			}
			again, err := nats.Connect("tls://"+b.Addr, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(credential.Token, pair.Sign), nats.Timeout(30*time.Second))
			if err == nil {
				again.Close()
				t.Error("its connection ended, and it was let in again at once")
			}
			if other.Err() != nil {
				t.Errorf("another node was cut off with it: %v", other.Err())
			}
		})
	}
}

// A node may have users under several keys, one for each renewal. When one of them is cut off, going on with
// another is no way around it.
func TestAttackFloodingWithAnotherKey(t *testing.T) {
	t.Parallel()
	const cutOff = 15 * time.Second // in which the second key is used and found to flood
	b := bustest.StartCuttingOff(t, cutOff)
	serving(t, b, bus.DefaultLimits, bus.VerbApplied, func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
	first, second := b.NodeCredential(t, "web1"), b.NodeCredential(t, "web1")
	cut := make(chan struct{}, 2)
	closed := []nats.Option{nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { cut <- struct{}{} })}
	wait := func(which string) {
		t.Helper()
		select {
		case <-cut:
		case <-time.After(30 * time.Second):
			t.Fatalf("the %s user was not cut off", which)
		}
	}
	connectRaw(t, b, first, func(error) {}, closed...)
	for range 2 { // asked for twice, as by two controllers
		b.Server.CutOff("web1", bus.VerbApplied)
	}
	wait("first")
	start := time.Now()
	flooder := connectRaw(t, b, second, func(error) {}, closed...)
	bustest.Run(t, func(ctx context.Context) error {
		data := request(t, "sennit.node.web1.applied", nil)
		for ctx.Err() == nil && flooder.Publish("sennit.node.web1.applied", data) == nil {
		}
		return nil
	})
	wait("second")
	// It counts as one node that did not stop: both keys stay out for the longer time.
	pair, err := nkeys.FromSeed(first.Seed)
	if err != nil {
		t.Fatal(err)
	}
	for time.Since(start) < cutOff+cutOff/2 {
		conn, err := nats.Connect("tls://"+b.Addr, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(first.Token, pair.Sign), nats.NoReconnect(), nats.Timeout(30*time.Second))
		if err == nil {
			conn.Close()
			t.Fatalf("the first user was let in again after %s, while the second is out", time.Since(start))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Who behaves again is let in again.
func TestACutOffEnds(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	serving(t, b, bus.DefaultLimits, bus.VerbApplied, func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
	node := b.Node(t, "web1")
	if _, err := ask(t, node, bus.VerbApplied, nil); err != nil {
		t.Fatal(err)
	}
	notices := make(chan bus.Notice, 64)
	defer node.Notify(func(n bus.Notice) { notices <- n })()
	start := time.Now()
	b.Server.CutOff("web1", bus.VerbApplied)
	for _, want := range []bus.NoticeKind{bus.Disconnected, bus.Connected} {
		if n := <-notices; n.Kind != want {
			t.Fatalf("noticed %v (%v), want %v", n.Kind, n.Err, want)
		}
	}
	if after := time.Since(start); after < bustest.CutOffTime {
		t.Errorf("it was let in again after %s, want at least %s", after, bustest.CutOffTime)
	}
	if _, err := ask(t, node, bus.VerbApplied, nil); err != nil {
		t.Fatalf("after the cut-off: %v", err)
	}
}

// A node that opens connections until a controller has no descriptors left is cut off; others stay.
func TestAttackWithManyConnections(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	other := b.Node(t, "web2")
	credential := b.NodeCredential(t, "web1")
	cut := make(chan struct{}, 1024)
	pair, err := nkeys.FromSeed(credential.Seed)
	if err != nil {
		t.Fatal(err)
	}
	opened := 0
	for range bus.MaxNodeConns + 8 {
		conn, err := nats.Connect("tls://"+b.Addr, nats.Secure(b.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(credential.Token, pair.Sign),
			nats.NoReconnect(), nats.Timeout(30*time.Second), nats.ClosedHandler(func(*nats.Conn) { cut <- struct{}{} }))
		if err != nil {
			break // it is cut off already
		}
		defer conn.Close()
		opened++
	}
	if opened <= bus.MaxNodeConns {
		t.Fatalf("%d connections were let in, at most %d are allowed", opened, bus.MaxNodeConns)
	}
	for i := range opened {
		select {
		case <-cut:
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d connections were cut off", i, opened)
		}
	}
	if other.Err() != nil {
		t.Errorf("another node was cut off with it: %v", other.Err())
	}
}

// A join token's holder can ask to join, and nothing else; a renewing user can ask to renew.
func TestAttackWithOtherUsers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	token, seed, err := s.Accounts.JoinUser("web3", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	key, renewSeed, err := bus.NewUserKey()
	if err != nil {
		t.Fatal(err)
	}
	renewToken, err := s.Accounts.RenewUser("web3", key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		credential bus.Credential
		may        string
	}{
		{"join", bus.JoinCredential("web3", token, seed), "sennit.node.web3.join"},
		{"renew", bus.NodeCredential("web3", func() (string, error) { return renewToken, nil }, renewSeed), "sennit.node.web3.renew"},
	} {
		refused := make(chan error, 64)
		conn := connectRaw(t, s.Bus, tt.credential, func(err error) { refused <- err })
		subjects := []string{"sennit.node.web3.register", "sennit.node.web3.alive", "sennit.node.web3.catchup", "sennit.node.web3.join", "sennit.node.web3.renew", "sennit.node.web2.join", "sennit.node.web2.renew", configSubject, "$JS.API.INFO"}
		for _, subject := range slices.DeleteFunc(subjects, func(s string) bool { return s == tt.may }) {
			if err := errors.Join(conn.Publish(subject, nil), conn.Flush()); err != nil {
				t.Fatal(err)
			}
			select {
			case <-refused:
			case <-time.After(refusalTime):
				t.Errorf("%s: publishing to %s was not refused", tt.name, subject)
			}
		}
		for _, subject := range []string{"sennit.live.beat", "sennit.live.out.>", "sennit.live.endpoints.>", "sennit.live.node.web3", "sennit.live.tap.web3", "_INBOX.node.web2.>"} {
			if _, err := conn.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-refused:
			case <-time.After(refusalTime):
				t.Errorf("%s: subscribing to %s was not refused", tt.name, subject)
			}
		}
	}
	// A token that was signed by an account of another cluster, or that is shown with another key.
	others, err := bus.NewAccounts()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := others.RenewUser("web3", key)
	if err != nil {
		t.Fatal(err)
	}
	for name, credential := range map[string]bus.Credential{
		"another cluster's": bus.NodeCredential("web3", func() (string, error) { return foreign, nil }, renewSeed),
		"another's":         bus.NodeCredential("web3", func() (string, error) { return renewToken, nil }, seed),
	} {
		pair, err := nkeys.FromSeed(credential.Seed)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := nats.Connect("tls://"+s.Addr, nats.Secure(s.Roots.Clone()), nats.TLSHandshakeFirst(), nats.UserJWT(credential.Token, pair.Sign), nats.Timeout(30*time.Second))
		if err == nil {
			conn.Close()
			t.Errorf("%s token was accepted", name)
		}
	}
}
