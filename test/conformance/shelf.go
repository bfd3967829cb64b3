package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	jsonpatch "github.com/evanphx/json-patch/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// A Shelf holds documents of one kind that Sennit's API does not have, in memory. It answers to what the suite asks of
// them: create, get, list by labels, update, merge patch, delete. Changed is told of every change, one after the other;
// old is nil where the document is new, now where it is gone. Nobody changes a document that is on the shelf.
type Shelf struct {
	Kind    schema.GroupVersionKind
	Plural  string
	Changed func(old, now *unstructured.Unstructured)

	mu        sync.Mutex
	documents map[types.NamespacedName]*unstructured.Unstructured
}

// versions are given out across all shelves, as a cluster's store does.
var versions atomic.Int64

// Put stores a document, whatever there was.
func (s *Shelf) Put(u *unstructured.Unstructured) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(u)
}

func (s *Shelf) put(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	name := types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}
	old := s.documents[name]
	u.SetGroupVersionKind(s.Kind)
	u.SetResourceVersion(strconv.FormatInt(versions.Add(1), 10))
	if old == nil {
		u.SetUID(uuid.NewUUID())
		u.SetCreationTimestamp(metav1.Now())
		u.SetGeneration(1)
	} else {
		u.SetUID(old.GetUID())
		u.SetCreationTimestamp(old.GetCreationTimestamp())
		u.SetGeneration(old.GetGeneration() + 1)
	}
	if s.documents == nil {
		s.documents = map[types.NamespacedName]*unstructured.Unstructured{}
	}
	s.documents[name] = u
	if s.Changed != nil {
		s.Changed(old, u)
	}
	return u
}

// Remove takes a document off, and reports whether it was there.
func (s *Shelf) Remove(name types.NamespacedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.documents[name]
	delete(s.documents, name)
	if old != nil && s.Changed != nil {
		s.Changed(old, nil)
	}
	return old != nil
}

// Get returns a document, or nil.
func (s *Shelf) Get(name types.NamespacedName) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents[name]
}

// List returns the documents of a namespace, or of all (""), that a selector selects, by name.
func (s *Shelf) List(namespace string, selector labels.Selector) []*unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.DeleteFunc(slices.Collect(maps.Values(s.documents)), func(u *unstructured.Unstructured) bool {
		return namespace != "" && u.GetNamespace() != namespace || !selector.Matches(labels.Set(u.GetLabels()))
	})
	slices.SortFunc(all, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	return all
}

// Serve has the shelf answer below prefix ("/apis/apps/v1").
func (s *Shelf) Serve(mux *http.ServeMux, prefix string) {
	every, one := prefix+"/namespaces/{namespace}/"+s.Plural, prefix+"/namespaces/{namespace}/"+s.Plural+"/{name}"
	mux.HandleFunc("GET "+prefix+"/"+s.Plural, s.list)
	mux.HandleFunc("GET "+every, s.list)
	mux.HandleFunc("POST "+every, func(w http.ResponseWriter, r *http.Request) { s.write(w, r, http.StatusCreated) })
	mux.HandleFunc("GET "+one, s.get)
	mux.HandleFunc("PUT "+one, func(w http.ResponseWriter, r *http.Request) { s.write(w, r, http.StatusOK) })
	mux.HandleFunc("PATCH "+one, func(w http.ResponseWriter, r *http.Request) { s.write(w, r, http.StatusOK) })
	mux.HandleFunc("DELETE "+one, func(w http.ResponseWriter, r *http.Request) {
		if !s.Remove(named(r)) {
			s.missing(w, r)
			return
		}
		answer(w, http.StatusOK, metav1.Status{TypeMeta: statusType, Status: metav1.StatusSuccess})
	})
}

func (s *Shelf) list(w http.ResponseWriter, r *http.Request) {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	items := []any{}
	for _, u := range s.List(r.PathValue("namespace"), selector) {
		items = append(items, u.Object)
	}
	answer(w, http.StatusOK, map[string]any{
		"apiVersion": s.Kind.GroupVersion().String(), "kind": s.Kind.Kind + "List",
		"metadata": map[string]any{"resourceVersion": strconv.FormatInt(versions.Load(), 10)}, "items": items,
	})
}

func (s *Shelf) get(w http.ResponseWriter, r *http.Request) {
	if u := s.Get(named(r)); u != nil {
		answer(w, http.StatusOK, u.Object)
		return
	}
	s.missing(w, r)
}

// write stores what a POST, PUT or PATCH says.
func (s *Shelf) write(w http.ResponseWriter, r *http.Request, success int) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.documents[named(r)]
	if r.Method != http.MethodPost && old == nil {
		s.missing(w, r)
		return
	}
	if r.Method == http.MethodPatch {
		if t := r.Header.Get("Content-Type"); t != string(types.MergePatchType) {
			refuse(w, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", schema.GroupResource{}, "", "only merge patches are served here, not "+t, 0, false))
			return
		}
		before, err := json.Marshal(old.Object)
		if err == nil {
			body, err = jsonpatch.MergePatch(before, body)
		}
		if err != nil {
			refuse(w, apierrors.NewBadRequest(err.Error()))
			return
		}
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(body, &u.Object); err != nil {
		refuse(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	u.SetNamespace(r.PathValue("namespace"))
	if r.Method == http.MethodPost && s.documents[types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}] != nil {
		refuse(w, apierrors.NewAlreadyExists(s.resource(), u.GetName()))
		return
	}
	answer(w, success, s.put(u).Object)
}

func (s *Shelf) resource() schema.GroupResource {
	return schema.GroupResource{Group: s.Kind.Group, Resource: s.Plural}
}

func (s *Shelf) missing(w http.ResponseWriter, r *http.Request) {
	refuse(w, apierrors.NewNotFound(s.resource(), r.PathValue("name")))
}

var statusType = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}

// named is the document that a path names.
func named(r *http.Request) types.NamespacedName {
	return types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
}

func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.TypeMeta = statusType
	answer(w, int(status.Code), status)
}

func answer(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, fmt.Sprintf("encode the answer: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
