package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// Secrets are what of a document is sealed. kubectl apply writes the whole document into an annotation.
type secrets struct {
	Data        map[string]any `json:"data,omitempty"`
	LastApplied string         `json:"lastApplied,omitempty"`
}

// seal divides a document of a sealed kind into what the log may show and what is sealed; others are left as they are.
func (s *Server) seal(k *api.Kind, u *unstructured.Unstructured) (open *unstructured.Unstructured, sealed []byte, err error) {
	if !k.Sealed {
		return u, nil, nil
	}
	if s.cfg.Sealer == nil {
		return nil, nil, errors.New("seal document: there is no key to seal with")
	}
	open = u.DeepCopy()
	annotations := open.GetAnnotations()
	data, _ := open.Object["data"].(map[string]any)
	plain, err := json.Marshal(secrets{data, annotations[corev1.LastAppliedConfigAnnotation]})
	if err != nil {
		return nil, nil, fmt.Errorf("seal document: %w", err)
	}
	delete(open.Object, "data")
	if _, have := annotations[corev1.LastAppliedConfigAnnotation]; have {
		delete(annotations, corev1.LastAppliedConfigAnnotation)
		open.SetAnnotations(annotations)
	}
	return open, s.cfg.Sealer.Seal(nil, nil, plain, sealedFor(open)), nil
}

// sealedFor binds what is sealed to its document, so that nobody can put it into another.
func sealedFor(u *unstructured.Unstructured) []byte {
	return []byte(strings.Join([]string{"sennit document v1", u.GetKind(), u.GetNamespace(), u.GetName(), string(u.GetUID())}, "\x00"))
}

// readWhole is ReadWritten with what is sealed put back.
func (s *Server) readWhole(e bus.Entry) (Written, error) {
	w, err := ReadWritten(e)
	if err != nil || len(w.sealed) == 0 {
		return w, err
	}
	if s.cfg.Sealer == nil {
		return w, errors.New("open sealed document: there is no key")
	}
	plain, err := s.cfg.Sealer.Open(nil, nil, w.sealed, sealedFor(w.Document))
	if err != nil {
		return w, errors.New("open sealed document: it was sealed with another key, or changed (the log and the authority's files must be of one controller, or restored from one backup)")
	}
	var in secrets
	if err := kjson.UnmarshalCaseSensitivePreserveInts(plain, &in); err != nil {
		return w, errors.New("open sealed document: what was sealed cannot be read")
	}
	if in.Data != nil {
		w.Document.Object["data"] = in.Data
	}
	if in.LastApplied != "" {
		annotations := w.Document.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[corev1.LastAppliedConfigAnnotation] = in.LastApplied
		w.Document.SetAnnotations(annotations)
	}
	return w, nil
}
