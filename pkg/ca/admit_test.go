package ca

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
)

func FuzzHandlers(f *testing.F) {
	c := newCluster(f)
	i := c.identity(f.TempDir())
	var seeds [][]byte
	wire := c.wire("web1")
	wire.request = func(payload []byte) ([]byte, error) { seeds = append(seeds, payload); return payload, nil }
	if err := i.Join(f.Context(), c.token("web1", orders), wire.dial); err != nil {
		f.Fatal(err)
	}
	if err := i.Renew(f.Context(), wire); err != nil {
		f.Fatal(err)
	}
	if _, err := i.WorkloadCertificate(f.Context(), wire, orders); err != nil {
		f.Fatal(err)
	}
	if _, err := i.WorkloadToken(f.Context(), wire, orders, []string{"db"}); err != nil {
		f.Fatal(err)
	}
	before := c.node("web1")
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, handler := range []func(context.Context, string, []byte) ([]byte, error){c.registrar.Join, c.registrar.Renew, c.registrar.Workload} {
			data, err := handler(context.Background(), "web1", payload)
			if err != nil {
				t.Fatalf("handler failed: %v", err)
			}
			signed, body := &SignedReply{}, &Reply{}
			if err := errors.Join(proto.Unmarshal(data, signed), proto.Unmarshal(signed.GetReply(), body)); err != nil {
				t.Fatal(err)
			}
			if body.GetRefusal().GetCode() == RefusalCode_REFUSAL_CODE_TRY_AGAIN {
				t.Fatalf("not refused for what it is: %v", body.GetRefusal())
			}
		}
		if after, err := c.registrar.Node(context.Background(), "web1"); err != nil || after.Key != before.Key || after.State != "active" {
			t.Fatalf("the registry changed: %+v, %v", after, err)
		}
	})
}

// The controller's answer on expiry is a refusal too, where the host's clock is late.
func TestControllerRefusesExpiredTokens(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	token := c.token("web1", orders)
	late := &clock{now: testStart.Add(DefaultTokenTTL - time.Minute)}
	c.clock.advance(DefaultTokenTTL + time.Minute)
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: late.Now})
	if err := i.Join(t.Context(), token, c.wire("web1").dial); !errors.Is(err, ErrTokenExpired) {
		t.Error(err)
	}
}

func TestTokenThatWasTakenBackAdmitsNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	token := c.token("web1", orders)
	if err := c.registrar.RevokeToken(t.Context(), token.ID()); err != nil {
		t.Fatal(err)
	}
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: c.clock.Now})
	if err := i.Join(t.Context(), token, c.wire("web1").dial); !errors.Is(err, ErrTokenUnknown) || !strings.Contains(err.Error(), "took it back") {
		t.Error(err)
	}
	if tokens := readDirectory(t, c.store).Tokens(); len(tokens) != 0 {
		t.Errorf("listed: %v", tokens)
	}
	for _, id := range []string{"", "web1", "*", ">", strings.Repeat("0", 32)} {
		if err := c.registrar.RevokeToken(t.Context(), id); !errors.Is(err, ErrTokenUnknown) {
			t.Errorf("token %q: %v", id, err)
		}
	}
}

func TestClockOffByAnHour(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, 30 * time.Minute} {
		c := newCluster(t)
		wrong := &clock{now: testStart.Add(off)}
		dir := t.TempDir()
		i := openIdentity(t, IdentityConfig{Dir: dir, Now: wrong.Now})
		token := c.token("web1", orders)
		err := i.Join(t.Context(), token, c.wire("web1").dial)
		if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), off.Abs().String()) || !strings.Contains(err.Error(), "timedatectl") {
			t.Errorf("off by %s: %v", off, err)
		}
		wrong.advance(-off) // the operator sets it; the token was not spent
		if err := i.Join(t.Context(), token, c.wire("web1").dial); err != nil {
			t.Error(err)
		}
	}
}

