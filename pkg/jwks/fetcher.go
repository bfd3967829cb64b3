package jwks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sennit-mesh/sennit/pkg/authn"
)

// A Source is where a key set is published.
type Source struct {
	URL      string
	CABundle string // PEM, that the server's certificate must chain to; empty: the roots of this host
}

// A Set is what was fetched from a Source.
type Set struct {
	Keys    []byte // as authn.ReadKeys returns them; empty: none is known
	Problem string // why there are none, or no newer ones; empty: all is well
}

// A Store keeps bytes over restarts.
type Store interface {
	Load() ([]byte, error) // nil: nothing was saved
	Save([]byte) error
}

// Config is what a Fetcher needs.
type Config struct {
	Store   Store
	Changed func() // hears that Sets answers something else now
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

const (
	fetchEvery = 5 * time.Minute
	// fetchAgain is the least time between two attempts for one source, whoever asks for it: strangers' tokens do.
	fetchAgain = 10 * time.Second
	// slowestRetry bounds the time to the next attempt after a failure.
	slowestRetry = time.Minute
	// keepFor is how long the keys of an issuer that does not answer are used.
	keepFor = 24 * time.Hour
	// saveEvery is how old what is saved may be of keys that did not change.
	saveEvery = time.Hour
	// atOnce is how many sources are fetched at a time.
	atOnce = 4
)

// A Fetcher keeps the key sets of the sources that are wanted. It is safe for concurrent use.
type Fetcher struct {
	cfg  Config
	wake chan struct{}

	mu   sync.Mutex
	sets map[Source]*set
	kept map[Source]saved // of an earlier run, of sources that nobody wanted yet
}

type set struct {
	keys     []byte
	fetched  time.Time // when the keys were last read
	saved    time.Time // what of that was saved
	tried    time.Time // zero: never
	next     time.Time
	failures int
	problem  string
}

// saved is what a Store keeps.
type saved struct {
	Source  Source    `json:"source"`
	Keys    []byte    `json:"keys"`
	Fetched time.Time `json:"fetched"`
}

// New makes a Fetcher that knows what one before it saved.
func New(cfg Config) *Fetcher {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	f := &Fetcher{cfg: cfg, wake: make(chan struct{}, 1), sets: map[Source]*set{}, kept: map[Source]saved{}}
	data, err := cfg.Store.Load()
	var all []saved
	if err == nil && data != nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		cfg.Log.Warn("keys of issuers that were kept cannot be read, and are fetched anew", "err", err)
	}
	for _, one := range all {
		if keys, _, err := authn.ReadKeys(one.Keys); err == nil && bytes.Equal(keys, one.Keys) {
			f.kept[one.Source] = one
		}
	}
	return f
}

// Want says which sources there are now, in any order. Sets of others are forgotten.
func (f *Fetcher) Want(sources []Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for source := range f.sets {
		if !slices.Contains(sources, source) {
			delete(f.sets, source)
		}
	}
	for _, source := range sources {
		if f.sets[source] == nil {
			s := &set{}
			if before, known := f.kept[source]; known {
				s.keys, s.fetched, s.saved = before.Keys, before.Fetched, before.Fetched
				delete(f.kept, source)
			}
			f.sets[source] = s
			f.ring()
		}
	}
}

// Refresh has what is published at a URL fetched soon: a token names a key that is not there. Whoever asks, it is fetched no
// more often than each ten seconds, and where nobody wants it not at all.
func (f *Fetcher) Refresh(url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for source, s := range f.sets {
		if soon := s.tried.Add(fetchAgain); source.URL == url && soon.Before(s.next) {
			s.next = soon
			f.ring()
		}
	}
}

