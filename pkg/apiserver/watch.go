package apiserver

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	bookmarkEvery = time.Minute
	watchAtLeast  = 30 * time.Minute // where the client names no end
	writeWithin   = 30 * time.Second // a client that reads slower is cut off
)

// A watcher sends the events of one kind that a filter wants.
type watcher struct {
	s     *Server
	r     *request
	want  filter
	send  func(kind watch.EventType, u *unstructured.Unstructured) error
	next  uint64 // number of the event to look at next
	after uint64 // events up to this position were seen
}

// watch answers with a stream of events, from a resourceVersion on or beginning with what there is.
func (s *Server) watch(w http.ResponseWriter, r *request) error {
	want, err := newFilter(r)
	if err != nil {
		return err
	}
	if s.watchers.Add(1) > maxWatchers {
		s.watchers.Add(-1)
		return tooMany("%d watches are open, which is the most that one controller serves", maxWatchers)
	}
	defer s.watchers.Add(-1)
	ends := watchAtLeast + rand.N(watchAtLeast)
	if text := r.query("timeoutSeconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return badRequest("timeoutSeconds must be a number, 0 or more, is %q", text)
		}
		if n > 0 {
			ends = min(time.Duration(n)*time.Second, 2*watchAtLeast)
		}
	}
	bookmarks := isTrue(r.query("allowWatchBookmarks"))
	initial := isTrue(r.query("sendInitialEvents"))
	switch match := r.query("resourceVersionMatch"); {
	case initial && match != "NotOlderThan":
		return badRequest("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
	case !r.URL.Query().Has("sendInitialEvents") && match != "":
		return badRequest("resourceVersionMatch is for watches with sendInitialEvents")
	case initial && !bookmarks:
		return badRequest("sendInitialEvents needs allowWatchBookmarks=true: a bookmark says where they end")
	}
	form, err := negotiate(r)
	if err != nil {
		return err
	}
	if err := s.before(r.Context(), r.kind); err != nil {
		return err
	}
	wr := &watcher{s: s, r: r, want: want}
	first, err := wr.begin(initial)
	if err != nil {
		return err
	}

	w.Header().Set("Content-Type", form.watchType())
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	wr.send = s.sender(w, out, r, form)
	for _, u := range first {
		if err := wr.send(watch.Added, u); err != nil {
			return nil
		}
	}
	if initial {
		if err := wr.bookmark(true); err != nil {
			return nil
		}
	}
	if flush(out) != nil {
		return nil
	}
	wr.run(ends, bookmarks)
	return nil
}

// begin finds where the watch starts, and what to send first.
func (wr *watcher) begin(initial bool) ([]*unstructured.Unstructured, error) {
	text := wr.r.query("resourceVersion")
	c := wr.s.cache
	have := wr.s.position(wr.r.kind)
	if !unconditional(text) {
		asked, err := wr.s.sequence(text)
		switch {
		case err != nil:
			return nil, err
		case asked > have:
			return nil, future(text, wr.s.version(have))
		}
		if !initial {
			c.mu.RLock()
			defer c.mu.RUnlock()
			col := c.kinds[wr.r.kind]
			if asked < col.forgot {
				return nil, expired("too old resource version: %s (%s)", text, wr.s.version(col.forgot))
			}
			wr.next, wr.after = col.first, asked
			return nil, nil
		}
	}
	c.mu.RLock()
	col := c.kinds[wr.r.kind]
	wr.next = col.first + uint64(len(col.events))
	c.mu.RUnlock()
	// What changes between these two is both in the list and among the events: sent twice, never lost.
	if wr.r.URL.Query().Get("sendInitialEvents") == "false" {
		wr.after = have
		return nil, nil
	}
	all, at := c.list(wr.r.kind, wr.want)
	wr.after = at
	return all, nil
}

// run sends events until the client leaves, the time is over, or the server ends.
func (wr *watcher) run(ends time.Duration, bookmarks bool) {
	end := time.NewTimer(ends)
	defer end.Stop()
	tick := time.NewTicker(bookmarkEvery)
	defer tick.Stop()
	for {
		changed, err := wr.drain()
		if err != nil {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
			if bookmarks && wr.bookmark(false) != nil {
				return
			}
		case <-end.C:
			return
		case <-wr.r.Context().Done():
			return
		case <-wr.s.closing:
			return
		}
	}
}

// drain sends all events that are there, and returns what is closed at the next one.
func (wr *watcher) drain() (<-chan struct{}, error) {
	c := wr.s.cache
	for {
		c.mu.RLock()
		col := c.kinds[wr.r.kind]
		changed := col.changed
		if wr.next < col.first { // it was too slow, and events are gone
			c.mu.RUnlock()
			_ = wr.fail(expired("too old resource version: %s", wr.s.version(wr.after)))
			return nil, errWatchOver
		}
		events := append([]event(nil), col.events[wr.next-col.first:]...)
		c.mu.RUnlock()
		if len(events) == 0 {
			return changed, nil
		}
		for _, e := range events {
			wr.next++
			// The status of a document may change twice at one position: what was seen there is sent again.
			if e.at < wr.after || e.at == wr.after && !e.status {
				continue
			}
			if err := wr.one(e); err != nil {
				return nil, err
			}
		}
	}
}

// one sends an event as the filter sees it: what a change brings into its view is new, what leaves it is gone.
func (wr *watcher) one(e event) error {
	was := e.was != nil && wr.want.matches(e.was)
	is := e.kind != watch.Deleted && wr.want.matches(e.now)
	wr.after = max(wr.after, e.at)
	switch {
	case is && was:
		return wr.send(watch.Modified, e.now)
	case is:
		return wr.send(watch.Added, e.now)
	case was:
		return wr.send(watch.Deleted, withVersion(e.was, e.now.GetResourceVersion()))
	}
	return nil
}

// bookmark says how far the watch has come.
func (wr *watcher) bookmark(initialEnd bool) error {
	at := wr.s.position(wr.r.kind)
	c := wr.s.cache
	c.mu.RLock()
	col := c.kinds[wr.r.kind]
	if wr.next < col.first+uint64(len(col.events)) { // not all was sent yet
		at = wr.after
	}
	c.mu.RUnlock()
	wr.after = max(wr.after, at)
	u := emptyOf(wr.r.kind)
	u.SetResourceVersion(wr.s.version(wr.after))
	if initialEnd {
		u.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return wr.send(watch.Bookmark, u)
}

// fail ends the stream with an error that clients understand.
func (wr *watcher) fail(err error) error {
	st := wr.s.statusOf(wr.r.Context(), err)
	m, convErr := runtime.DefaultUnstructuredConverter.ToUnstructured(&st)
	if convErr != nil {
		return convErr
	}
	return wr.send(watch.Error, &unstructured.Unstructured{Object: m})
}

var errWatchOver = expired("the watch is over")

// sender returns how events are written in the form that the client asked for.
func (s *Server) sender(w http.ResponseWriter, out *http.ResponseController, r *request, form form) func(watch.EventType, *unstructured.Unstructured) error {
	columns := true // in the first table only
	return func(kind watch.EventType, u *unstructured.Unstructured) error {
		var data []byte
		if form.protobuf {
			object, err := toProtobuf(r.kind, kind, u)
			if err != nil {
				return err
			}
			ev := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object}}
			body, err := ev.Marshal()
			if err != nil {
				return err
			}
			data = append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		} else {
			var object any = u.Object
			if kind != watch.Error {
				object = form.shape(r.kind, u, columns)
				columns = columns && form.as != "Table"
			}
			body, err := json.Marshal(map[string]any{"type": kind, "object": object})
			if err != nil {
				return err
			}
			data = append(body, '\n')
		}
		_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := w.Write(data); err != nil {
			return err
		}
		return flush(out)
	}
}

// flush sends what was written, to a client that takes it in time. The deadline must not outlive that: over HTTP/2 it
// ends the stream when it comes, whether anything is being written or not.
func flush(out *http.ResponseController) error {
	_ = out.SetWriteDeadline(time.Now().Add(writeWithin))
	if err := out.Flush(); err != nil {
		return err
	}
	_ = out.SetWriteDeadline(time.Time{})
	return nil
}
