package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestProcessesGetKeysOfTheirOwn(t *testing.T) {
	c := newCluster(t)
	var decided []Decision
	i := c.joined("web1", orders)
	c.registrar.cfg.Record = func(_ context.Context, d Decision) error { decided = append(decided, d); return nil }
	certificate, err := i.WorkloadCertificate(t.Context(), c.wire("web1"), orders)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.CheckWorkload(certificate, orders); err != nil {
		t.Error(err)
	}
	if err := i.CheckWorkload(certificate, billing); !errors.Is(err, ErrPeer) {
		t.Errorf("taken for another service's: %v", err)
	}
	lane, err := i.Certificate(orders)
	if err != nil {
		t.Fatal(err)
	}
	if lane.PrivateKey.(*ecdsa.PrivateKey).Equal(certificate.PrivateKey) {
		t.Error("the process has the key of the lane")
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(decided) != 1 || decided[0].Verb != "workload" || len(decided[0].Issued) != 1 || decided[0].Issued[0].Serial != serialOf(leaf) {
		t.Errorf("recorded: %+v", decided)
	}

	// It ends as others do, and is refused when it, or the service, is revoked.
	c.reroster(i, func(r *snapshot.Roster) { r.RevokedSerials = append(r.RevokedSerials, serialOf(leaf)) })
	if err := i.CheckWorkload(certificate, orders); !errors.Is(err, ErrPeer) {
		t.Errorf("revoked: %v", err)
	}
	another, err := i.WorkloadCertificate(t.Context(), c.wire("web1"), orders)
	if err != nil || i.CheckWorkload(another, orders) != nil || i.MayHold(orders) != nil {
		t.Errorf("another: %v", err)
	}
	shown, err := x509.ParseCertificate(another.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.registrar.RevokeCertificate(t.Context(), serialOf(shown), "")
	c.revoke(err, i)
	if err := i.CheckWorkload(another, orders); !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked by its serial number: %v", err)
	}
	if another, err = i.WorkloadCertificate(t.Context(), c.wire("web1"), orders); err != nil || i.CheckWorkload(another, orders) != nil {
		t.Errorf("a third: %v", err)
	}
	c.clock.advance(DefaultTTL + time.Second)
	if err := i.CheckWorkload(another, orders); !errors.Is(err, ErrPeer) {
		t.Errorf("ended: %v", err)
	}
	c.reroster(i, func(r *snapshot.Roster) {
		r.RevokedIdentities = append(r.RevokedIdentities, ServiceID(c.authority.TrustDomain(), orders))
	})
	if err := i.MayHold(orders); !errors.Is(err, ErrPeer) {
		t.Errorf("a service that is revoked: %v", err)
	}
	if _, err := i.WorkloadCertificate(t.Context(), c.wire("web1"), orders); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a service that is revoked: %v", err)
	}
	if _, err := i.WorkloadToken(t.Context(), c.wire("web1"), orders, []string{"db"}); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a token of a service that is revoked: %v", err)
	}
}

