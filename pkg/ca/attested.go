package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/pkg/attest"
)

// A token can be for many hosts, each of which a cloud has to vouch for: it goes into a machine image, and every machine
// that starts from it joins by itself, as a node that is named for the machine ("aws-i-0abc"). Who has the token alone is
// let in nowhere, and who has evidence alone neither.
//
// Evidence is for the node's key where the cloud puts a challenge into it. Amazon's is not: it admits a machine once, ever.

// attestTTL is how long a token for many hosts may be used.
const attestTTL = 366 * 24 * time.Hour

// attestTime is how long a host waits for the metadata service, which is on the same machine.
const attestTime = 10 * time.Second

// An Attest says which machines of a cloud a token admits.
type Attest struct {
	Provider attest.Provider
	Accounts []string    // at least one, of a cloud
	Places   []string    // regions of AWS, zones of Google; nil: all
	TPMs     attest.TPMs // with attest.TPM, in the place of the two
}

// Check refuses what would admit nobody, or anybody.
func (a *Attest) Check() error {
	if a.Provider == attest.TPM {
		return a.checkTPMs()
	}
	switch {
	case len(a.TPMs.Keys)+len(a.TPMs.Authorities) > 0:
		return fmt.Errorf("machines of %q: endorsement keys are those of TPMs", a.Provider)
	case !slices.Contains(attest.Providers, a.Provider):
		return fmt.Errorf("machines of %q: want one of %q, or %q", a.Provider, attest.Providers, attest.TPM)
	case len(a.Accounts) == 0:
		return fmt.Errorf("machines of %s: say of which accounts; anybody's would be let in", a.Provider)
	case len(a.Accounts) > maxServices, len(a.Places) > maxServices:
		return fmt.Errorf("machines of %s: at most %d accounts and places", a.Provider, maxServices)
	case a.Provider == attest.Azure && len(a.Places) > 0:
		return errors.New("machines of azure: Azure does not say where a machine is")
	}
	return nil
}

// attest is what a token's record says of machines; nil: it is for one host.
func (t *TokenRecord) attest() *Attest {
	a := t.GetAttestation()
	if a == nil {
		return nil
	}
	return &Attest{Provider: attest.Provider(a.GetProvider()), Accounts: a.GetAccounts(), Places: a.GetPlaces(), TPMs: tpmsOf(a)}
}

// challenge is what evidence has to be made for: this token, and the key of the node that it is to admit.
func challenge(cluster string, token, key []byte) attest.Challenge {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(attestDomain), []byte(cluster), token, key} {
		fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return attest.Challenge(h.Sum(nil))
}

// attest asks this machine's cloud for evidence for a key, and returns what the node is called.
func (i *Identity) attest(ctx context.Context, token *Token, key *nodeKey) (evidence []byte, node string, err error) {
	ctx, cancel := context.WithTimeout(ctx, attestTime)
	defer cancel()
	provider := attest.Provider(token.body.GetAttest())
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	evidence, err = attest.Ask(ctx, direct, i.cfg.Metadata, provider, challenge(token.Cluster(), token.body.GetId(), key.spki))
	if err != nil {
		return nil, "", fmt.Errorf("%w (the token admits machines of that cloud only)", err)
	}
	instance, err := attest.Read(provider, evidence)
	if err != nil {
		return nil, "", err
	}
	return evidence, instance.Name(), CheckNodeName(instance.Name())
}

// attested returns the machine that a request with a token for many hosts comes from.
func (r *Registrar) attested(token *TokenRecord, request *JoinRequest, key []byte) (*attest.Instance, error) {
	provider := attest.Provider(token.GetAttestation().GetProvider())
	c := challenge(request.GetCluster(), request.GetTokenId(), key)
	instance, err := r.cfg.Attest.Verify(provider, request.GetEvidence(), c, r.cfg.Now())
	if err != nil {
		return nil, refuse(ErrNotAttested, "%v", err)
	}
	if accounts := token.GetAttestation().GetAccounts(); !slices.Contains(accounts, instance.Account) {
		return nil, refuse(ErrNotAttested, "%s is of account %s, and the token is for %q", instance.Name(), instance.Account, accounts)
	}
	if places := token.GetAttestation().GetPlaces(); len(places) > 0 && !slices.Contains(places, instance.Place) {
		return nil, refuse(ErrNotAttested, "%s is in %s, and the token is for %q", instance.Name(), instance.Place, places)
	}
	if err := CheckNodeName(instance.Name()); err != nil {
		return nil, refuse(ErrNotAttested, "%v", err)
	}
	return instance, nil
}

// admittedBefore refuses evidence that does not end for a machine that the registry has known.
func admittedBefore(node string) error {
	return refuse(ErrNotAttested, "%s joined before, and Amazon's evidence admits a machine once; make a token for it with `sennit join-token create --node %s`",
		node, node)
}
