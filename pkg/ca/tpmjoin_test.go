package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/tpm"
	"github.com/sennit-mesh/sennit/pkg/tpm/tpmtest"
)

// byKey is a token's rule for one TPM, byMaker for all of its maker.
func byKey(s *tpmtest.Software) *Attest {
	return &Attest{Provider: attest.TPM, TPMs: attest.TPMs{Keys: []string{attest.EndorsementHash(s.EndorsementKey())}}}
}

func byMaker(s *tpmtest.Software) *Attest {
	return &Attest{Provider: attest.TPM, TPMs: attest.TPMs{Authorities: []*x509.Certificate{s.Maker.Certificate}}}
}

// joinByTPM starts a new host that has a TPM.
func (c *cluster) joinByTPM(token *Token, t TPM) (*Identity, error) {
	i := openIdentity(c.t, IdentityConfig{Dir: c.t.TempDir(), Now: c.clock.Now, TPM: t})
	return i, i.Join(c.t.Context(), token, c.wire("web").dial)
}

func TestHostsJoinByTheirTPM(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, kind := range map[string]tpmtest.Kind{"RSA": tpmtest.RSA, "P-256": tpmtest.P256} {
		software := tpmtest.NewSoftware(t, kind)
		i, err := c.joinByTPM(c.pool(byMaker(software)), software)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := "tpm-" + attest.EndorsementHash(software.EndorsementKey())[:32]; i.Node() != want || !i.KeyInTPM() {
			t.Errorf("%s: node %s, want %s; in the TPM: %t", name, i.Node(), want, i.KeyInTPM())
		}
		if _, err := c.joinByTPM(c.pool(byKey(software)), software); !errors.Is(err, ErrNameTaken) {
			t.Errorf("%s: a second host has the same TPM: %v", name, err)
		}
	}
	tokens := readDirectory(t, c.store).Tokens()
	if len(tokens) != 4 || tokens[0].Attest == nil || len(tokens[0].Attest.TPMs.Keys)+len(tokens[0].Attest.TPMs.Authorities) != 1 {
		t.Errorf("tokens: %+v", tokens)
	}
}

// TestAnEmulatorJoins is the whole of it with a real TPM's code, from joining to a renewal.
func TestAnEmulatorJoins(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]tpmtest.Kind{"RSA": tpmtest.RSA, "P-256": tpmtest.P256} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			emulator := tpmtest.Start(t, kind)
			c := newCluster(t)
			token := c.pool(&Attest{Provider: attest.TPM, TPMs: attest.TPMs{Authorities: emulator.Authority}})
			i, err := c.joinByTPM(token, tpm.New(emulator.Socket))
			if err != nil {
				t.Fatal(err)
			}
			before := i.current().GetKey()
			if err := i.Renew(t.Context(), c.wire(i.Node())); err != nil {
				t.Fatal(err)
			}
			if after := i.current(); !i.KeyInTPM() || bytes.Equal(before, after.GetKey()) || after.GetPendingKey() != nil {
				t.Error("the key of the next generation is not a new one in the TPM, with nothing left of the one before")
			}
			signature, err := i.Sign([]byte("payload"))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.registrar.VerifyNode(t.Context(), i.Node(), []byte("payload"), signature); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTPMsThatAreRefused(t *testing.T) {
	t.Parallel()
	other := tpmtest.NewSoftware(t, tpmtest.RSA)
	exported := attest.KeyPublic()
	exported.ObjectAttributes.FixedTPM, exported.ObjectAttributes.FixedParent = false, false
	imported := attest.KeyPublic()
	imported.ObjectAttributes.SensitiveDataOrigin = false
	for _, tt := range []struct {
		name   string
		change func(s *tpmtest.Software)
		attest func(s *tpmtest.Software) *Attest
		says   string
	}{
		{"another TPM", func(*tpmtest.Software) {}, func(*tpmtest.Software) *Attest { return byKey(other) }, "not for the TPM of"},
		{"of another maker", func(*tpmtest.Software) {}, func(*tpmtest.Software) *Attest { return byMaker(other) }, "unknown authority"},
		{"without a certificate", func(s *tpmtest.Software) { s.Certificate = nil }, byMaker, "0 bytes"},
		{"with another's certificate", func(s *tpmtest.Software) { s.Certificate = other.Certificate }, byMaker, "of another key"},
		{"a key that can leave it", func(s *tpmtest.Software) { s.Node = exported }, byKey, "can leave it"},
		{"a key that was made outside", func(s *tpmtest.Software) { s.Node = imported }, byKey, "can leave it"},
		{"an attestation key that signs anything", func(s *tpmtest.Software) { s.Attestation = attest.KeyPublic() }, byKey, "another attestation key"},
		{"of another request", func(s *tpmtest.Software) {
			s.Said = func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) }
		}, byKey, "for another request"},
		{"another statement", func(s *tpmtest.Software) {
			s.Said = func(a *tpm2.TPMSAttest) { a.Magic++ }
		}, byKey, "no TPM said it"},
		{"without the secret", func(s *tpmtest.Software) {
			s.Proved = func(p *attest.TPMProof) { p.Secret = make([]byte, 32) }
		}, byKey, "did not open"},
		{"signed by nobody", func(s *tpmtest.Software) {
			s.Proved = func(p *attest.TPMProof) { p.Signature[9] ^= 1 }
		}, byKey, "did not sign"},
		{"cut", func(s *tpmtest.Software) {
			s.Proved = func(p *attest.TPMProof) { p.Info = p.Info[:20] }
		}, byKey, "did not sign"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			software := tpmtest.NewSoftware(t, tpmtest.RSA)
			tt.change(software)
			i, err := c.joinByTPM(c.pool(tt.attest(software)), software)
			if err == nil || !strings.Contains(err.Error(), tt.says) || i.Joined() {
				t.Errorf("joined: %t, %v", i.Joined(), err)
			}
			if _, err := c.registrar.Node(t.Context(), attest.TPMInstance(software.EndorsementKey()).Name()); !errors.Is(err, ErrUnknownNode) {
				t.Errorf("it is in the registry: %v", err)
			}
		})
	}
}

