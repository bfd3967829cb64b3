package bus

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// Limits on what is kept of one node, which says what it likes: what is beyond is not waited for.
const (
	maxFollowed     = 16 << 10 // subjects
	maxSubjectBytes = 256      // of a subject; the longest of ours have three names of 63 bytes
	maxProblemBytes = 512      // of what a node says why; the rest is cut off
)

// Applied knows which nodes follow which subjects, and what they have applied of them: what `--wait` asks.
// It is safe for concurrent use.
type Applied struct {
	mu    sync.Mutex
	moved chan struct{} // closed and replaced when something changed
	nodes map[string]map[string]appliedEntry

	// removed says whether a node was removed, and may whether it is told of a subject. Its host may go on to follow
	// and to report until its user of the bus ends, and may follow what it is not told of: nobody waits for that.
	removed func(node string) bool
	may     func(node, subject string) bool

	stored map[string]snapshot.Version // what the leader published
	built  snapshot.Inputs             // everything up to these sequences is in it
	leads  bool
}

type appliedEntry struct {
	version snapshot.Version
	problem string
}

// Pending is one node that has not applied what is stored under a subject that it follows.
type Pending struct {
	Node    string
	Subject string
	Want    snapshot.Version
	Have    snapshot.Version // zero: nothing
	Problem string           // what the node says why; often empty
}

func newApplied() *Applied {
	return &Applied{
		moved: make(chan struct{}), nodes: map[string]map[string]appliedEntry{},
		removed: func(string) bool { return false }, may: func(string, string) bool { return true },
	}
}

func (a *Applied) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.moved)
	a.moved = make(chan struct{})
}

// node returns what is known of a node.
func (a *Applied) node(name string, all bool) map[string]appliedEntry {
	if a.nodes[name] == nil {
		a.nodes[name] = map[string]appliedEntry{}
	}
	if all { // only what follows is of interest
		old := a.nodes[name]
		a.nodes[name] = map[string]appliedEntry{}
		return old
	}
	return a.nodes[name]
}

// interest takes what a node follows from its request to catch up.
func (a *Applied) interest(node string, request *CatchupRequest) {
	a.change(func() {
		old := a.node(node, request.GetAll())
		for _, want := range request.GetWants() {
			a.put(node, want.GetSubject(), old[want.GetSubject()])
		}
	})
}

// report takes what a node applied.
func (a *Applied) report(node string, report *AppliedReport) {
	a.change(func() {
		a.node(node, report.GetAll())
		for _, e := range report.GetEntries() {
			a.put(node, e.GetSubject(), appliedEntry{snapshot.Version{Epoch: e.GetEpoch(), Revision: e.GetRevision()}, printable(e.GetProblem())})
		}
	})
}

func (a *Applied) put(node, subject string, entry appliedEntry) {
	if len(subject) > maxSubjectBytes {
		return
	}
	followed := a.nodes[node]
	if _, known := followed[subject]; subject != snapshot.RosterSubject && (known || len(followed) < maxFollowed) {
		followed[subject] = entry
	}
}

// printable is a node's text as an operator's terminal may show it: cut to maxProblemBytes, and without control
// characters, which would let a node write what it likes there.
func printable(text string) string {
	if len(text) > maxProblemBytes {
		text = strings.ToValidUTF8(text[:maxProblemBytes], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return ' '
		}
		return r
	}, text)
}

// Followers lists the nodes that follow a subject for which follows is true, and were not removed; in no order.
func (a *Applied) Followers(follows func(subject string) bool) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var nodes []string
	for node, followed := range a.nodes {
		if a.removed(node) {
			continue
		}
		for subject := range followed {
			if follows(subject) {
				nodes = append(nodes, node)
				break
			}
		}
	}
	return nodes
}

// Forget drops a node that is lost or was deleted: nobody waits for it.
func (a *Applied) Forget(node string) {
	a.change(func() { delete(a.nodes, node) })
}

// publish takes what is stored, and through which inputs it is complete.
func (a *Applied) publish(stored map[string]snapshot.Version, built snapshot.Inputs) {
	a.change(func() { a.stored, a.built, a.leads = stored, built, true })
}

// Pending lists who has not applied what is stored now.
func (a *Applied) Pending() []Pending {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending(a.stored)
}

func (a *Applied) pending(stored map[string]snapshot.Version) []Pending {
	var pending []Pending
	for node, followed := range a.nodes {
		if a.removed(node) {
			continue
		}
		for subject, entry := range followed {
			if want, ok := stored[subject]; ok && entry.version.Compare(want) < 0 && a.may(node, subject) {
				pending = append(pending, Pending{node, subject, want, entry.version, entry.problem})
			}
		}
	}
	slices.SortFunc(pending, func(x, y Pending) int { return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Subject, y.Subject)) })
	return pending
}

// Wait returns when every node has applied what follows from the resources up to a sequence, in whatever it
// follows of it. When ctx ends before, it returns ctx's error and names those that have not; published says
// whether the leader had published it at all.
func (a *Applied) Wait(ctx context.Context, resources uint64) (pending []Pending, published bool, err error) {
	err = a.Watch(ctx, resources, func(waiting []Pending, known bool) bool {
		pending, published = waiting, known
		return true
	})
	return pending, published, err
}

// Watch is Wait that tells on the way who is waited for, at once and whenever that may have changed. It ends
// early, without an error, where tell returns false.
func (a *Applied) Watch(ctx context.Context, resources uint64, tell func(pending []Pending, published bool) (more bool)) error {
	var target map[string]snapshot.Version // as it was when the resources were in; what comes later may not delay this
	for {
		a.mu.Lock()
		moved := a.moved
		if target == nil && a.leads && a.built.Resources >= resources {
			target = maps.Clone(a.stored)
		}
		pending := a.pending(target)
		a.mu.Unlock()
		if more := tell(pending, target != nil); !more || target != nil && len(pending) == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
