package federation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
)

const (
	// A bundle is fetched again after its refresh hint, or defaultRefresh, within these bounds.
	defaultRefresh = 5 * time.Minute
	minRefresh     = 10 * time.Second
	maxRefresh     = 24 * time.Hour

	retryMost = time.Minute // after a failure, at most
	wakeMost  = 30 * time.Second
	atOnce    = 8 // endpoints that are asked
)

// A Foreign is another trust domain, as an operator describes it.
type Foreign struct {
	TrustDomain string
	URL         string
	SPIFFEID    string // of the endpoint; empty: its host's name is verified
	Bundle      string // as JSON, to begin with; may be empty where there is no SPIFFEID
}

// A Store keeps bundles across restarts, a value for each trust domain; nil: none.
type Store interface {
	Load(trustDomain string) ([]byte, error)
	Save(trustDomain string, value []byte) error
}

// Config is what a Watcher needs.
type Config struct {
	Store   Store
	Changed func() // is called when a bundle, or what is said of one, is another; it must not block
	Log     *slog.Logger
	Roots   *x509.CertPool   // that verify hosts with https_web; nil: the system's
	Now     func() time.Time // nil: time.Now
}

// Status is what is to be said of one trust domain.
type Status struct {
	Bundle  *spiffebundle.Bundle // nil: none yet; not to be changed
	Fetched bool                 // the endpoint served what it is; else it is what was kept or written
	Err     error                // why the endpoint could not be asked last
}

// A Watcher holds the bundles of other trust domains. It is safe for concurrent use.
type Watcher struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex
	domains map[string]*watched
}

// watched is one trust domain. Its fields are the Watcher's, under mu.
type watched struct {
	foreign  Foreign
	endpoint endpoint
	status   Status
	kept     *spiffebundle.Bundle // as stored last; nil: there is none
	due      time.Time
	failures int
}

// record is what is stored of a trust domain: the bundle that it served, and of which beginning it is the continuation.
type record struct {
	Begun  []byte          `json:"begun"` // SHA-256 of Foreign.Bundle
	Bundle json.RawMessage `json:"bundle"`
}

// New returns a Watcher of nothing; Apply says of what.
func New(cfg Config) *Watcher {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Watcher{cfg: cfg, wake: make(chan struct{}, 1), domains: map[string]*watched{}}
}

// Apply says which trust domains there are, each once. What is no longer there is forgotten, and so is what was served to
// a description whose Bundle was another: an operator who writes a new one begins anew with it.
func (w *Watcher) Apply(all []Foreign) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed, wanted := false, map[string]bool{}
	for _, f := range all {
		wanted[f.TrustDomain] = true
		if d := w.domains[f.TrustDomain]; d != nil && d.foreign == f {
			continue
		}
		w.domains[f.TrustDomain] = w.begin(f, w.domains[f.TrustDomain])
		changed = true
	}
	for domain, d := range w.domains {
		if !wanted[domain] {
			delete(w.domains, domain)
			w.save(d, nil)
			changed = true
		}
	}
	if changed {
		w.changed()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// begin takes up a trust domain, with what was kept of it. The caller holds mu.
func (w *Watcher) begin(f Foreign, before *watched) *watched {
	d := &watched{foreign: f, due: w.cfg.Now()}
	domain, err := spiffeid.TrustDomainFromString(f.TrustDomain)
	if err != nil { // the API has checked it
		d.status.Err = err
		return d
	}
	d.endpoint = endpoint{domain: domain, url: f.URL, roots: w.cfg.Roots}
	if f.SPIFFEID != "" {
		if d.endpoint.id, d.status.Err = spiffeid.FromString(f.SPIFFEID); d.status.Err != nil {
			return d
		}
	}
	if before != nil {
		d.kept = before.kept
		if before.foreign.Bundle == f.Bundle {
			d.status.Bundle, d.kept = before.status.Bundle, before.kept
		}
	} else if d.kept, err = w.load(domain, f); err != nil {
		w.cfg.Log.Error("what was kept of a trust domain cannot be read", "trust domain", f.TrustDomain, "err", err)
	} else if d.kept != nil {
		d.status.Bundle = d.kept
	}
	if d.status.Bundle == nil && f.Bundle != "" {
		d.status.Bundle, d.status.Err = parse(domain, []byte(f.Bundle))
	}
	return d
}

// load reads what was stored of a trust domain, where it began with what f says.
func (w *Watcher) load(domain spiffeid.TrustDomain, f Foreign) (*spiffebundle.Bundle, error) {
	value, err := w.cfg.Store.Load(f.TrustDomain)
	if err != nil || len(value) == 0 {
		return nil, err
	}
	var kept record
	if err := json.Unmarshal(value, &kept); err != nil {
		return nil, err
	}
	if begun := sha256.Sum256([]byte(f.Bundle)); !bytes.Equal(kept.Begun, begun[:]) {
		return nil, nil
	}
	return parse(domain, kept.Bundle)
}

// Bundles are those that there are at this moment, by trust domain.
func (w *Watcher) Bundles() []*spiffebundle.Bundle {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held()
}

func (w *Watcher) held() (all []*spiffebundle.Bundle) {
	for _, d := range w.domains {
		if d.status.Bundle != nil {
			all = append(all, d.status.Bundle)
		}
	}
	slices.SortFunc(all, func(a, b *spiffebundle.Bundle) int {
		return cmp.Compare(a.TrustDomain().Name(), b.TrustDomain().Name())
	})
	return all
}

// Status says how it is about one trust domain.
func (w *Watcher) Status(trustDomain string) Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.domains[trustDomain]; d != nil {
		return d.status
	}
	return Status{}
}