// Sets are the key sets of all sources that are wanted, as of now, and those that were when an earlier run ended: who asks
// before he has said what he wants must not find that there are none.
func (f *Fetcher) Sets() map[Source]Set {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[Source]Set, len(f.sets))
	for source, one := range f.kept {
		if f.cfg.Now().Sub(one.Fetched) < keepFor {
			all[source] = Set{Keys: one.Keys}
		}
	}
	for source, s := range f.sets {
		if s.keys != nil && s.outlived(f.cfg.Now()) {
			all[source] = Set{Problem: s.problem}
			continue
		}
		all[source] = Set{s.keys, s.problem}
	}
	return all
}

func (s *set) outlived(now time.Time) bool { return now.Sub(s.fetched) >= keepFor }

func (f *Fetcher) ring() {
	select {
	case f.wake <- struct{}{}:
	default: // it is awake
	}
}

// Run fetches until ctx ends.
func (f *Fetcher) Run(ctx context.Context) error {
	for {
		pause := f.round(ctx)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-f.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// round fetches what is due, and returns after which time the next is.
func (f *Fetcher) round(ctx context.Context) time.Duration {
	now := f.cfg.Now()
	var due []Source
	f.mu.Lock()
	for source, s := range f.sets {
		if !now.Before(s.next) {
			due = append(due, source)
			s.tried = now
		}
	}
	f.mu.Unlock()
	results := make([]result, len(due))
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, source := range due {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = fetch(ctx, source)
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return 0
	}
	changed, next := f.take(due, results, f.cfg.Now())
	if changed {
		f.cfg.Changed()
	}
	return next
}

// take notes what was fetched.
func (f *Fetcher) take(sources []Source, results []result, now time.Time) (changed bool, pause time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	save := false
	for i, source := range sources {
		s := f.sets[source]
		if s == nil {
			continue // nobody wants it any more
		}
		before, problem := s.keys, s.problem
		if r := results[i]; r.err != nil {
			s.failed(r.err, now)
			f.cfg.Log.Warn("keys of an issuer cannot be fetched", "url", source.URL, "failures", s.failures, "err", r.err)
		} else {
			s.keys, s.fetched, s.failures, s.problem, s.next = r.keys, now, 0, "", now.Add(fetchEvery)
			if !bytes.Equal(before, r.keys) || now.Sub(s.saved) >= saveEvery {
				s.saved, save = now, true
			}
		}
		changed = changed || !bytes.Equal(before, s.keys) || problem != s.problem
	}
	pause = fetchEvery
	for _, s := range f.sets {
		pause = min(pause, s.next.Sub(now))
	}
	if save {
		f.save()
	}
	return changed, max(pause, 0)
}

// failed notes that the keys could not be fetched. What is said of it stays the same while it goes on in the same way.
func (s *set) failed(err error, now time.Time) {
	s.failures++
	s.next = now.Add(min(fetchAgain<<min(s.failures-1, 8), slowestRetry))
	switch {
	case s.keys == nil:
		s.problem = err.Error()
	case s.outlived(now):
		s.keys = nil
		s.problem = fmt.Sprintf("the keys were fetched too long ago, at %s: %v", s.fetched.UTC().Format(time.RFC3339), err)
	default:
		s.problem = fmt.Sprintf("the keys of %s are used until %s: %v", s.fetched.UTC().Format(time.RFC3339), s.fetched.Add(keepFor).UTC().Format(time.RFC3339), err)
	}
}

// save keeps what there is. f.mu is held.
func (f *Fetcher) save() {
	all := make([]saved, 0, len(f.sets))
	for source, s := range f.sets {
		if s.keys != nil {
			all = append(all, saved{source, s.keys, s.fetched})
		}
	}
	slices.SortFunc(all, func(a, b saved) int {
		return cmp.Or(strings.Compare(a.Source.URL, b.Source.URL), strings.Compare(a.Source.CABundle, b.Source.CABundle))
	})
	data, err := json.Marshal(all)
	if err == nil {
		err = f.cfg.Store.Save(data)
	}
	if err != nil {
		f.cfg.Log.Warn("keys of issuers are not kept over a restart", "err", err)
	}
}