func TestNodesGetSVIDsOfTheirServicesAlone(t *testing.T) {
	c := newCluster(t)
	i, other := c.joined("web1", orders), c.joined("web2", billing)
	if _, err := i.WorkloadCertificate(t.Context(), c.wire("web1"), billing); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a service that it may not run: %v", err)
	}
	if _, err := i.WorkloadToken(t.Context(), c.wire("web1"), billing, []string{"db"}); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("a token of a service that it may not run: %v", err)
	}
	if err := i.MayHold(billing); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("it may hold a service that it may not run: %v", err)
	}
	// web2 sends what web1 signed, and signs in the name of web1.
	if _, err := i.WorkloadCertificate(t.Context(), c.wire("web2"), orders); !errors.Is(err, ErrBadRequest) {
		t.Errorf("under another node's name: %v", err)
	}
	forger := c.wire("web1")
	forger.request = func(payload []byte) ([]byte, error) {
		signed := &SignedRequest{}
		if err := proto.Unmarshal(payload, signed); err != nil {
			return nil, err
		}
		var err error
		signed.CurrentSignature, err = signECDSA(other.own.Load().PrivateKey.(*ecdsa.PrivateKey), workloadDomain, signed.GetRequest())
		return marshal(signed, err)
	}
	if _, err := i.WorkloadCertificate(t.Context(), forger, orders); !errors.Is(err, ErrBadRequest) {
		t.Errorf("signed by another node: %v", err)
	}
	// A signature of another kind is none.
	forger.request = func(payload []byte) ([]byte, error) {
		signed := &SignedRequest{}
		if err := proto.Unmarshal(payload, signed); err != nil {
			return nil, err
		}
		var err error
		signed.CurrentSignature, err = i.Sign(signed.GetRequest())
		return marshal(signed, err)
	}
	if _, err := i.WorkloadCertificate(t.Context(), forger, orders); !errors.Is(err, ErrBadRequest) {
		t.Errorf("signed as a registration: %v", err)
	}
	// It asks, by its own key, in the name of another.
	request, err := proto.Marshal(&WorkloadRequest{
		Cluster: c.authority.Cluster(), Node: "web2", Nonce: make([]byte, nonceSize), Certificates: []*ServiceRequest{{Service: "default/orders", Csr: csrFor(t)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signECDSA(i.own.Load().PrivateKey.(*ecdsa.PrivateKey), workloadDomain, request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.registrar.workload(t.Context(), "web1", &SignedRequest{Request: request, CurrentSignature: signature}); !errors.Is(err, ErrBadRequest) {
		t.Errorf("in the name of another node: %v", err)
	}
	// An answer to another request.
	var answer []byte
	stale := c.wire("web1")
	stale.reply = func(reply []byte) ([]byte, error) {
		if answer == nil {
			answer = reply
		}
		return answer, nil
	}
	if _, err := i.WorkloadCertificate(t.Context(), stale, orders); err != nil {
		t.Fatal(err)
	}
	if _, err := i.WorkloadCertificate(t.Context(), stale, orders); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an old answer: %v", err)
	}
	for name, tt := range map[string]struct {
		state NodeState
		want  error
	}{
		"a node that is frozen": {NodeState_NODE_STATE_FROZEN, ErrFrozen}, "one that was removed": {NodeState_NODE_STATE_REMOVED, ErrRemoved},
	} {
		if err := c.registrar.change(t.Context(), "web1", func(r *NodeRecord) error { r.State = tt.state; return nil }); err != nil {
			t.Fatal(err)
		}
		if _, err := i.WorkloadCertificate(t.Context(), c.wire("web1"), orders); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func marshal(m proto.Message, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

func TestRequestsForSVIDsAreBounded(t *testing.T) {
	c := newCluster(t)
	i := c.joined("web1", orders)
	csr := csrFor(t)
	one := &ServiceRequest{Service: "default/orders", Csr: csr}
	for name, request := range map[string]*WorkloadRequest{
		"nothing":              {},
		"too many":             {Certificates: slices.Repeat([]*ServiceRequest{one}, maxWorkloadSVIDs+1)},
		"no key":               {Certificates: []*ServiceRequest{{Service: "default/orders"}}},
		"no service":           {Certificates: []*ServiceRequest{{Service: "orders/", Csr: csr}}},
		"no audience":          {SealingKey: make([]byte, 32), Tokens: []*JWTRequest{{Service: "default/orders"}}},
		"a long audience":      {SealingKey: make([]byte, 32), Tokens: []*JWTRequest{{Service: "default/orders", Audience: []string{string(make([]byte, MaxAudience+1))}}}},
		"nobody may open it":   {Tokens: []*JWTRequest{{Service: "default/orders", Audience: []string{"db"}}}},
		"everybody may":        {SealingKey: make([]byte, 32), Tokens: []*JWTRequest{{Service: "default/orders", Audience: []string{"db"}}}},
		"a key of wrong bytes": {SealingKey: make([]byte, 31), Tokens: []*JWTRequest{{Service: "default/orders", Audience: []string{"db"}}}},
	} {
		if grant, _, _, err := i.askWorkload(t.Context(), c.wire("web1"), request); err == nil {
			t.Errorf("%s: granted %v", name, grant)
		} else if !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokensAreForTheNodeAlone(t *testing.T) {
	c := newCluster(t)
	i := c.joined("web1", orders)
	var seen []byte
	wire := c.wire("web1")
	wire.reply = func(reply []byte) ([]byte, error) { seen = reply; return reply, nil }
	token, err := i.WorkloadToken(t.Context(), wire, orders, []string{"db", "cache"})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(seen, []byte(token)) || bytes.Contains(seen, []byte(token[:20])) {
		t.Error("the token is on the bus")
	}
	claims := c.verify(token)
	if claims.Subject != ServiceID(c.authority.TrustDomain(), orders) || !slices.Equal(claims.Audience, []string{"db", "cache"}) ||
		claims.Expiry.Time().Sub(c.clock.Now()) != JWTLife || claims.ID == "" {
		t.Errorf("%+v", claims)
	}
	// The same request, sent again by who carries it, is answered with something that only the node opens.
	other, err := i.WorkloadToken(t.Context(), wire, orders, []string{"db", "cache"})
	if err != nil || other == token {
		t.Errorf("%v", err)
	}
}

// verify checks a token as who has the public keys of this moment, and returns its claims.
func (c *cluster) verify(token string) (claims jwt.Claims) {
	c.t.Helper()
	if err := c.verifies(token, &claims); err != nil {
		c.t.Fatal(err)
	}
	return claims
}

func (c *cluster) verifies(token string, claims *jwt.Claims) error {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return err
	}
	keys, err := c.authority.JWTKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.GetId() == parsed.Headers[0].KeyID {
			public, err := x509.ParsePKIXPublicKey(k.GetPublicKey())
			if err != nil {
				return err
			}
			return parsed.Claims(public, claims)
		}
	}
	return errors.New("no key of that name is told")
}

// TestKeysOfTokensAreRotated asks each quarter of an hour for a month, and holds that every token is verified until it
// ends by whoever heard of the keys an hour before it was made.
func TestKeysOfTokensAreRotated(t *testing.T) {
	c := newCluster(t)
	var last string
	used, told := map[string]bool{}, map[string]time.Time{}
	start := c.clock.Now()
	for c.clock.Now().Sub(start) < 30*24*time.Hour {
		keys, err := c.authority.JWTKeys()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) > 2 {
			t.Fatalf("%d keys are told", len(keys))
		}
		for _, k := range keys {
			if told[k.GetId()].IsZero() {
				told[k.GetId()] = c.clock.Now()
			}
		}
		token, _, err := c.authority.signJWT("spiffe://"+c.authority.TrustDomain()+"/a", "web1", []string{"db"}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		id := parsed.Headers[0].KeyID
		if known := c.clock.Now().Sub(told[id]); len(used) > 0 && !used[id] && known < jwtKeyAhead {
			t.Errorf("a key signs %s after it was told", known)
		}
		used[id] = true
		c.clock.advance(JWTLife - time.Second)
		c.verify(token)
		last = token
		c.clock.advance(15 * time.Minute)
		if len(used) == 2 { // a controller that starts again goes on
			c.authority.jwtKeys = nil
		}
	}
	if len(used) < 4 || len(used) > 6 {
		t.Errorf("%d keys signed in 30 days", len(used))
	}
	c.clock.advance(2 * jwtKeyLife)
	for range 2 { // the successor, and the end of what it replaces
		if _, err := c.authority.JWTKeys(); err != nil {
			t.Fatal(err)
		}
		c.clock.advance(jwtKeyAhead + jwtKeyAfter + time.Second)
	}
	if err := c.verifies(last, &jwt.Claims{}); err == nil {
		t.Error("a key is told for ever")
	}
}

func TestKeysOfTokensAreSealed(t *testing.T) {
	c := newCluster(t)
	if _, err := c.authority.JWTKeys(); err != nil {
		t.Fatal(err)
	}
	stored, err := c.authority.Secret(jwtKeysSecret)
	if err != nil {
		t.Fatal(err)
	}
	var ring JWTKeys
	if err := proto.Unmarshal(stored, &ring); err != nil || len(ring.GetKeys()) != 1 {
		t.Fatal(err, len(ring.GetKeys()))
	}
	file, err := os.ReadFile(filepath.Join(c.authority.cfg.Dir, dbFile))
	if err != nil {
		t.Fatal(err)
	}
	if key := ring.GetKeys()[0].GetKey(); bytes.Contains(file, key) || bytes.Contains(file, []byte(base64.StdEncoding.EncodeToString(key))) {
		t.Error("the key is in ca.db as it is")
	}
}

// TestKeysOfTokensThatCannotBeStored are not used: a token of a key that a restart forgets could be verified by nobody.
func TestKeysOfTokensThatCannotBeStored(t *testing.T) {
	c := newCluster(t)
	before, err := c.authority.JWTKeys()
	if err != nil {
		t.Fatal(err)
	}
	c.clock.advance(jwtKeyLife)
	if err := c.authority.db.Close(); err != nil { // as a disk that fails
		t.Fatal(err)
	}
	after, err := c.authority.JWTKeys()
	if err != nil || len(after) != 1 || after[0].GetId() != before[0].GetId() {
		t.Errorf("%d keys are told, %v", len(after), err)
	}
	c.authority.jwtKeys = []jwtKey{}
	if keys, err := c.authority.JWTKeys(); err == nil {
		t.Errorf("the first key is told, and was not stored: %v", keys)
	}
	c.authority = openAuthority(t, c.authority.cfg)
	if err := c.authority.PutSecret(jwtKeysSecret, []byte("\xff")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.authority.JWTKeys(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("keys that are damaged: %v", err)
	}
	if stored, err := c.authority.Secret(jwtKeysSecret); err != nil || string(stored) != "\xff" {
		t.Errorf("keys that are damaged are replaced: %x, %v", stored, err)
	}
}

// TestAnswersWithTheWrongCertificates are refused, though a controller signed them.
func TestAnswersWithTheWrongCertificates(t *testing.T) {
	c, other := newCluster(t), newCluster(t)
	i := c.joined("web1", orders)
	issue := func(by *cluster, csr []byte, id string) *ServiceGrant {
		t.Helper()
		chain, err := by.authority.IssueSVID(csr, id, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &ServiceGrant{Service: "default/orders", Chain: chain}
	}
	id := ServiceID(testDomain, orders)
	for _, tt := range []struct {
		name  string
		grant func(csr []byte) []*ServiceGrant
		wrong bool
	}{
		{"what was asked for", func(csr []byte) []*ServiceGrant { return []*ServiceGrant{issue(c, csr, id)} }, false},
		{"of another service", func(csr []byte) []*ServiceGrant {
			return []*ServiceGrant{issue(c, csr, ServiceID(testDomain, billing))}
		}, true},
		{"of another key", func([]byte) []*ServiceGrant { return []*ServiceGrant{issue(c, csrFor(t), id)} }, true},
		{"of another root", func(csr []byte) []*ServiceGrant { return []*ServiceGrant{issue(other, csr, id)} }, true},
		{"two", func(csr []byte) []*ServiceGrant {
			return []*ServiceGrant{issue(c, csr, id), issue(c, csr, id)}
		}, true},
		{"none", func([]byte) []*ServiceGrant { return nil }, true},
	} {
		request, wire := &SignedRequest{}, c.wire("web1")
		wire.request = func(payload []byte) ([]byte, error) { return payload, proto.Unmarshal(payload, request) }
		wire.reply = func([]byte) ([]byte, error) {
			asked := &WorkloadRequest{}
			if err := proto.Unmarshal(request.GetRequest(), asked); err != nil {
				return nil, err
			}
			return c.registrar.answer(request.GetRequest(), &Reply{Workload: &WorkloadGrant{Certificates: tt.grant(asked.GetCertificates()[0].GetCsr())}}, nil)
		}
		certificate, err := i.WorkloadCertificate(t.Context(), wire, orders)
		if errors.Is(err, ErrUntrusted) != tt.wrong || (certificate == nil) != tt.wrong {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.name == "what was asked for" {
			key, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			certificate.PrivateKey = key
			if err := i.CheckWorkload(certificate, orders); !errors.Is(err, ErrPeer) {
				t.Errorf("one that was kept with another key: %v", err)
			}
		}
	}
	// While the lane's certificate of a service is revoked its processes get none.
	_, err := c.registrar.RevokeCertificate(t.Context(), leafSerial(t, i, orders), "")
	c.revoke(err, i)
	if err := i.MayHold(orders); err == nil {
		t.Error("a process may hold what its node may not show")
	}
}
