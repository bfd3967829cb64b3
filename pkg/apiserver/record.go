package apiserver

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A record is one revision of a document in the log of resources. A deletion carries the last document.
type record struct {
	User    string          `json:"user,omitempty"` // who wrote it
	From    string          `json:"from,omitempty"` // and from where
	Verb    string          `json:"verb,omitempty"`
	Deleted bool            `json:"deleted,omitempty"`
	Was     uint64          `json:"was,omitempty"` // sequence of the revision that it replaces; 0: there was none
	Object  json.RawMessage `json:"object"`        // without status and resourceVersion, and of a sealed kind without what is in Sealed
	Sealed  []byte          `json:"sealed,omitempty"`
}

// A statusRecord is the newest status of one document. It says which document it is of, since a document that
// was deleted and made again has nothing to do with the status of the one before.
type statusRecord struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Namespace  string          `json:"namespace,omitempty"`
	Name       string          `json:"name"`
	UID        string          `json:"uid"`
	Seen       uint64          `json:"seen"` // how far the writer had read the log of resources
	Status     json.RawMessage `json:"status"`
}

// The first tokens of subjects.
const (
	resourcePrefix = "sennit.resource."
	statusPrefix   = "sennit.status."
)

// subject names a document in a log. Names are escaped into one token each; the core group and a missing
// namespace are the escaped empty name.
func subject(prefix string, k *api.Kind, namespace, name string) string {
	return prefix + strings.Join([]string{
		snapshot.Escape(k.Group), snapshot.Escape(k.Plural), snapshot.Escape(namespace), snapshot.Escape(name),
	}, ".")
}

// applyResource takes one revision into the cache.
func (s *Server) applyResource(e bus.Entry) error {
	w, err := s.readWhole(e)
	if err != nil {
		return err
	}
	if w.Kind == nil {
		return fmt.Errorf("no kind %q in %s (written by a newer version?)", w.Document.GetKind(), w.Document.GetAPIVersion())
	}
	s.cache.putResource(w.Kind, w.Document, e.Sequence, w.Deleted, s.version)
	return nil
}

// Written is one revision of a document as the log has it.
type Written struct {
	Caller
	Verb     string
	Deleted  bool
	Was      uint64                     // sequence of the revision that it replaces; 0: there was none
	Kind     *api.Kind                  // nil: of a newer version
	Document *unstructured.Unstructured // the last one where it is deleted; of a sealed kind without what is sealed
	sealed   []byte
}

// ReadWritten decodes an entry of the log of resources. What is sealed in it stays so.
func ReadWritten(e bus.Entry) (Written, error) {
	var r record
	if err := json.Unmarshal(e.Data, &r); err != nil {
		return Written{}, fmt.Errorf("decode record: %w", err)
	}
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(r.Object, &u.Object); err != nil {
		return Written{}, fmt.Errorf("decode document: %w", err)
	}
	return Written{Caller{User: r.User, From: r.From}, r.Verb, r.Deleted, r.Was, api.ByKind(u.GetAPIVersion(), u.GetKind()), u, r.Sealed}, nil
}

// applyStatus takes one status into the cache.
func (s *Server) applyStatus(e bus.Entry) error {
	var r statusRecord
	if err := json.Unmarshal(e.Data, &r); err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	k := api.ByKind(r.APIVersion, r.Kind)
	if k == nil {
		return fmt.Errorf("no kind %q in %s (written by a newer version?)", r.Kind, r.APIVersion)
	}
	var status any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(r.Status, &status); err != nil {
		return fmt.Errorf("decode status: %w", err)
	}
	s.cache.putStatus(k, r, status, e.Sequence, s.version)
	return nil
}
