package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/bus/bustest"
)

// serving answers a verb on the controller until the test ends.
func serving(t *testing.T, b *bustest.Bus, limits bus.Limits, verb string, handler bus.Handler) {
	t.Helper()
	requests := bus.NewRequests(bus.RequestsConfig{Conn: b.Controller, Limits: limits, CutOff: b.Server.CutOff, Log: b.Log})
	bustest.Run(t, func(ctx context.Context) error { return requests.Serve(ctx, verb, handler) })
}

// ask asks until a controller serves the verb.
func ask(t *testing.T, node *bus.Conn, verb string, payload []byte) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		reply, err := node.Request(ctx, verb, payload)
		if !errors.Is(err, bus.ErrNoController) || ctx.Err() != nil {
			return reply, err
		}
	}
}

func TestARequestIsAnsweredUnderTheNodesName(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	serving(t, b, bus.DefaultLimits, bus.VerbRegister, func(_ context.Context, node string, request []byte) ([]byte, error) {
		switch string(request) {
		case "told":
			return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_DENIED, Message: "not you"}
		case "untold":
			return nil, errors.New("a secret of the controller")
		}
		return fmt.Appendf(nil, "%s said %s", node, request), nil
	})
	node := b.Node(t, "web1.example.com")
	reply, err := ask(t, node, bus.VerbRegister, []byte("hello"))
	if err != nil || string(reply) != "web1.example.com said hello" {
		t.Fatalf("got %q, %v", reply, err)
	}
	_, err = node.Request(t.Context(), bus.VerbRegister, []byte("told"))
	if bus.Code(err) != bus.ErrorCode_ERROR_CODE_DENIED {
		t.Errorf("got %v, want the refusal that the handler gave", err)
	}
	_, err = node.Request(t.Context(), bus.VerbRegister, []byte("untold"))
	if bus.Code(err) != bus.ErrorCode_ERROR_CODE_INTERNAL || bytes.Contains([]byte(err.Error()), []byte("secret")) {
		t.Errorf("got %v, want an internal error without its text", err)
	}
	_, err = node.Request(t.Context(), bus.VerbQuota, nil)
	if !errors.Is(err, bus.ErrNoController) {
		t.Errorf("a verb that nobody serves: %v, want ErrNoController", err)
	}
}

