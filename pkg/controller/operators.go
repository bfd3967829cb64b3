package controller

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

const (
	// operatorPrefix is where the registry of nodes keeps operators' tokens, each under its id.
	operatorPrefix = "sennit.registry.operator."
	// tokenPrefix begins every operator's token, so that who finds one knows what it is: sop1.<id>.<secret>.
	tokenPrefix = "sop1."

	tokenIDSize     = 8  // bytes
	tokenSecretSize = 32 // bytes

	defaultTokenTTL = 12 * time.Hour
	maxTokenTTL     = 365 * 24 * time.Hour
	keepExpired     = 7 * 24 * time.Hour // that expired tokens are listed

	maxOperatorTokens = 1000 // that are good at once
)

var (
	errTokenRefused = errors.New("the token is not one of this cluster's, or was taken back (make another with `sennit operator token NAME`, or a kubeconfig with `sennit kubeconfig` on the controller's host)")
	errNoSuchToken  = errors.New("there is no such token")
)

// operators are the bearer tokens of the API. They are kept in the registry, so that every controller knows them, and only
// as hashes: who reads the registry cannot use them. It is safe for concurrent use.
type operators struct {
	records *bus.Records
	log     *slog.Logger
	now     func() time.Time
	bell    bell
	current chan struct{} // closed when all that was stored before this start is read
	read    bus.Progress

	mu     sync.Mutex
	tokens map[string]*operatorToken // by id; without those that were taken back
}

// An operatorToken is what is kept of a token.
type operatorToken struct {
	User    string    `json:"user,omitempty"`
	Groups  []string  `json:"groups,omitempty"`
	Hash    []byte    `json:"hash,omitempty"` // SHA-256 of the token, whose secret has 256 random bits
	Made    time.Time `json:"made"`
	By      string    `json:"by,omitempty"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked,omitempty"`

	id       string
	sequence uint64             // of its record
	lives    context.Context    // ends when it expires or is taken back; what is answered to its holder ends then
	end      context.CancelFunc // of lives
}

func newOperators(records *bus.Records, log *slog.Logger, now func() time.Time) *operators {
	return &operators{records: records, log: log, now: now, tokens: map[string]*operatorToken{}, current: make(chan struct{})}
}

// run follows the registry until ctx ends.
func (o *operators) run(ctx context.Context) error {
	read := false
	reached := func(last uint64) {
		if !read && o.read.At() >= last {
			read = true
			close(o.current)
		}
	}
	return followRegistry(ctx, o.records, o.log.With("for", "operators' tokens"), &o.read, reached, func(e bus.Entry, last uint64) {
		o.take(e)
		reached(last)
	})
}

// take takes in one record of the registry. One that cannot be read lets nobody in.
func (o *operators) take(e bus.Entry) {
	id, ours := strings.CutPrefix(e.Subject, operatorPrefix)
	o.mu.Lock()
	defer o.mu.Unlock()
	if ours {
		if old := o.tokens[id]; old != nil {
			old.end()
			delete(o.tokens, id)
		}
		t := &operatorToken{}
		switch err := json.Unmarshal(e.Data, t); {
		case err != nil:
			o.log.Error("an operator's token cannot be read", "token", id, "err", err)
		case !t.Revoked:
			t.id, t.sequence = id, e.Sequence
			t.lives, t.end = context.WithTimeout(context.Background(), t.Expires.Sub(o.now()))
			o.tokens[id] = t
		}
		o.bell.ring()
	}
	o.read.Reach(e.Sequence)
}

// reached waits until a record is taken in.
func (o *operators) reached(ctx context.Context, sequence uint64) error {
	if o.read.Wait(ctx, sequence) != nil {
		return fmt.Errorf("the token is stored and not in effect yet: %w", context.Cause(ctx))
	}
	return nil
}

// create makes a token for an operator and groups, whom the caller checked; it is stored before it is shown, and good from
// then on.
func (o *operators) create(ctx context.Context, user string, groups []string, by string, ttl time.Duration) (*operatorToken, string, error) {
	if ttl <= 0 || ttl > maxTokenTTL {
		return nil, "", fmt.Errorf("an operator's token that lives %s: want more than 0 and at most %s", ttl, maxTokenTTL)
	}
	if err := o.tidy(ctx); err != nil {
		return nil, "", err
	}
	random := make([]byte, tokenIDSize+tokenSecretSize)
	_, _ = rand.Read(random) // does not fail
	id := hex.EncodeToString(random[:tokenIDSize])
	token := tokenPrefix + id + "." + base64.RawURLEncoding.EncodeToString(random[tokenIDSize:])
	hash := sha256.Sum256([]byte(token))
	now := o.now()
	t := &operatorToken{User: user, Groups: groups, Hash: hash[:], Made: now, By: by, Expires: now.Add(ttl), id: id}
	data, err := json.Marshal(t)
	if err != nil {
		return nil, "", err
	}
	sequence, err := o.records.Append(ctx, operatorPrefix+id, data, 0)
	if err != nil {
		return nil, "", fmt.Errorf("store a token of %s: %w", user, err)
	}
	return t, token, o.reached(ctx, sequence)
}

