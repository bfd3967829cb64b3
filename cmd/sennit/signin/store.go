package signin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Store keeps the tokens of sign-ins in a folder that nobody else can read, a file for each provider and client.
type Store struct{ Dir string }

// DefaultStore is below the user's folder of caches.
func DefaultStore() (Store, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Store{}, fmt.Errorf("where sign-ins are kept: %w", err)
	}
	return Store{filepath.Join(cache, "sennit", "login")}, nil
}

func (s Store) file(p *Provider) string {
	sum := sha256.Sum256([]byte(p.Issuer + "\x00" + p.ClientID))
	return filepath.Join(s.Dir, hex.EncodeToString(sum[:16])+".json")
}

// Save keeps tokens in the place of those from before.
func (s Store) Save(p *Provider, t Tokens) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("keep the sign-in: %w", err)
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("keep the sign-in: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.file(p))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("keep the sign-in: %w", err)
	}
	return nil
}

// Forget removes what is kept of a sign-in. What the provider remembers stays.
func (s Store) Forget(p *Provider) error {
	if err := os.Remove(s.file(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the sign-in: %w", err)
	}
	return nil
}

func (s Store) load(p *Provider) (Tokens, error) {
	var t Tokens
	data, err := os.ReadFile(s.file(p))
	if errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("nobody is signed in with %s: %w", p.Issuer, ErrSignIn)
	}
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		return Tokens{}, fmt.Errorf("read the sign-in from %s: it cannot be read (%w)", s.file(p), ErrSignIn)
	}
	return t, nil
}

// early is how long before its end an ID token is renewed: it must outlive the request that it is for.
const early = time.Minute

// Current returns tokens that are good, renewed where they end. Of several processes one renews: a provider may take what
// renews back when it is used twice.
func (s Store) Current(ctx context.Context, p *Provider) (Tokens, error) {
	t, err := s.load(p)
	if err != nil || time.Until(t.Expires) > early {
		return t, err
	}
	unlock, err := s.lock(p)
	if err != nil {
		return Tokens{}, err
	}
	defer unlock()
	if t, err = s.load(p); err != nil || time.Until(t.Expires) > early {
		return t, err
	}
	if t, err = p.Renew(ctx, t); err != nil {
		return Tokens{}, err
	}
	return t, s.Save(p, t)
}

// lock waits until no other process renews.
func (s Store) lock(p *Provider) (unlock func(), err error) {
	f, err := os.OpenFile(s.file(p)+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, fmt.Errorf("renew the sign-in: %w", err)
	}
	return func() { f.Close() }, nil
}
