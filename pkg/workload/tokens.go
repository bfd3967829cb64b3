package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	maxTokens = 1024 // that are remembered

	// How many new tokens the processes of one service, and all of the host, may have of the controllers: a node's requests
	// to them are counted, and others of its own must not wait for these.
	serviceRate, serviceBurst = 2, 20
	hostRate, hostBurst       = 5, 30
)

var errTooMany = errors.New("too many JWT-SVIDs are asked for: ask for fewer audiences, or again in a moment")

// tokens remembers JWT-SVIDs until half of their life is over, so that a process may ask as often as it likes.
type tokens struct {
	cfg    Config
	asking singleflight.Group
	host   *rate.Limiter

	mu    sync.Mutex
	known map[string]token
	rates map[exchange.ServiceName]*rate.Limiter // of the services that are declared here
}

type token struct {
	encoded string
	until   time.Time // it is given out
	origin
}

func newTokens(cfg Config) *tokens {
	return &tokens{cfg: cfg, host: rate.NewLimiter(hostRate, hostBurst), known: map[string]token{}, rates: map[exchange.ServiceName]*rate.Limiter{}}
}

// get returns a token of a service for an audience.
func (t *tokens) get(ctx context.Context, service exchange.ServiceName, audience []string) (string, error) {
	audience = slices.Compact(slices.Sorted(slices.Values(audience)))
	key := service.String() + "\x00" + strings.Join(lengths(audience), "\x00")
	id := ca.ServiceID(t.cfg.TrustDomain, service)
	if found, ok := t.find(key, id); ok {
		return found, nil
	}
	answer := t.asking.DoChan(key, func() (any, error) {
		if found, ok := t.find(key, id); ok {
			return found, nil
		}
		if !t.allow(service) {
			return nil, errTooMany
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
		defer cancel()
		encoded, err := t.cfg.Issuer.Token(ctx, service, audience)
		if err != nil {
			return nil, err
		}
		ends, of, err := endOf(encoded)
		if err != nil {
			return nil, fmt.Errorf("read a JWT-SVID of %s: %w", service, err)
		}
		now := t.cfg.Now()
		t.remember(key, token{encoded, now.Add(ends.Sub(now) / 2), of})
		return encoded, nil
	})
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case a := <-answer:
		if a.Err != nil {
			return "", a.Err
		}
		return a.Val.(string), nil
	}
}

// endOf reads when a token ends, and its origin. It came in an answer that a controller signed.
func endOf(encoded string) (ends time.Time, of origin, err error) {
	parsed, err := jwt.ParseSigned(encoded, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return ends, of, err
	}
	var claims jwt.Claims
	all := map[string]any{}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims, &all); err != nil {
		return ends, of, err
	}
	if claims.Expiry == nil {
		return ends, of, errors.New("it has no end")
	}
	return claims.Expiry.Time(), originOf(all), nil
}

// lengths puts its length before each, so that no two lists are written the same.
func lengths(audience []string) []string {
	out := make([]string, len(audience))
	for i, one := range audience {
		out[i] = fmt.Sprintf("%d:%s", len(one), one)
	}
	return out
}

// find returns a token of a SPIFFE ID that is still given out: one that was revoked meanwhile is not.
func (t *tokens) find(key, id string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.known[key]
	if !ok || !t.cfg.Now().Before(found.until) || t.cfg.Issuer.CheckToken(id, found.node, found.issued) != nil {
		return "", false
	}
	return found.encoded, true
}

func (t *tokens) allow(service exchange.ServiceName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.rates[service]
	if limit == nil {
		limit = rate.NewLimiter(serviceRate, serviceBurst)
		t.rates[service] = limit
	}
	now := t.cfg.Now()
	return limit.AllowN(now, 1) && t.host.AllowN(now, 1)
}

// remember keeps a token, in the place of those that are given out no more, or of any.
func (t *tokens) remember(key string, one token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxTokens {
		now := t.cfg.Now()
		for k, other := range t.known {
			if !now.Before(other.until) {
				delete(t.known, k)
			}
		}
	}
	for k := range t.known {
		if len(t.known) < maxTokens {
			break
		}
		delete(t.known, k)
	}
	t.known[key] = one
}