// tidy forgets tokens that expired long ago, and says where there are too many.
func (o *operators) tidy(ctx context.Context) error {
	now, good := o.now(), 0
	var old []*operatorToken
	o.mu.Lock()
	for id, t := range o.tokens {
		switch {
		case now.Before(t.Expires):
			good++
		case now.Sub(t.Expires) > keepExpired:
			old = append(old, t)
			delete(o.tokens, id)
		}
	}
	o.mu.Unlock()
	if good >= maxOperatorTokens {
		return fmt.Errorf("%d tokens of operators are good, which is as many as there may be: take some back (`sennit operator list` shows them)", good)
	}
	for _, t := range old {
		if err := o.records.Forget(ctx, operatorPrefix+t.id, t.sequence); err != nil {
			o.log.Warn("an operator's token that expired stays stored", "token", t.id, "err", err)
		}
	}
	return nil
}

// revoke takes a token back: whoever shows it is refused when revoke returns, and what is being answered to him ends.
func (o *operators) revoke(ctx context.Context, id string) error {
	o.mu.Lock()
	t := o.tokens[id]
	o.mu.Unlock()
	if t == nil {
		return fmt.Errorf("%w: %q", errNoSuchToken, id)
	}
	ctx = context.WithoutCancel(ctx) // it ends with the token where somebody takes back his own
	sequence, err := t.takeBack(ctx, o.records)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	return o.reached(ctx, sequence)
}

// takeBack stores that a token is taken back, and returns the sequence of that record.
func (t *operatorToken) takeBack(ctx context.Context, records *bus.Records) (uint64, error) {
	data, err := json.Marshal(&operatorToken{User: t.User, Made: t.Made, Expires: t.Expires, Revoked: true})
	if err != nil {
		return 0, err
	}
	sequence, err := records.Append(ctx, operatorPrefix+t.id, data, t.sequence)
	if err != nil {
		return 0, fmt.Errorf("take back the token %s of %s: %w", t.id, t.User, err)
	}
	return sequence, nil
}

// list returns the tokens that are good or expired a short time ago, by operator, and the version of the records that
// they are from.
func (o *operators) list(ctx context.Context) ([]*operatorToken, uint64, error) {
	last, err := o.records.Last(ctx)
	if err == nil {
		err = o.reached(ctx, last)
	}
	if err != nil {
		return nil, 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []*operatorToken
	for _, t := range o.tokens {
		if o.now().Sub(t.Expires) <= keepExpired {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *operatorToken) int { return strings.Compare(a.User+"\x00"+a.id, b.User+"\x00"+b.id) })
	return all, o.read.At(), nil
}

// authenticate returns who holds a token. The sender may have made all of it up.
func (o *operators) authenticate(ctx context.Context, token string) (apiserver.Identity, error) {
	select {
	case <-o.current: // before, tokens that are good are not known yet, and some that were taken back are
	case <-ctx.Done():
		return apiserver.Identity{}, fmt.Errorf("wait for operators' tokens to be read: %w", context.Cause(ctx))
	}
	id, ok := tokenID(token)
	if !ok {
		return apiserver.Identity{}, errTokenRefused
	}
	hash := sha256.Sum256([]byte(token))
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.tokens[id]
	if t == nil || subtle.ConstantTimeCompare(t.Hash, hash[:]) != 1 {
		return apiserver.Identity{}, errTokenRefused
	}
	if !o.now().Before(t.Expires) {
		return apiserver.Identity{}, fmt.Errorf("the token %s of %s expired at %s", id, t.User, t.Expires.UTC().Format(time.RFC3339))
	}
	return apiserver.Identity{User: t.User, Groups: t.Groups, Token: id, Lives: t.lives}, nil
}

// tokenID takes the id out of what has the form of an operator's token.
func tokenID(token string) (id string, ok bool) {
	rest, ours := strings.CutPrefix(token, tokenPrefix)
	id, secret, cut := strings.Cut(rest, ".")
	return id, ours && cut && len(id) == 2*tokenIDSize && len(secret) == base64.RawURLEncoding.EncodedLen(tokenSecretSize)
}
