// Package idtoken recognises people by ID tokens of an OpenID Connect provider (OpenID Connect Core 1.0 §3.1.3.7), as
// kube-apiserver does: a token of the issuer, for the client's id, that has not expired, names a user and groups.
//
// Whoever sends a token may have made all of it up. Signatures are checked against the issuer's keys, which are fetched over
// HTTPS and kept: while the issuer is away, tokens that were seen are good until they expire, and so are new ones of keys
// that are known. What a stranger can make happen is bounded: the size of a token, how many are checked at once, how often
// the issuer is asked, how many tokens are remembered.
//
// Start reading at Verifier.Identify.
package idtoken

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	maxToken    = 16 << 10 // bytes
	maxAtOnce   = 8        // tokens that are checked at the same time
	maxKnown    = 4096     // tokens that are remembered
	maxGroups   = 256
	maxNameSize = 1024 // bytes of a user's or group's name
)

// algorithms that sign ID tokens: none is asked for by a token that is not here, "none" and keys of the client's least of all.
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// Config says whose tokens are good.
type Config struct {
	Issuer   string // https URL, as the provider's tokens have it
	ClientID string // that tokens must be for
	// UsernameClaim is the claim that names the user, GroupsClaim that which names groups (a string or a list); "" for
	// none. What they name gets the prefix before it: other authorities' users and groups must not have the same.
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	Client                        *http.Client     // for the issuer; redirects of others are not followed. nil: a default one
	Now                           func() time.Time // nil: time.Now
	Log                           *slog.Logger     // nil: slog.Default
}

// A Person is whom a token stands for.
type Person struct {
	User    string
	Groups  []string
	Expires time.Time
	Token   string // names the token in the audit
}

var (
	// ErrUnreachable says that the issuer's keys are not known and cannot be had.
	ErrUnreachable = errors.New("the identity provider cannot be reached, and its keys are not known yet")
	// ErrNotOurs says that a token is not of the issuer.
	ErrNotOurs = errors.New("it is no ID token of the configured issuer")
)

// A Verifier recognises people. It is safe for concurrent use.
type Verifier struct {
	cfg      Config
	provider atomic.Pointer[oidc.IDTokenVerifier] // nil: the issuer was not reached yet
	checking chan struct{}

	mu         sync.Mutex
	known, old map[[sha256.Size]byte]Person // by the token's hash; old is the generation before
}

// New checks the configuration, and asks the issuer for nothing: Run does.
func New(cfg Config) (*Verifier, error) {
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("the issuer must be a URL as https://login.example.com, is %q", cfg.Issuer)
	}
	if cfg.ClientID == "" || cfg.UsernameClaim == "" {
		return nil, errors.New("an issuer needs a client id, which its tokens must be for, and a claim that names users")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{}
	}
	client := *cfg.Client
	client.Timeout = fetchTimeout
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Transport = &fetcher{next: client.Transport, now: cfg.Now, last: map[string]fetched{}}
	cfg.Client = &client
	return &Verifier{cfg: cfg, checking: make(chan struct{}, maxAtOnce), known: map[[sha256.Size]byte]Person{}}, nil
}

// Run finds the issuer's keys, again and again until it is reached or ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	for pause := refetch; ; pause = min(2*pause, 5*time.Minute) {
		// The context that keys are fetched with later is this one.
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, v.cfg.Client), v.cfg.Issuer)
		if err == nil {
			v.provider.Store(provider.VerifierContext(oidc.ClientContext(ctx, v.cfg.Client), &oidc.Config{
				ClientID: v.cfg.ClientID, SupportedSigningAlgs: algorithms, Now: v.cfg.Now,
			}))
			v.cfg.Log.Info("the identity provider is known", "issuer", v.cfg.Issuer)
			<-ctx.Done()
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		v.cfg.Log.Warn("the identity provider is not reached; people who sign in there are not let in", "issuer", v.cfg.Issuer, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// Identify returns whom a token stands for.
func (v *Verifier) Identify(ctx context.Context, token string) (Person, error) {
	if len(token) > maxToken {
		return Person{}, fmt.Errorf("it has %d bytes, more than the %d of an ID token", len(token), maxToken)
	}
	hash := sha256.Sum256([]byte(token))
	if p, ok := v.recall(hash); ok {
		if !v.cfg.Now().Before(p.Expires) {
			return Person{}, expired(p.Expires)
		}
		return p, nil
	}
	if !v.issued(token) {
		return Person{}, ErrNotOurs
	}
	provider := v.provider.Load()
	if provider == nil {
		return Person{}, ErrUnreachable
	}
	select {
	case v.checking <- struct{}{}:
		defer func() { <-v.checking }()
	case <-ctx.Done():
		return Person{}, ctx.Err()
	}
	checked, err := provider.Verify(ctx, token)
	var late *oidc.TokenExpiredError
	if errors.As(err, &late) {
		return Person{}, expired(late.Expiry)
	}
	if err != nil { // what the library says may hold what the issuer, or the sender, wrote
		v.cfg.Log.Debug("an ID token is not good", "err", err)
		return Person{}, errors.New("it is not signed by a key of its issuer that is known, or not for this client")
	}
	p, err := v.person(checked)
	if err != nil {
		return Person{}, err
	}
	p.Token = fmt.Sprintf("%x", hash[:8])
	v.remember(hash, p)
	return p, nil
}

func expired(at time.Time) error {
	return fmt.Errorf("it expired at %s (sign in again with `sennit login`)", at.UTC().Format(time.RFC3339))
}

// issued tells whether a token says that the issuer made it. Nothing of it is proven: it is what spares the rest where it is
// not even claimed.
func (v *Verifier) issued(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Issuer string `json:"iss"`
	}
	return err == nil && json.Unmarshal(payload, &claims) == nil && claims.Issuer == v.cfg.Issuer
}

func (v *Verifier) recall(hash [sha256.Size]byte) (Person, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, ok := v.known[hash]
	if !ok {
		if p, ok = v.old[hash]; ok {
			v.keep(hash, p)
		}
	}
	return p, ok
}

func (v *Verifier) remember(hash [sha256.Size]byte, p Person) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(hash, p)
}

// keep stores with the lock held. Where there are too many, those that were not used for longest are forgotten.
func (v *Verifier) keep(hash [sha256.Size]byte, p Person) {
	if len(v.known) >= maxKnown/2 {
		v.old, v.known = v.known, map[[sha256.Size]byte]Person{}
	}
	v.known[hash] = p
}