// A meddler sits between a host and the controllers, and is the host: it signs what it changed.
type meddler struct {
	Requester

	token   *Token
	host    *Identity
	as      *Token // what it signs with the second time; nil: token
	change  func(second *JoinRequest)
	last    *JoinRequest
	refused error // by the controller
}

func (m *meddler) dial(context.Context, bus.ConnConfig) (Requester, func(), error) {
	return m, func() {}, nil
}

func (m *meddler) Request(ctx context.Context, verb string, payload []byte) ([]byte, error) {
	signed, request := &SignedRequest{}, &JoinRequest{}
	if err := errors.Join(proto.Unmarshal(payload, signed), proto.Unmarshal(signed.GetRequest(), request)); err != nil {
		return nil, err
	}
	m.last = request
	if request.GetTpm().GetChallenge() == nil {
		return m.Requester.Request(ctx, verb, payload)
	}
	m.change(request)
	key, err := m.host.openKey(m.host.current().GetPendingKey())
	if err != nil {
		return nil, err
	}
	token := m.token
	if m.as != nil {
		token = m.as
	}
	_, answer, err := askToJoin(ctx, m.Requester, token, key, request)
	if err != nil {
		return nil, err
	}
	reply := &SignedReply{}
	said := &Reply{}
	if err := errors.Join(proto.Unmarshal(answer, reply), proto.Unmarshal(reply.GetReply(), said)); err != nil {
		return nil, err
	}
	if said.GetRefusal() != nil {
		m.refused = said.GetRefusal().err()
	}
	return answer, nil
}

// meddle has a host with a TPM join through a meddler.
func (c *cluster) meddle(token *Token, t TPM, change func(*meddler, *JoinRequest)) *meddler {
	m := &meddler{Requester: c.wire("web"), token: token}
	m.change = func(r *JoinRequest) { change(m, r) }
	m.host = openIdentity(c.t, IdentityConfig{Dir: c.t.TempDir(), Now: c.clock.Now, TPM: t})
	_ = m.host.Join(c.t.Context(), token, m.dial) // the test looks at what the controller said
	return m
}

