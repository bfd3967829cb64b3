package telemetry

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Denial is what AuthorizationPolicies refused alike, or would refuse once a dry run is over.
type Denial struct {
	Service string `json:"service"` // "<ns>/<name>"
	Caller  string `json:"caller"`  // the same; empty: it shows no identity
	Node    string `json:"node,omitempty"`
	Source  string `json:"source,omitempty"` // its IP address, of a connection without an identity
	Method  string `json:"method,omitempty"` // empty: a TCP connection
	Path    string `json:"path,omitempty"`   // without its query; OtherPaths of what is not told apart
	Policy  string `json:"policy,omitempty"`
	DryRun  bool   `json:"dryRun,omitempty"`
}

// A SeenDenial is a Denial, and how often and when it was seen.
type SeenDenial struct {
	Denial
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// OtherPaths stands for the paths of a caller beyond those that are told apart.
const OtherPaths = "…"

// Whoever calls chooses paths: few of them are kept.
const (
	maxDenials      = 1024 // that are told apart; the one that was not seen for longest makes room
	maxDenialPaths  = 16   // of one caller, method and policy
	maxDenialText   = 128  // bytes of a path or method
	maxDenialReport = 256  // in one report of a node
)

// Denials are the denials that were seen last. It is safe for concurrent use.
type Denials struct {
	mu    sync.Mutex
	seen  map[Denial]*SeenDenial
	paths map[Denial]int // by all but the path
}

// Add counts n denials.
func (d *Denials) Add(one Denial, n uint64, now time.Time) {
	one = one.bounded()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seen == nil {
		d.seen, d.paths = map[Denial]*SeenDenial{}, map[Denial]int{}
	}
	if d.seen[one] == nil && d.paths[one.pathless()] >= maxDenialPaths {
		one.Path = OtherPaths
	}
	known := d.seen[one]
	if known == nil {
		if len(d.seen) >= maxDenials {
			d.drop()
		}
		known = &SeenDenial{Denial: one.clone(), First: now}
		d.seen[known.Denial] = known
		d.paths[known.pathless()]++
	}
	known.Count += n
	known.Last = now
}

// drop forgets what was not seen for longest.
func (d *Denials) drop() {
	var oldest *SeenDenial
	for _, s := range d.seen {
		if oldest == nil || s.Last.Before(oldest.Last) {
			oldest = s
		}
	}
	d.forget(oldest)
}

func (d *Denials) forget(s *SeenDenial) {
	delete(d.seen, s.Denial)
	if key := s.pathless(); d.paths[key] <= 1 {
		delete(d.paths, key)
	} else {
		d.paths[key]--
	}
}

// List returns what is known, the newest first.
func (d *Denials) List() []SeenDenial {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]SeenDenial, 0, len(d.seen))
	for _, s := range d.seen {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b SeenDenial) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Service, b.Service), strings.Compare(a.Caller, b.Caller),
			strings.Compare(a.Policy, b.Policy), strings.Compare(a.Method, b.Method), strings.Compare(a.Path, b.Path))
	})
	return all
}

// Take returns what was counted and forgets it, for a report. What is more than a report holds stays.
func (d *Denials) Take() []*DenialCount {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*DenialCount
	for _, s := range d.seen {
		if len(all) == maxDenialReport {
			break
		}
		d.forget(s)
		all = append(all, &DenialCount{
			Service: s.Service, Caller: s.Caller, Node: s.Node, Method: s.Method, Path: s.Path, Policy: s.Policy, DryRun: s.DryRun, Count: s.Count, Source: s.Source,
		})
	}
	return all
}

// Report takes in what a node reported of services that it runs; runs says which these are. What it says of others is
// dropped: it would tell lies about them.
func (d *Denials) Report(counts []*DenialCount, runs func(service string) bool, now time.Time) error {
	if len(counts) > maxDenialReport {
		return fmt.Errorf("%w: %d denials", ErrReport, len(counts))
	}
	for _, c := range counts {
		one := Denial{c.GetService(), c.GetCaller(), c.GetNode(), c.GetSource(), c.GetMethod(), c.GetPath(), c.GetPolicy(), c.GetDryRun()}
		if len(one.Service)+len(one.Caller)+len(one.Node)+len(one.Policy)+len(one.Source) > maxNameBytes {
			return fmt.Errorf("%w: a denial with long names", ErrReport)
		}
		if runs(one.Service) {
			d.Add(one, c.GetCount(), now)
		}
	}
	return nil
}

// bounded is a denial as it is kept: callers choose methods and paths, and nodes all of it.
func (d Denial) bounded() Denial {
	d.Path, _, _ = strings.Cut(d.Path, "?")
	for _, text := range []*string{&d.Service, &d.Caller, &d.Node, &d.Source, &d.Method, &d.Path, &d.Policy} {
		if text == &d.Method || text == &d.Path {
			if len(*text) > maxDenialText {
				*text = (*text)[:maxDenialText]
			}
		}
		*text = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f || r > '~' && r != '…' {
				return '?'
			}
			return r
		}, *text)
	}
	return d
}

func (d Denial) pathless() Denial {
	d.Path = ""
	return d
}

// clone has memory of its own: names of exchanges point into buffers that are used again.
func (d Denial) clone() Denial {
	for _, text := range []*string{&d.Service, &d.Caller, &d.Node, &d.Source, &d.Method, &d.Path, &d.Policy} {
		*text = strings.Clone(*text)
	}
	return d
}
