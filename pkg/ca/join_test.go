package ca

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

func TestJoin(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	i := c.identity(t.TempDir())
	if i.Joined() {
		t.Error("joined before joining")
	}
	if _, err := i.Certificate(orders); !errors.Is(err, ErrNoCertificate) || !errors.Is(err, ErrNotJoined) {
		t.Errorf("before joining: %v", err)
	}
	i.SetAddress("192.0.2.1:7000")
	wire := c.wire("web1")
	token := c.token("web1", orders)
	wire.request = func(payload []byte) ([]byte, error) {
		if bytes.Contains(payload, token.body.GetSeed()) {
			t.Error("the token's seed crosses the bus")
		}
		return payload, nil
	}
	if err := i.Join(t.Context(), token, wire.dial); err != nil {
		t.Fatal(err)
	}
	certificate, err := i.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	if got := certificate.Leaf.URIs[0].String(); got != "spiffe://mesh.example.com/ns/default/svc/orders" {
		t.Errorf("certificate of %s", got)
	}
	status := i.Status()
	if len(status.Certificates) != 2 || status.Certificates[0].SPIFFEID != "spiffe://mesh.example.com/node/web1" || status.Generation != 1 {
		t.Errorf("status %+v", status)
	}
	node := c.node("web1")
	if node.State != "active" || node.Generation != 1 || node.Key != status.Key || node.Address != "192.0.2.1:7000" {
		t.Errorf("registered as %+v", node)
	}
	if _, err := i.Certificate(billing); !errors.Is(err, ErrNoCertificate) || !strings.Contains(err.Error(), "sennit node allow web1 default/billing") {
		t.Errorf("certificate of a service that it may not run: %v", err)
	}
	if err := i.Join(t.Context(), token, wire.dial); !errors.Is(err, ErrAlreadyJoined) {
		t.Errorf("joined again: %v", err)
	}
	directory := readDirectory(t, c.store)
	if nodes := directory.Nodes(); len(nodes) != 1 || nodes[0].Name != "web1" {
		t.Errorf("list: %v", nodes)
	}
	if tokens := directory.Tokens(); len(tokens) != 1 || tokens[0].ID != token.ID() || !tokens[0].Used.Equal(testStart) || tokens[0].Node != "web1" {
		t.Errorf("list of tokens: %+v", tokens)
	}
}

// Each wrong token has its own error, with a remedy, and leaves neither a node nor a spent token behind.
func TestWrongTokens(t *testing.T) {
	t.Parallel()
	reencode := func(t *testing.T, token *Token, change func(*TokenBody)) *Token {
		body := proto.CloneOf(token.body)
		change(body)
		changed, err := newToken(body)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	other := newCluster(t)
	for _, tt := range []struct {
		name string
		make func(t *testing.T, c *cluster) *Token
		is   error
	}{
		{"used by another host", func(t *testing.T, c *cluster) *Token {
			token := c.token("web1", orders)
			if err := c.identity(t.TempDir()).Join(t.Context(), token, c.wire("web1").dial); err != nil {
				t.Fatal(err)
			}
			return token
		}, ErrTokenUsed},
		{"expired by the host's clock", func(t *testing.T, c *cluster) *Token {
			token := c.token("web1", orders)
			c.clock.advance(DefaultTokenTTL + time.Second)
			return token
		}, ErrTokenExpired},
		{"expired, its date changed", func(t *testing.T, c *cluster) *Token {
			token := c.token("web1", orders)
			c.clock.advance(DefaultTokenTTL + time.Second)
			return reencode(t, token, func(b *TokenBody) { b.ExpiresUnixMs += 3600_000 })
		}, ErrTokenTampered},
		{"more services", func(t *testing.T, c *cluster) *Token {
			return reencode(t, c.token("web1", orders), func(b *TokenBody) { b.Services = append(b.Services, "default/billing") })
		}, ErrTokenTampered},
		{"another seed", func(t *testing.T, c *cluster) *Token {
			return reencode(t, c.token("web1", orders), func(b *TokenBody) { b.Seed[0] ^= 1 })
		}, ErrTokenTampered},
		{"another node", func(t *testing.T, c *cluster) *Token {
			c.token("web2", orders)
			return reencode(t, c.token("web2", orders), func(b *TokenBody) { b.Node = "web1" })
		}, ErrTokenTampered},
		{"another id", func(t *testing.T, c *cluster) *Token {
			return reencode(t, c.token("web1", orders), func(b *TokenBody) { b.Id[0] ^= 1 })
		}, ErrTokenUnknown},
		{"another cluster's name", func(t *testing.T, c *cluster) *Token {
			return reencode(t, c.token("web1", orders), func(b *TokenBody) { b.Cluster = "prod" })
		}, ErrTokenForeign},
		{"another cluster", func(t *testing.T, c *cluster) *Token {
			return other.token("web1", orders)
		}, ErrTokenForeign},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			token := tt.make(t, c)
			i := c.identity(t.TempDir())
			err := i.Join(t.Context(), token, c.wire("web1").dial)
			if !errors.Is(err, tt.is) {
				t.Fatalf("%v\nwant %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), "join-token create") && !errors.Is(err, ErrUntrusted) {
				t.Errorf("no remedy: %v", err)
			}
			if i.Joined() {
				t.Error("joined all the same")
			}
			if !errors.Is(tt.is, ErrTokenUsed) {
				if _, err := c.registrar.Node(t.Context(), "web1"); !errors.Is(err, ErrUnknownNode) {
					t.Errorf("registered: %v", err)
				}
			}
		})
	}
}