// Run fetches what is due until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		now := w.cfg.Now().Round(0)
		wait, due := wakeMost, []*watched{}
		w.mu.Lock()
		for _, d := range w.domains {
			if left := d.due.Round(0).Sub(now); left > 0 {
				wait = min(wait, left)
			} else {
				due = append(due, d)
			}
		}
		believed := spiffebundle.NewSet(w.held()...)
		w.mu.Unlock()
		var fetching errgroup.Group
		fetching.SetLimit(atOnce)
		for _, d := range due {
			fetching.Go(func() error {
				bundle, err := d.endpoint.fetch(ctx, believed)
				if ctx.Err() == nil {
					w.take(d, bundle, err)
				}
				return nil
			})
		}
		_ = fetching.Wait() // what fails is tried again
		if ctx.Err() != nil {
			return nil
		}
		if len(due) > 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-w.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// take takes in what an endpoint served, or why it did not.
func (w *Watcher) take(d *watched, bundle *spiffebundle.Bundle, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.domains[d.foreign.TrustDomain] != d {
		return // another description is in its place
	}
	before := d.status
	if err != nil {
		d.failures++
		d.status.Err, d.status.Fetched = fmt.Errorf("ask %s: %w", d.foreign.URL, err), false
		d.due = w.cfg.Now().Add(jitter(min(time.Second<<min(d.failures, 16), retryMost)))
		if before.Err == nil || before.Err.Error() != d.status.Err.Error() {
			w.cfg.Log.Warn("the bundle of another trust domain cannot be fetched; what was fetched before counts on", "trust domain", d.foreign.TrustDomain, "err", err)
			w.changed()
		}
		return
	}
	d.failures = 0
	d.due = w.cfg.Now().Add(jitter(refresh(bundle)))
	d.status = Status{Bundle: bundle, Fetched: true}
	if w.save(d, bundle) || before.Err != nil || !before.Fetched {
		w.changed()
	}
}

// save stores a bundle, nil: that there is none, and reports whether that is another than before.
func (w *Watcher) save(d *watched, bundle *spiffebundle.Bundle) bool {
	if d.kept == bundle || d.kept != nil && bundle != nil && d.kept.Equal(bundle) {
		return false
	}
	var value []byte
	if bundle != nil {
		begun := sha256.Sum256([]byte(d.foreign.Bundle))
		encoded, err := bundle.Marshal()
		if err == nil {
			value, err = json.Marshal(record{begun[:], encoded})
		}
		if err != nil {
			w.cfg.Log.Error("a bundle cannot be kept", "trust domain", d.foreign.TrustDomain, "err", err)
			return true
		}
	}
	if err := w.cfg.Store.Save(d.foreign.TrustDomain, value); err != nil {
		w.cfg.Log.Error("a bundle cannot be kept: a restart would begin with an older one", "trust domain", d.foreign.TrustDomain, "err", err)
		return true
	}
	d.kept = bundle
	return true
}

func (w *Watcher) changed() {
	if w.cfg.Changed != nil {
		w.cfg.Changed()
	}
}

// refresh is after how long a bundle is fetched again.
func refresh(bundle *spiffebundle.Bundle) time.Duration {
	hint, found := bundle.RefreshHint()
	if !found {
		hint = defaultRefresh
	}
	return min(max(hint, minRefresh), maxRefresh)
}

// jitter takes off up to a tenth, so that many who ask do not ask at once.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }
