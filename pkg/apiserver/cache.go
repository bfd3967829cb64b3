package apiserver

import (
	"maps"
	"reflect"
	"sort"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// A cache holds all documents as they are now, and for each kind its last events. Documents in it are never
// changed: a new revision is a new document.
type cache struct {
	resources, statuses *bus.Progress

	mu    sync.RWMutex
	kinds map[*api.Kind]*collection
}

// A collection is all documents of one kind.
type collection struct {
	items    map[string]*item // by key
	last     map[string]uint64
	statuses map[string]status
	position uint64        // sequence of the newest change of this kind
	events   []event       // in order of arrival
	forgot   uint64        // events at or before this position are not all there any more
	changed  chan struct{} // closed at the next event
	first    uint64        // number of events[0] since the start
}

// An item is one document: without status as it was written, and whole as it is shown.
type item struct {
	written, shown *unstructured.Unstructured
	sequence       uint64 // of the document
	statusSequence uint64 // of its status, 0 where it has none
}

type status struct {
	uid      string
	seen     uint64
	sequence uint64
	value    any
}

// An event is one change of one document.
type event struct {
	kind     watch.EventType
	now, was *unstructured.Unstructured // was is nil for what is new, now for a deletion is the last state
	at       uint64                     // position in the log of resources
	status   bool                       // of the status: others may have the same position
}

func key(namespace, name string) string { return namespace + "/" + name }

func newCache() *cache {
	c := &cache{resources: new(bus.Progress), statuses: new(bus.Progress), kinds: map[*api.Kind]*collection{}}
	for _, k := range api.Kinds() {
		c.kinds[k] = &collection{
			items: map[string]*item{}, last: map[string]uint64{}, statuses: map[string]status{}, changed: make(chan struct{}),
		}
	}
	return c
}

// putResource takes a revision of a document. Sequences come in order.
func (c *cache) putResource(k *api.Kind, u *unstructured.Unstructured, sequence uint64, deleted bool, version func(uint64) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	col := c.kinds[k]
	id := key(u.GetNamespace(), u.GetName())
	old := col.items[id]
	col.last[id] = sequence
	next := &item{written: u, sequence: sequence}
	next.show(col.statuses[id], version)
	switch {
	case deleted && old == nil:
		col.position = sequence
	case deleted:
		delete(col.items, id)
		if st, have := col.statuses[id]; have { // its subject still has it: the next status must know the sequence
			col.statuses[id] = status{sequence: st.sequence}
		}
		last := &item{written: old.written, sequence: sequence, statusSequence: old.statusSequence}
		last.shown = withVersion(old.shown, version(sequence))
		col.add(event{kind: watch.Deleted, now: last.shown, was: old.shown, at: sequence})
	case old == nil:
		col.items[id] = next
		col.add(event{kind: watch.Added, now: next.shown, at: sequence})
	default:
		col.items[id] = next
		col.add(event{kind: watch.Modified, now: next.shown, was: old.shown, at: sequence})
	}
}

// putStatus takes the status of a document, which may be there only later.
func (c *cache) putStatus(k *api.Kind, r statusRecord, value any, sequence uint64, version func(uint64) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	col := c.kinds[k]
	id := key(r.Namespace, r.Name)
	st := status{uid: r.UID, seen: r.Seen, sequence: sequence, value: value}
	col.statuses[id] = st
	old := col.items[id]
	if old == nil || string(old.written.GetUID()) != r.UID {
		return
	}
	next := &item{written: old.written, sequence: old.sequence}
	next.show(st, version)
	col.items[id] = next
	col.add(event{kind: watch.Modified, now: next.shown, was: old.shown, at: max(c.resources.At(), col.position), status: true})
}

// show makes what readers see of written and the status that belongs to it.
func (i *item) show(st status, version func(uint64) string) {
	at := i.sequence
	i.shown = i.written
	if st.value != nil && st.uid == string(i.written.GetUID()) {
		i.statusSequence = st.sequence
		at = max(at, st.seen)
		whole := maps.Clone(i.written.Object)
		whole["status"] = st.value
		i.shown = &unstructured.Unstructured{Object: whole}
	}
	i.shown = withVersion(i.shown, version(at))
}

// withVersion returns a document that shares all but its resourceVersion with u.
func withVersion(u *unstructured.Unstructured, version string) *unstructured.Unstructured {
	m := maps.Clone(u.Object)
	meta, _ := m["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	if meta == nil {
		meta = map[string]any{}
	}
	meta["resourceVersion"] = version
	m["metadata"] = meta
	return &unstructured.Unstructured{Object: m}
}

// add appends an event and wakes the watchers. The caller holds the lock.
func (col *collection) add(e event) {
	col.position = max(col.position, e.at)
	if len(col.events) == maxEvents {
		drop := maxEvents / 4
		col.forgot = col.events[drop-1].at
		col.events = append(make([]event, 0, maxEvents), col.events[drop:]...)
		col.first += uint64(drop)
	}
	col.events = append(col.events, e)
	close(col.changed)
	col.changed = make(chan struct{})
}

// replace brings a virtual kind to what its owner lists. version numbers the owner's state.
func (c *cache) replace(k *api.Kind, all []*unstructured.Unstructured, number uint64, version func(uint64) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	col := c.kinds[k]
	if number < col.position {
		return
	}
	seen := make(map[string]bool, len(all))
	for _, u := range all {
		id := key(u.GetNamespace(), u.GetName())
		seen[id] = true
		old := col.items[id]
		if old != nil && (old.written == u || reflect.DeepEqual(old.written.Object, u.Object)) {
			continue
		}
		next := &item{written: u, shown: withVersion(u, version(number)), sequence: number}
		e := event{kind: watch.Added, now: next.shown, at: number}
		if old != nil {
			e.kind, e.was = watch.Modified, old.shown
		}
		col.items[id] = next
		col.add(e)
	}
	for id, old := range col.items {
		if !seen[id] {
			delete(col.items, id)
			col.add(event{kind: watch.Deleted, now: withVersion(old.shown, version(number)), was: old.shown, at: number})
		}
	}
	col.position = max(col.position, number)
}

// forget says that nothing is known of what was at or before a position.
func (c *cache) forget(position uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, col := range c.kinds {
		col.forgot = max(col.forgot, position)
	}
}

// get returns a document, or nil.
func (c *cache) get(k *api.Kind, namespace, name string) *item {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.kinds[k].items[key(namespace, name)]
}

// last is the last sequence of a document's subject, deletions included; 0 where it has none.
func (c *cache) last(k *api.Kind, namespace, name string) uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.kinds[k].last[key(namespace, name)]
}

// statusLast is the same for its status.
func (c *cache) statusLast(k *api.Kind, namespace, name string) uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.kinds[k].statuses[key(namespace, name)].sequence
}

// list returns the documents of a kind that a filter wants, by namespace and name, and the position of the list.
func (c *cache) list(k *api.Kind, want filter) ([]*unstructured.Unstructured, uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	col := c.kinds[k]
	var out []*unstructured.Unstructured
	for _, i := range col.items {
		if want.matches(i.shown) {
			out = append(out, i.shown)
		}
	}
	sort.Slice(out, func(i, j int) bool { return less(out[i], out[j]) })
	return out, c.position(k)
}

// position is how far the reader of a kind has read: for documents the end of the log, which other kinds move too.
func (c *cache) position(k *api.Kind) uint64 {
	if k.Derived {
		return c.kinds[k].position
	}
	return max(c.kinds[k].position, c.resources.At())
}

func less(a, b metav1.Object) bool {
	if n := strings.Compare(a.GetNamespace(), b.GetNamespace()); n != 0 {
		return n < 0
	}
	return a.GetName() < b.GetName()
}