// A connection that is made anew is not away: what is asked meanwhile waits for it.
func TestARequestWaitsForANewConnection(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	serving(t, b, bus.DefaultLimits, bus.VerbRegister, func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
	node := b.Node(t, "web1")
	if _, err := ask(t, node, bus.VerbRegister, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for waited, tries := 0, 0; waited < 5; tries++ {
		start := time.Now()
		if err := node.Reconnect(); err != nil {
			t.Fatal(err)
		}
		_, err := node.Request(ctx, bus.VerbRegister, nil)
		switch {
		case err == nil:
			waited++
		case !errors.Is(err, bus.ErrNoController) || time.Since(start) < bus.ChangeTime || tries >= 10:
			t.Fatalf("try %d, after %s: %v", tries, time.Since(start), err)
		default: // the machine was slower to connect than a request waits
			if err := node.Ready(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestAnAnswerInPartsArrivesWhole(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	const size, count = 256 << 10, 40
	requests := bus.NewRequests(bus.RequestsConfig{Conn: b.Controller, Limits: bus.DefaultLimits, CutOff: b.Server.CutOff, Log: b.Log})
	bustest.Run(t, func(ctx context.Context) error {
		return requests.ServeParts(ctx, bus.VerbCatchup, func(_ context.Context, _ string, request []byte) iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) {
				if string(request) == "nothing" {
					return
				}
				for i := range count {
					if string(request) == "broken" && i == 3 {
						yield(nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_UNAVAILABLE, Message: "later"})
						return
					}
					if !yield(bytes.Repeat([]byte{byte(i)}, size), nil) {
						return
					}
				}
			}
		})
	})
	node := b.Node(t, "web1")
	if _, err := ask(t, node, bus.VerbCatchup, []byte("nothing")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		request string
		parts   int
		code    bus.ErrorCode
	}{{"all", count, 0}, {"broken", 2, bus.ErrorCode_ERROR_CODE_UNAVAILABLE}} {
		parts := 0
		var failed error
		for part, err := range node.RequestParts(t.Context(), bus.VerbCatchup, []byte(tt.request)) {
			if failed = err; err != nil {
				break
			}
			if len(part) != size || part[0] != byte(parts) || part[size-1] != byte(parts) {
				t.Fatalf("%s: part %d is another", tt.request, parts)
			}
			parts++
		}
		if parts != tt.parts || bus.Code(failed) != tt.code {
			t.Errorf("%s: %d parts, then %v; want %d", tt.request, parts, failed, tt.parts)
		}
	}
}

func TestANodeThatAsksTooOftenIsTold(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	limits := bus.Limits{Rate: 0.001, Burst: 3, Flood: 1000}
	serving(t, b, limits, bus.VerbApplied, func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
	node, other := b.Node(t, "web1"), b.Node(t, "web2")
	for i := range 3 {
		if _, err := ask(t, node, bus.VerbApplied, nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if _, err := node.Request(t.Context(), bus.VerbApplied, nil); bus.Code(err) != bus.ErrorCode_ERROR_CODE_TOO_MANY {
		t.Fatalf("got %v, want to be told that it is too much", err)
	}
	if _, err := other.Request(t.Context(), bus.VerbApplied, nil); err != nil {
		t.Fatalf("another node is refused with it: %v", err)
	}
}

// Certificates cost a controller much more than other answers: one node cannot keep it busy with them, nor fill its
// disk.
func TestRenewingTooOftenIsRefusedSooner(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	serving(t, b, bus.Limits{Rate: 0.001, Burst: 25, Flood: 1000}, bus.VerbRenew, func(context.Context, string, []byte) ([]byte, error) { return nil, nil })
	node := b.Node(t, "web1")
	for i := range 2 {
		if _, err := ask(t, node, bus.VerbRenew, nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	if _, err := node.Request(t.Context(), bus.VerbRenew, nil); bus.Code(err) != bus.ErrorCode_ERROR_CODE_TOO_MANY {
		t.Fatalf("got %v, want to be told that it is too much", err)
	}
}

func TestAHandlerThatHangsIsToldInTime(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	serving(t, b, bus.DefaultLimits, bus.VerbRegister, func(ctx context.Context, _ string, request []byte) ([]byte, error) {
		if string(request) == "hang" {
			<-ctx.Done()
		}
		return nil, ctx.Err()
	})
	node := b.Node(t, "web1")
	if _, err := ask(t, node, bus.VerbRegister, nil); err != nil {
		t.Fatal(err)
	}
	_, err := node.Request(t.Context(), bus.VerbRegister, []byte("hang"))
	for tries := 1; tries < 5 && errors.Is(err, bus.ErrNoController); tries++ { // it is in time by half a second, which a slow machine may take
		_, err = node.Request(t.Context(), bus.VerbRegister, []byte("hang"))
	}
	if bus.Code(err) != bus.ErrorCode_ERROR_CODE_UNAVAILABLE {
		t.Fatalf("got %v, want an answer before the server forgets where it goes", err)
	}
}

// What was asked over a connection that broke is not waited for: nobody may be left to answer.
func TestARequestEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	asked := make(chan struct{})
	serving(t, b, bus.DefaultLimits, bus.VerbRegister, func(ctx context.Context, _ string, request []byte) ([]byte, error) {
		if string(request) == "hang" {
			close(asked)
			<-ctx.Done()
		}
		return nil, ctx.Err()
	})
	front := newProxy(t)
	behind := b.Addr
	front.to.Store(&behind)
	b.Addr = front.Addr().String()
	node := b.Node(t, "web1")
	if _, err := ask(t, node, bus.VerbRegister, nil); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		front.cut()
	}()
	_, err := node.Request(t.Context(), bus.VerbRegister, []byte("hang"))
	if !errors.Is(err, bus.ErrNoController) || !strings.Contains(err.Error(), "the connection broke") {
		t.Errorf("got %v, want to be told that the connection broke", err)
	}
	if _, err := ask(t, node, bus.VerbRegister, nil); err != nil {
		t.Errorf("when it stands again: %v", err)
	}
}

func TestAConnectionNoticesThatItsTokenIsNew(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t)
	credential := b.NodeCredential(t, "web1")
	node := b.Dial(t, "web1", credential)
	notices := make(chan bus.Notice, 16)
	defer node.Notify(func(n bus.Notice) { notices <- n })()
	if err := node.Reconnect(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bus.NoticeKind{bus.Disconnected, bus.Connected} {
		select {
		case n := <-notices:
			if n.Kind != want {
				t.Fatalf("noticed %v (%v), want %v", n.Kind, n.Err, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nothing noticed")
		}
	}
}