// TestChallengesAreForOneHost answers with what another host was asked, too late, and with what no controller made.
func TestChallengesAreForOneHost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(c *cluster, of, by *JoinRequest) // by asks to join, of has joined
		says   string
	}{
		{"that another host's TPM answered", func(_ *cluster, of, by *JoinRequest) { by.Tpm = of.GetTpm() }, "another request"},
		{"that was signed by nobody", func(_ *cluster, _, by *JoinRequest) { by.GetTpm().GetChallenge().Signature[0] ^= 1 }, "no controller made"},
		{"that the host made", func(_ *cluster, _, by *JoinRequest) { by.GetTpm().GetChallenge().Challenge = nil }, "no controller made"},
		{"after its end", func(c *cluster, _, by *JoinRequest) {
			c.clock.advance(challengeTTL + time.Second)
			by.GetWanted().SentUnixMs = c.clock.Now().UnixMilli()
		}, "was answered after"},
		{"with another attestation key", func(_ *cluster, of, by *JoinRequest) { by.GetTpm().AttestationKey = of.GetTpm().GetAttestationKey() }, "another request"},
		{"with another endorsement key of ours", func(_ *cluster, of, by *JoinRequest) {
			by.GetTpm().EndorsementKey, by.GetTpm().Certificate = of.GetTpm().GetEndorsementKey(), of.GetTpm().GetCertificate()
		}, "another request"},
		{"without evidence", func(_ *cluster, _, by *JoinRequest) { by.Tpm = nil }, "shows none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			one, two := tpmtest.NewSoftware(t, tpmtest.P256), tpmtest.NewSoftware(t, tpmtest.P256)
			token := c.pool(&Attest{Provider: attest.TPM, TPMs: attest.TPMs{Authorities: []*x509.Certificate{one.Maker.Certificate, two.Maker.Certificate}}})
			joined := c.meddle(token, one, func(*meddler, *JoinRequest) {})
			if !joined.host.Joined() {
				t.Fatal(joined.refused)
			}
			m := c.meddle(token, two, func(_ *meddler, r *JoinRequest) { tt.change(c, joined.last, r) })
			if !errors.Is(m.refused, ErrNotAttested) || !strings.Contains(m.refused.Error(), tt.says) {
				t.Errorf("refused with %v", m.refused)
			}
			if node, err := c.registrar.Node(t.Context(), attest.TPMInstance(two.EndorsementKey()).Name()); !errors.Is(err, ErrUnknownNode) {
				t.Errorf("in the registry: %+v, %v", node, err)
			}
		})
	}
}

// TestChallengesAreForOneToken answers with one token what was asked with another.
func TestChallengesAreForOneToken(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	token, other := c.pool(byKey(software)), c.pool(byKey(software))
	m := c.meddle(token, software, func(m *meddler, r *JoinRequest) {
		digest := other.digest()
		m.as, r.TokenId, r.TokenDigest = other, other.body.GetId(), digest[:]
	})
	if !errors.Is(m.refused, ErrNotAttested) || !strings.Contains(m.refused.Error(), "another request") {
		t.Errorf("refused with %v", m.refused)
	}
}

