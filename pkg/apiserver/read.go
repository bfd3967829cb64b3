package apiserver

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

func isNotFound(err error) bool { return apierrors.IsNotFound(err) }

// A filter chooses documents of a kind. The zero filter takes all.
type filter struct {
	namespace string
	name      string
	labels    labels.Selector
	fields    fields.Selector
}

func newFilter(r *request) (filter, error) {
	f := filter{namespace: r.namespace}
	if text := r.query("labelSelector"); text != "" {
		sel, err := labels.Parse(text)
		if err != nil {
			return f, badRequest("labelSelector: %v", err)
		}
		f.labels = sel
	}
	if text := r.query("fieldSelector"); text != "" {
		sel, err := fields.ParseSelector(text)
		if err != nil {
			return f, badRequest("fieldSelector: %v", err)
		}
		for _, q := range sel.Requirements() {
			if q.Field != "metadata.name" && q.Field != "metadata.namespace" {
				return f, badRequest("fieldSelector: %q is not a field to select by; use metadata.name or metadata.namespace", q.Field)
			}
		}
		f.fields = sel
	}
	return f, nil
}

func (f filter) matches(u *unstructured.Unstructured) bool {
	if f.namespace != "" && u.GetNamespace() != f.namespace {
		return false
	}
	if f.name != "" && u.GetName() != f.name {
		return false
	}
	if f.labels != nil && !f.labels.Matches(labels.Set(u.GetLabels())) {
		return false
	}
	return f.fields == nil || f.fields.Matches(fields.Set{"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace()})
}

func (s *Server) get(w http.ResponseWriter, r *request) error {
	if r.query("resourceVersion") != "0" {
		if err := s.before(r.Context(), r.kind); err != nil {
			return err
		}
	}
	i := s.cache.get(r.kind, r.namespace, r.name)
	if i == nil {
		return notFound(r)
	}
	return s.answer(w, r, http.StatusOK, i.shown)
}

// listMeta is what a list says of itself.
type listMeta struct {
	version, next string
	remaining     int64
}

// A page token says where the next page begins, and the position of the first page: a watch from there repeats
// what changed while the pages were read.
type pageToken struct {
	Position        uint64 `json:"p"`
	Namespace, Name string
}

func (s *Server) list(w http.ResponseWriter, r *request) error {
	want, err := newFilter(r)
	if err != nil {
		return err
	}
	limit := 0
	if text := r.query("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 0 {
			return badRequest("limit must be a number, 0 or more, is %q", text)
		}
	}
	var from *pageToken
	if text := r.query("continue"); text != "" {
		data, err := base64.RawURLEncoding.DecodeString(text)
		if err == nil {
			err = json.Unmarshal(data, &from)
		}
		if err != nil {
			return badRequest("continue is no token of this server")
		}
	}
	if text := r.query("resourceVersion"); r.query("resourceVersionMatch") == "Exact" && text != "0" && text != "" && from == nil {
		if at, err := s.sequence(text); err != nil || at < s.position(r.kind) {
			if err != nil {
				return err
			}
			return s.listPast(w, r, want, at)
		}
	}
	if err := s.listVersion(r, from != nil); err != nil {
		return err
	}
	all, at := s.cache.list(r.kind, want)
	if from != nil {
		at = from.Position
		for len(all) > 0 && (all[0].GetNamespace() < from.Namespace || all[0].GetNamespace() == from.Namespace && all[0].GetName() < from.Name) {
			all = all[1:]
		}
	}
	meta := listMeta{version: s.version(at)}
	if limit > 0 && len(all) > min(limit, maxPage) {
		limit = min(limit, maxPage)
		token, err := json.Marshal(pageToken{Position: at, Namespace: all[limit].GetNamespace(), Name: all[limit].GetName()})
		if err != nil {
			return err
		}
		meta.next = base64.RawURLEncoding.EncodeToString(token)
		meta.remaining = int64(len(all) - limit)
		all = all[:limit]
	}
	return s.answerList(w, r, all, meta)
}

// listVersion minds the resourceVersion of a list: none means now, 0 whatever there is, and a number not before.
// Exact lists of the past are not kept.
func (s *Server) listVersion(r *request, paging bool) error {
	text, match := r.query("resourceVersion"), r.query("resourceVersionMatch")
	if text == "0" || paging {
		return nil
	}
	if err := s.before(r.Context(), r.kind); err != nil {
		return err
	}
	if text == "" {
		return nil
	}
	asked, err := s.sequence(text)
	if err != nil {
		return err
	}
	have := s.position(r.kind)
	if asked > have {
		return future(text, s.version(have))
	}
	if match == "Exact" && asked < have {
		return expired("the state at resourceVersion %s is not kept; list without resourceVersionMatch=Exact", text)
	}
	return nil
}