// Where a controller's clock is set wrong, its certificates are valid for nobody yet: nodes go on with theirs, and
// take others when the clock is right again, or at the last.
func TestControllersClockAnHourAhead(t *testing.T) {
	t.Parallel()
	for _, set := range []bool{true, false} {
		c := newCluster(t)
		host := &clock{now: testStart}
		i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: host.Now})
		if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
			t.Fatal(err)
		}
		held := leafSerial(t, i, orders)
		host.advance(13 * time.Hour)
		c.clock.advance(14 * time.Hour)
		for range 3 { // repeated, it makes no further generation
			err := i.Renew(t.Context(), c.wire("web1"))
			if !errors.Is(err, ErrClock) || !strings.Contains(err.Error(), "1h0m0s behind") || !strings.Contains(err.Error(), "timedatectl") {
				t.Fatalf("certificates that are not valid yet: %v", err)
			}
		}
		if serial := leafSerial(t, i, orders); serial != held {
			t.Error("certificates that are not valid yet are used")
		}
		if status := i.Status(); !errors.Is(status.Clock, ErrClock) || c.node("web1").Generation != 2 {
			t.Errorf("status %+v, registered as %+v", status, c.node("web1"))
		}
		if set {
			c.clock.advance(-time.Hour)
		} else {
			host.advance(8 * time.Hour)
			c.clock.advance(8 * time.Hour)
		}
		if err := i.Renew(t.Context(), c.wire("web1")); err != nil || leafSerial(t, i, orders) == held {
			t.Errorf("set right %v: %v", set, err)
		}
		if status := i.Status(); (status.Clock == nil) != set || status.Generation != 2 {
			t.Errorf("set right %v: status %+v", set, status)
		}
	}
}

func TestTwoNodesWithOneName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	first, second := c.token("web1", orders), c.token("web1", orders)
	if err := c.identity(t.TempDir()).Join(t.Context(), first, c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	err := c.identity(t.TempDir()).Join(t.Context(), second, c.wire("web1").dial)
	if !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), "sennit node remove web1") {
		t.Errorf("second host: %v", err)
	}
	if _, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web1"}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("token for a name that is taken: %v", err)
	}
	if err := c.registrar.Remove(t.Context(), "web1"); err != nil {
		t.Fatal(err)
	}
	i := c.joined("web1", orders)
	if node := c.node("web1"); node.State != "active" || node.Key != i.Status().Key {
		t.Errorf("after removing: %+v", node)
	}
}

// Who reads a request on the bus knows the token's id and hash. Without the seed that is worth nothing: a
// request of one's own, with keys of one's own, is refused, and the token stays good.
func TestNobodyJoinsWithoutTheSeed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	token := c.token("web1", orders)
	thief := &Token{body: proto.CloneOf(token.body), raw: token.raw} // id and hash are those of the true token
	thief.body.Seed[0] ^= 1
	if err := c.identity(t.TempDir()).Join(t.Context(), thief, c.wire("web1").dial); !errors.Is(err, ErrTokenTampered) {
		t.Errorf("joined without the seed: %v", err)
	}
	if err := c.identity(t.TempDir()).Join(t.Context(), token, c.wire("web1").dial); err != nil {
		t.Errorf("its owner: %v", err)
	}
}

// Certificate requests of services are work for the controller: none is looked at before it is known who asks.
func TestServicesAreReadOfKnownNodesOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var asked []byte
	wire := c.wire("web1")
	wire.request = func(payload []byte) ([]byte, error) { asked = payload; return payload, nil }
	// again asks what was asked last, with a service's CSR that is none.
	again := func(handler bus.Handler, request interface {
		proto.Message
		GetWanted() *Wanted
	}) error {
		signed := &SignedRequest{}
		err := proto.Unmarshal(asked, signed)
		if err := errors.Join(err, proto.Unmarshal(signed.GetRequest(), request)); err != nil {
			t.Fatal(err)
		}
		request.GetWanted().Services[0].Csr = []byte("no CSR")
		if signed.Request, err = proto.Marshal(request); err != nil {
			t.Fatal(err)
		}
		payload, err := proto.Marshal(signed)
		if err != nil {
			t.Fatal(err)
		}
		data, err := handler(t.Context(), "web1", payload)
		answer, body := &SignedReply{}, &Reply{}
		if err := errors.Join(err, proto.Unmarshal(data, answer), proto.Unmarshal(answer.GetReply(), body)); err != nil {
			t.Fatal(err)
		}
		return body.GetRefusal().err()
	}
	i := c.identity(t.TempDir())
	if err := i.Join(t.Context(), c.token("web1", orders), wire.dial); err != nil {
		t.Fatal(err)
	}
	if err := again(c.registrar.Join, &JoinRequest{}); !errors.Is(err, ErrTokenTampered) {
		t.Errorf("a request to join that nobody signed: %v", err)
	}
	if err := i.Renew(t.Context(), wire); err != nil {
		t.Fatal(err)
	}
	if err := again(c.registrar.Renew, &RenewRequest{}); !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "did not sign it") {
		t.Errorf("a request to renew that nobody signed: %v", err)
	}
}