// TestATPMComesBack has a host lose its state: it joins again when its node was removed, and not when it was revoked.
func TestATPMComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	token, node := c.pool(byKey(software)), attest.TPMInstance(software.EndorsementKey()).Name()
	if _, err := c.joinByTPM(token, software); err != nil {
		t.Fatal(err)
	}
	if err := c.registrar.Remove(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if _, err := c.joinByTPM(token, software); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
	if err := c.registrar.RevokeNode(t.Context(), node, "lost"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.joinByTPM(token, software); !errors.Is(err, ErrRemoved) {
		t.Errorf("after it was revoked: %v", err)
	}
}

// TestAJoinBegunInTheFileIsBegunAnew has the first try fail before the node is told of the TPM.
func TestAJoinBegunInTheFileIsBegunAnew(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir, token := t.TempDir(), c.token("web1", orders)
	away := errors.New("away")
	i := c.identity(dir)
	err := i.Join(t.Context(), token, func(context.Context, bus.ConnConfig) (Requester, func(), error) { return nil, nil, away })
	if !errors.Is(err, away) || inTPM(i.current().GetPendingKey()) {
		t.Fatal(err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	i = openIdentity(t, IdentityConfig{Dir: dir, Now: c.clock.Now, TPM: software, KeysInTPM: true})
	if err := i.Join(t.Context(), token, c.wire("web1").dial); err != nil || !i.KeyInTPM() {
		t.Errorf("in the TPM: %t, %v", i.KeyInTPM(), err)
	}
	state := cloneState(i.current())
	other, err := i.newKey(true)
	if err != nil {
		t.Fatal(err)
	}
	state.Key = other.stored
	if _, err := i.ownCertificate(state); err == nil {
		t.Error("the certificate is of another key")
	}
}

// TestAnotherControllerTakesTheAnswer has the second request go to a controller that knows nothing of the first.
func TestAnotherControllerTakesTheAnswer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	software := tpmtest.NewSoftware(t, tpmtest.RSA)
	m := c.meddle(c.pool(byKey(software)), software, func(m *meddler, _ *JoinRequest) {
		again, err := NewRegistrar(c.registrar.cfg)
		if err != nil {
			t.Error(err)
		}
		m.Requester = &wire{registrar: again, node: "web"}
	})
	if !m.host.Joined() {
		t.Error(m.refused)
	}
}

func TestTokensForTPMs(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	software := tpmtest.NewSoftware(t, tpmtest.RSA)
	key := attest.EndorsementHash(software.EndorsementKey())
	for name, a := range map[string]*Attest{
		"anybody's":            {Provider: attest.TPM},
		"of an account":        {Provider: attest.TPM, Accounts: []string{"a"}, TPMs: byKey(software).TPMs},
		"of both kinds":        {Provider: attest.TPM, TPMs: attest.TPMs{Keys: []string{key}, Authorities: []*x509.Certificate{software.Maker.Certificate}}},
		"that is no hash":      {Provider: attest.TPM, TPMs: attest.TPMs{Keys: []string{"abc"}}},
		"too many":             {Provider: attest.TPM, TPMs: attest.TPMs{Keys: slices.Repeat([]string{key}, maxEndorsements+1)}},
		"of a cloud with keys": {Provider: attest.Amazon, Accounts: []string{"a"}, TPMs: attest.TPMs{Keys: []string{key}}},
	} {
		if _, err := c.registrar.CreateToken(t.Context(), TokenRequest{Node: "web", Attest: a}); err == nil {
			t.Errorf("a token for TPMs: %s", name)
		}
	}
	if _, err := c.joinByTPM(c.pool(byKey(software)), nil); !errors.Is(err, ErrNoTPM) {
		t.Errorf("a host without a TPM: %v", err)
	}
}

// TestKeysMoveIntoTheTPM has a node that joined with a key in its file get one in the TPM with the next generation, and
// keep there.
func TestKeysMoveIntoTheTPM(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	dir := t.TempDir()
	i := c.identity(dir)
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	if i.KeyInTPM() {
		t.Error("in a TPM that nobody gave")
	}
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	for _, told := range []bool{true, false} {
		if err := i.Close(); err != nil {
			t.Fatal(err)
		}
		i = openIdentity(t, IdentityConfig{Dir: dir, Now: c.clock.Now, TPM: software, KeysInTPM: told})
		if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
			t.Fatal(err)
		}
		if !i.KeyInTPM() {
			t.Errorf("told %t: the key is not in the TPM", told)
		}
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	if i, err := NewIdentity(IdentityConfig{Dir: dir, Now: c.clock.Now}); !errors.Is(err, ErrNoTPM) {
		t.Errorf("without the TPM: %v, %v", i, err)
	}
}

// TestARenewalInTheTPMIsRepeated has the answer be lost: the key that was made is in identity.db, and asked for again.
func TestARenewalInTheTPMIsRepeated(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	software := tpmtest.NewSoftware(t, tpmtest.P256)
	i := openIdentity(t, IdentityConfig{Dir: t.TempDir(), Now: c.clock.Now, TPM: software, KeysInTPM: true})
	if err := i.Join(t.Context(), c.token("web1", orders), c.wire("web1").dial); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("lost")
	if err := i.Renew(t.Context(), losing{c.wire("web1"), lost}); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	pending := i.current().GetPendingKey()
	if !inTPM(pending) {
		t.Error("the key was not stored before it was sent")
	}
	if err := i.Renew(t.Context(), c.wire("web1")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(i.current().GetKey(), pending) {
		t.Error("another key was made")
	}
}

type losing struct {
	Requester
	err error
}

func (l losing) Request(ctx context.Context, verb string, payload []byte) ([]byte, error) {
	if _, err := l.Requester.Request(ctx, verb, payload); err != nil {
		return nil, err
	}
	return nil, l.err
}
