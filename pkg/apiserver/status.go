package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// changeStatus stores the status part of u and nothing else of it.
func (s *Server) changeStatus(r *request, verb string, old *item, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	whole := old.written.DeepCopy()
	delete(whole.Object, "status")
	if st := u.Object["status"]; st != nil {
		whole.Object["status"] = st
	}
	if err := r.check(whole, nil); err != nil {
		return nil, err
	}
	dry, err := r.dryRun()
	if err != nil {
		return nil, err
	}
	change := Change{Caller: r.caller, Verb: verb + "/status", Kind: r.kind, Namespace: r.namespace, Name: r.name, Before: old.shown, After: whole, DryRun: dry, Begun: new(uint64)}
	if err := s.cfg.Hook(r.Context(), change); err != nil {
		return nil, forbidden(r.kind, r.name, err)
	}
	if dry {
		return withVersion(whole, old.shown.GetResourceVersion()), nil
	}
	if change.Sequence, err = s.putStatus(r.Context(), r.kind, old, whole.Object["status"]); err != nil {
		return nil, s.failed(r, change, err)
	}
	if err := s.cfg.Hook(r.Context(), change); err != nil {
		return nil, fmt.Errorf("record that the status of %s was stored: %w", r.name, err)
	}
	if now := s.cache.get(r.kind, r.namespace, r.name); now != nil {
		return now.shown, nil
	}
	return nil, notFound(r)
}

// WriteStatus stores the status (such as a gatewayv1.RouteStatus, or a map) of the document with this uid. It
// does nothing where the document is gone, or has the same status. It is for the controller itself: no hook is asked.
func (s *Server) WriteStatus(ctx context.Context, k *api.Kind, namespace, name, uid string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the status of %s %s/%s: %w", k.Name, namespace, name, err)
	}
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &m); err != nil {
		return fmt.Errorf("the status of %s %s/%s is no map: %w", k.Name, namespace, name, err)
	}
	for range attempts {
		old := s.cache.get(k, namespace, name)
		if old == nil || string(old.written.GetUID()) != uid || equality.Semantic.DeepEqual(old.shown.Object["status"], any(m)) {
			return nil
		}
		_, err := s.putStatus(ctx, k, old, m)
		if err == nil {
			return nil
		}
		if !errors.Is(err, bus.ErrConflict) {
			return fmt.Errorf("store the status of %s %s/%s: %w", k.Name, namespace, name, err)
		}
		if err := s.current(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("store the status of %s %s/%s: %w", k.Name, namespace, name, bus.ErrConflict)
}

// putStatus appends a status, and waits until reads show it.
func (s *Server) putStatus(ctx context.Context, k *api.Kind, of *item, value any) (uint64, error) {
	st, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("encode status: %w", err)
	}
	u := of.written
	data, err := json.Marshal(statusRecord{
		APIVersion: k.APIVersion(), Kind: k.Name, Namespace: u.GetNamespace(), Name: u.GetName(),
		UID: string(u.GetUID()), Seen: s.cache.resources.At(), Status: st,
	})
	if err != nil {
		return 0, fmt.Errorf("encode status: %w", err)
	}
	seq, err := s.cfg.Status.Append(ctx, subject(statusPrefix, k, u.GetNamespace(), u.GetName()), data,
		s.cache.statusLast(k, u.GetNamespace(), u.GetName()))
	if err != nil {
		return 0, err
	}
	return seq, s.cache.statuses.Wait(ctx, seq)
}

// Documents returns all documents of a kind as they are now, and the sequence of the log of resources that they
// stand for: nothing stored up to it is missing. They must not be changed.
func (s *Server) Documents(ctx context.Context, k *api.Kind) ([]*unstructured.Unstructured, uint64, error) {
	if err := s.before(ctx, k); err != nil {
		return nil, 0, err
	}
	all, at := s.cache.list(k, filter{})
	return all, at, nil
}

// Changed returns a channel that is closed when a document changes, or anything else is appended to the log of
// resources.
func (s *Server) Changed() <-chan struct{} { return s.cache.resources.Moved() }

func (s *Server) position(k *api.Kind) uint64 {
	s.cache.mu.RLock()
	defer s.cache.mu.RUnlock()
	return s.cache.position(k)
}
