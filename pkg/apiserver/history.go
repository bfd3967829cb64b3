package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sort"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

var errReached = errors.New("the revision is reached")

// past returns the documents of a kind that a filter wants as they were when the log of resources ended with a
// sequence, by namespace and name, and without status, which has no history. It reads the log from its beginning.
func (s *Server) past(ctx context.Context, k *api.Kind, want filter, at uint64) ([]*unstructured.Unstructured, error) {
	if k.Derived {
		return nil, badRequest("%s have no history: they are made from what hosts register, or are used up", k.Plural)
	}
	last, err := s.cfg.Resources.Last(ctx)
	if err != nil {
		return nil, err
	}
	if at > last {
		return nil, future(s.version(at), s.version(last))
	}
	there := map[string]*unstructured.Unstructured{}
	err = s.cfg.Resources.Follow(ctx, 1, func(e bus.Entry) error {
		if e.Sequence <= at {
			w, err := s.readWhole(e)
			switch {
			case err != nil:
				s.cfg.Log.Error("record skipped", "subject", e.Subject, "sequence", e.Sequence, "err", err)
			case w.Kind == k && !w.Deleted && want.matches(w.Document):
				there[key(w.Document.GetNamespace(), w.Document.GetName())] = withVersion(w.Document, s.version(e.Sequence))
			case w.Kind == k:
				delete(there, key(w.Document.GetNamespace(), w.Document.GetName()))
			}
		}
		if e.Sequence >= at {
			return errReached
		}
		return nil
	})
	if !errors.Is(err, errReached) {
		return nil, fmt.Errorf("read the history of %s: %w", k.Plural, errors.Join(err, ctx.Err()))
	}
	all := make([]*unstructured.Unstructured, 0, len(there))
	for _, u := range there {
		all = append(all, u)
	}
	sort.Slice(all, func(i, j int) bool { return less(all[i], all[j]) })
	return all, nil
}

// listPast answers a list of what was there at a resourceVersion (resourceVersionMatch=Exact).
func (s *Server) listPast(w http.ResponseWriter, r *request, want filter, at uint64) error {
	all, err := s.past(r.Context(), r.kind, want, at)
	if err != nil {
		return err
	}
	return s.answerList(w, r, all, listMeta{version: s.version(at)})
}

// rollback stores a document again as it was at a resourceVersion, whole: who manages which of its fields too.
func (s *Server) rollback(w http.ResponseWriter, r *request, to string) error {
	if r.kind.Derived || r.status {
		return methodNotAllowed(r)
	}
	at, err := s.sequence(to)
	if err != nil {
		return err
	}
	all, err := s.past(r.Context(), r.kind, filter{namespace: r.namespace, name: r.name}, at)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return badRequest("%s %q was not there at revision %s; delete it to have it so again", r.kind.Singular, r.name, to)
	}
	then := all[0]
	for try := 1; ; try++ {
		if err := s.current(r.Context()); err != nil {
			return err
		}
		u := then.DeepCopy()
		u.SetResourceVersion(r.query("resourceVersion"))
		old := s.cache.get(r.kind, r.namespace, r.name)
		code, stored := http.StatusOK, (*unstructured.Unstructured)(nil)
		if old != nil {
			u.SetUID("") // it may have been deleted and made again since
			stored, err = s.changeOnce(r, verbRollback, old, u, nil)
		} else {
			code = http.StatusCreated
			if err := s.mayCreate(r); err != nil {
				return err
			}
			u.SetResourceVersion("")
			begin(r.kind, u)
			if err = r.check(u, nil); err == nil {
				stored, err = s.store(r, verbRollback, nil, u)
			}
		}
		if errors.Is(err, bus.ErrConflict) && try < attempts {
			continue
		}
		if errors.Is(err, bus.ErrConflict) {
			err = conflict(r.kind, r.name, "the document keeps changing; try again")
		}
		if err != nil {
			return err
		}
		return s.answer(w, r, code, stored)
	}
}

// verbRollback is how a rollback is recorded.
const verbRollback = "rollback"
