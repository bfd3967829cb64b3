package apiserver

import (
	"context"
	"errors"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// delete removes a document at once; of a namespace, all that is in it first.
func (s *Server) delete(w http.ResponseWriter, r *request) error {
	opts, err := r.deleteOptions()
	if err != nil {
		return err
	}
	gone, err := s.remove(r, opts)
	if err != nil {
		return err
	}
	return s.answerStatus(w, r, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusOK,
		Details: &metav1.StatusDetails{Name: r.name, Group: r.kind.Group, Kind: r.kind.Plural, UID: gone.GetUID()},
	})
}

// remove deletes the document that r names.
func (s *Server) remove(r *request, opts *metav1.DeleteOptions) (*unstructured.Unstructured, error) {
	if r.kind == api.Namespace && r.name == "default" {
		return nil, forbidden(r.kind, r.name, errors.New("this namespace always exists"))
	}
	if len(opts.DryRun) > 0 {
		q := r.URL.Query()
		q.Set("dryRun", metav1.DryRunAll)
		r.Request = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
	}
	for try := 1; ; try++ {
		if err := s.before(r.Context(), r.kind); err != nil {
			return nil, err
		}
		old := s.cache.get(r.kind, r.namespace, r.name)
		if old == nil {
			return nil, notFound(r)
		}
		if p := opts.Preconditions; p != nil {
			if p.UID != nil && *p.UID != old.written.GetUID() {
				return nil, conflict(r.kind, r.name, "the uid asked for is %s, the document's is %s", *p.UID, old.written.GetUID())
			}
			if p.ResourceVersion != nil {
				if err := s.unchanged(r, old, *p.ResourceVersion); err != nil {
					return nil, err
				}
			}
		}
		if r.kind.Derived {
			return old.shown, s.removeVirtual(r, old)
		}
		if r.kind == api.Namespace {
			if err := s.empty(r); err != nil {
				return nil, err
			}
		}
		gone, err := s.store(r, "delete", old, old.written)
		if errors.Is(err, bus.ErrConflict) && try < attempts {
			continue
		}
		if errors.Is(err, bus.ErrConflict) {
			err = conflict(r.kind, r.name, "the document keeps changing; try again")
		}
		return gone, err
	}
}

// empty removes all documents of the namespace that r names.
func (s *Server) empty(r *request) error {
	for _, k := range api.Kinds() {
		if !k.Namespaced || k.Derived {
			continue
		}
		all, _ := s.cache.list(k, filter{namespace: r.name})
		for _, u := range all {
			inner := &request{Request: r.Request, caller: r.caller, kind: k, namespace: r.name, name: u.GetName()}
			if _, err := s.remove(inner, &metav1.DeleteOptions{}); err != nil && !isNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// deleteAll removes the documents of a kind that the selectors choose.
func (s *Server) deleteAll(w http.ResponseWriter, r *request) error {
	if !slices.Contains(r.kind.Verbs, "deletecollection") || r.kind.Namespaced && r.namespace == "" {
		return methodNotAllowed(r)
	}
	opts, err := r.deleteOptions()
	if err != nil {
		return err
	}
	want, err := newFilter(r)
	if err != nil {
		return err
	}
	if err := s.before(r.Context(), r.kind); err != nil {
		return err
	}
	all, at := s.cache.list(r.kind, want)
	var gone []*unstructured.Unstructured
	for _, u := range all {
		inner := &request{Request: r.Request, caller: r.caller, kind: r.kind, namespace: u.GetNamespace(), name: u.GetName()}
		if _, err := s.remove(inner, opts); err != nil && !isNotFound(err) {
			return err
		}
		gone = append(gone, u)
	}
	return s.answerList(w, r, gone, listMeta{version: s.version(at)})
}

func (s *Server) removeVirtual(r *request, old *item) error {
	v, can := s.cfg.Virtual[r.kind].(Deleter)
	if !can || !slices.Contains(r.kind.Verbs, "delete") {
		return methodNotAllowed(r)
	}
	dry, err := r.dryRun()
	if err != nil {
		return err
	}
	change := Change{Caller: r.caller, Verb: "delete", Kind: r.kind, Namespace: r.namespace, Name: r.name, Before: old.shown, DryRun: dry, Begun: new(uint64)}
	if err := s.cfg.Hook(r.Context(), change); err != nil {
		return forbidden(r.kind, r.name, err)
	}
	if dry {
		return nil
	}
	if err := v.Delete(r.Context(), r.namespace, r.name); err != nil {
		return s.failed(r, change, err)
	}
	ctx := context.WithoutCancel(r.Context()) // what was deleted may be what the caller was let in by
	if err := s.refresh(ctx, r.kind); err != nil {
		return err
	}
	change.Sequence = max(1, s.position(r.kind))
	return s.cfg.Hook(ctx, change)
}