// A join that is cut short anywhere is repeated with the same token, and makes one node.
func TestJoinCutShort(t *testing.T) {
	t.Parallel()
	cut := errors.New("cut")
	for _, tt := range []struct {
		name string
		cut  func(*wire)
	}{
		{"before it is sent", func(w *wire) { w.request = func([]byte) ([]byte, error) { return nil, cut } }},
		{"before the answer", func(w *wire) { w.reply = func([]byte) ([]byte, error) { return nil, cut } }},
		{"in the answer", func(w *wire) { w.reply = func(r []byte) ([]byte, error) { return r[:len(r)/2], nil } }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			dir := t.TempDir()
			token := c.token("web1", orders)
			i := c.identity(dir)
			wire := c.wire("web1")
			tt.cut(wire)
			if err := i.Join(t.Context(), token, wire.dial); err == nil {
				t.Fatal("joined")
			}
			if err := i.Close(); err != nil {
				t.Fatal(err)
			}
			again := c.identity(dir) // the process was started anew
			if err := again.Join(t.Context(), token, c.wire("web1").dial); err != nil {
				t.Fatal(err)
			}
			if node := c.node("web1"); node.Generation != 1 || node.Key != again.Status().Key {
				t.Errorf("registered as %+v", node)
			}
			if err := again.Renew(t.Context(), c.wire("web1")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever runs the bus can stop a join, and do nothing else to it.
func TestManInTheMiddleOfAJoin(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	signedRequest := func(t *testing.T, payload []byte) *SignedRequest {
		m := &SignedRequest{}
		if err := proto.Unmarshal(payload, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	marshal := func(t *testing.T, m proto.Message) []byte {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	alter := func(t *testing.T, change func(*JoinRequest)) func(*wire, *cluster) {
		return func(w *wire, _ *cluster) {
			w.request = func(payload []byte) ([]byte, error) {
				signed, request := signedRequest(t, payload), &JoinRequest{}
				if err := proto.Unmarshal(signed.GetRequest(), request); err != nil {
					t.Fatal(err)
				}
				change(request)
				signed.Request = marshal(t, request)
				return marshal(t, signed), nil
			}
		}
	}
	for _, tt := range []struct {
		name  string
		stand func(w *wire, c *cluster)
		is    error
	}{
		{"answers with an authority of its own", func(w *wire, _ *cluster) {
			evil := newCluster(t)
			var asked []byte
			w.request = func(payload []byte) ([]byte, error) { asked = payload; return payload, nil }
			w.reply = func([]byte) ([]byte, error) {
				signed, request := signedRequest(t, asked), &JoinRequest{}
				if err := proto.Unmarshal(signed.GetRequest(), request); err != nil {
					t.Fatal(err)
				}
				keys, err := checkWanted(request.GetWanted(), "web1")
				if err := errors.Join(err, keys.readServices(request.GetWanted())); err != nil {
					t.Fatal(err)
				}
				grant, err := evil.registrar.grant(ctx, "join", &NodeRecord{
					Node: "web1", PublicKey: keys.node, Generation: 1, Services: []string{"default/orders"}, State: NodeState_NODE_STATE_ACTIVE,
				}, 0, request.GetWanted(), keys)
				if err != nil {
					t.Fatal(err)
				}
				return evil.registrar.reply(signed.GetRequest(), grant, nil)
			}
		}, ErrUntrusted},
		{"answers with its own key under the true roster", func(w *wire, _ *cluster) {
			evil := newCluster(t)
			w.reply = func(reply []byte) ([]byte, error) {
				signed := &SignedReply{}
				if err := proto.Unmarshal(reply, signed); err != nil {
					t.Fatal(err)
				}
				signed.Signature = evil.authority.Signer().Sign(replyDomain, signed.GetReply())
				return marshal(t, signed), nil
			}
		}, ErrUntrusted},
		{"changes the answer", func(w *wire, _ *cluster) {
			w.reply = func(reply []byte) ([]byte, error) {
				signed, body := &SignedReply{}, &Reply{}
				if err := errors.Join(proto.Unmarshal(reply, signed), proto.Unmarshal(signed.GetReply(), body)); err != nil {
					t.Fatal(err)
				}
				if body.GetGrant() == nil {
					t.Fatalf("refused: %v", body.GetRefusal())
				}
				body.Grant.BusJwt = "other"
				signed.Reply = marshal(t, body)
				return marshal(t, signed), nil
			}
		}, ErrUntrusted},
		{"puts its own key into the request", alter(t, func(r *JoinRequest) { r.Wanted.Csr = csrFor(t) }), ErrUntrusted},
		{"puts its own key in for a service", alter(t, func(r *JoinRequest) { r.Wanted.Services[0].Csr = csrFor(t) }), ErrUntrusted},
		{"puts its own bus user in", alter(t, func(r *JoinRequest) { r.Wanted.BusUser = userKey(t) }), ErrUntrusted},
		{"changes the address", alter(t, func(r *JoinRequest) { r.Wanted.Address = "192.0.2.9:1" }), ErrUntrusted},
		{"repeats an answer to the same host", func(w *wire, _ *cluster) {
			var old []byte
			w.reply = func(reply []byte) ([]byte, error) {
				if old == nil {
					old = reply
					return nil, errors.New("lost")
				}
				return old, nil
			}
		}, ErrUntrusted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			i := c.identity(t.TempDir())
			token := c.token("web1", orders)
			wire := c.wire("web1")
			tt.stand(wire, c)
			err := i.Join(t.Context(), token, wire.dial)
			if tt.name == "repeats an answer to the same host" {
				err = i.Join(t.Context(), token, wire.dial)
			}
			if !errors.Is(err, tt.is) {
				t.Errorf("%v\nwant %v", err, tt.is)
			}
			if i.Joined() {
				t.Error("joined all the same")
			}
			if strings.HasPrefix(tt.name, "puts") || strings.HasPrefix(tt.name, "changes the address") {
				if _, err := c.registrar.Node(t.Context(), "web1"); !errors.Is(err, ErrUnknownNode) {
					t.Errorf("an altered request was granted: %v", err)
				}
			}
			if err := i.Join(t.Context(), token, c.wire("web1").dial); err != nil {
				t.Errorf("after it went away: %v", err)
			}
		})
	}
}

// A node that somehow asks for more than its token allows is refused, whatever it signs.
func TestJoinForAServiceThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	token := c.token("web1", orders)
	greedy := &Token{body: proto.CloneOf(token.body), raw: token.raw} // the digest of the true token
	greedy.body.Services = append(greedy.body.Services, "default/billing")
	i := c.identity(t.TempDir())
	if err := i.Join(t.Context(), greedy, c.wire("web1").dial); !errors.Is(err, ErrNotAllowed) {
		t.Error(err)
	}
	if i.Joined() {
		t.Error("joined")
	}
}
