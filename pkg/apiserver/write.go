package apiserver

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// attempts of a write that names no resourceVersion, when others write the same document.
const attempts = 8

// create stores a new document. Its namespace is made with it where there is none.
func (s *Server) create(w http.ResponseWriter, r *request) error {
	u, problems, err := r.document()
	if err != nil {
		return err
	}
	if err := r.prepare(u); err != nil {
		return err
	}
	if v, ok := s.cfg.Virtual[r.kind]; r.kind.Derived {
		if maker, can := v.(Creator); ok && can && slices.Contains(r.kind.Verbs, "create") {
			return s.createVirtual(w, r, u, problems, maker)
		}
		return methodNotAllowed(r)
	}
	if u.GetResourceVersion() != "" {
		return badRequest("resourceVersion must not be given when a document is created")
	}
	if err := s.current(r.Context()); err != nil {
		return err
	}
	for try := 1; ; try++ {
		made, err := s.createOnce(r, u.DeepCopy(), problems)
		if errors.Is(err, bus.ErrConflict) && try < attempts {
			if err := s.current(r.Context()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return s.answer(w, r, http.StatusCreated, made)
	}
}

func (s *Server) createOnce(r *request, u *unstructured.Unstructured, problems []api.Problem) (*unstructured.Unstructured, error) {
	if u.GetName() == "" && u.GetGenerateName() != "" {
		base := u.GetGenerateName()
		u.SetName(base[:min(len(base), 58)] + rand.String(5))
	}
	if old := s.cache.get(r.kind, u.GetNamespace(), u.GetName()); old != nil {
		return nil, apierrors.NewAlreadyExists(r.kind.GroupResource(), u.GetName())
	}
	begin(r.kind, u)
	r.warnings = nil
	if err := r.check(u, problems); err != nil {
		return nil, err
	}
	var err error
	if u, err = s.manage(r, emptyOf(r.kind), u); err != nil {
		return nil, err
	}
	return s.store(r, "create", nil, u)
}

// begin sets what the server sets on a new document.
func begin(k *api.Kind, u *unstructured.Unstructured) {
	u.SetUID(newUID())
	u.SetCreationTimestamp(metav1.NewTime(time.Now().UTC().Truncate(time.Second)))
	u.SetGeneration(1)
	u.SetDeletionTimestamp(nil)
	u.SetDeletionGracePeriodSeconds(nil)
	u.SetSelfLink("")
	own(k, u)
}

// newUID makes a random identifier (RFC 9562 §5.4).
func newUID() types.UID {
	var b [16]byte
	_, _ = cryptorand.Read(b[:]) // does not fail
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// own sets what is the server's on every revision.
func own(k *api.Kind, u *unstructured.Unstructured) {
	delete(u.Object, "status")
	if k == api.Namespace {
		labels := u.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kubernetes.io/metadata.name"] = u.GetName()
		u.SetLabels(labels)
		u.Object["status"] = map[string]any{"phase": "Active"}
	}
}

// makeNamespace stores a namespace that somebody used without making it.
func (s *Server) makeNamespace(ctx context.Context, caller Caller, name string) (*unstructured.Unstructured, error) {
	return s.make(ctx, caller, api.Namespace, namespaceNamed(name))
}

func namespaceNamed(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}}
}

// make stores a document of a kind without namespaces that nobody wrote.
func (s *Server) make(ctx context.Context, caller Caller, k *api.Kind, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, root(k)+"/"+k.Plural+"?fieldManager=sennit", nil)
	if err != nil {
		return nil, err
	}
	r := &request{Request: req, caller: caller, kind: k}
	made, err := s.createOnce(r, u, nil)
	if apierrors.IsAlreadyExists(err) || errors.Is(err, bus.ErrConflict) { // somebody else was faster
		return nil, nil
	}
	return made, err
}

// replace stores a whole document over the one that is there.
func (s *Server) replace(w http.ResponseWriter, r *request) error {
	u, problems, err := r.document()
	if err != nil {
		return err
	}
	if err := r.prepare(u); err != nil {
		return err
	}
	return s.change(w, r, "update", func(old *item) (*unstructured.Unstructured, []api.Problem, error) {
		return u.DeepCopy(), problems, nil
	})
}

// change stores what next makes of the document, again and again while others are faster and the caller named
// no resourceVersion.
func (s *Server) change(w http.ResponseWriter, r *request, verb string, next func(old *item) (*unstructured.Unstructured, []api.Problem, error)) error {
	if r.kind.Derived {
		return methodNotAllowed(r)
	}
	for try := 1; ; try++ {
		if err := s.current(r.Context()); err != nil {
			return err
		}
		old := s.cache.get(r.kind, r.namespace, r.name)
		if old == nil {
			return notFound(r)
		}
		u, problems, err := next(old)
		if err != nil {
			return err
		}
		stored, err := s.changeOnce(r, verb, old, u, problems)
		if errors.Is(err, bus.ErrConflict) {
			if try == attempts {
				return conflict(r.kind, r.name, "the document was changed meanwhile; read it again and apply your changes to what it is now")
			}
			continue
		}
		if err != nil {
			return err
		}
		return s.answer(w, r, http.StatusOK, stored)
	}
}

func unconditional(version string) bool { return version == "" || version == "0" }

// changeOnce checks and stores the next revision of a document, or of its status.
func (s *Server) changeOnce(r *request, verb string, old *item, u *unstructured.Unstructured, problems []api.Problem) (*unstructured.Unstructured, error) {
	if err := r.prepare(u); err != nil {
		return nil, err
	}
	if uid := u.GetUID(); uid != "" && uid != old.written.GetUID() {
		return nil, conflict(r.kind, r.name, "the uid asked for is %s, the document's is %s: it was deleted and made again", uid, old.written.GetUID())
	}
	if err := s.unchanged(r, old, u.GetResourceVersion()); err != nil {
		return nil, err
	}
	if r.status {
		return s.changeStatus(r, verb, old, u)
	}
	was := old.written
	u.SetUID(was.GetUID())
	u.SetCreationTimestamp(was.GetCreationTimestamp())
	u.SetGeneration(was.GetGeneration())
	u.SetGenerateName(was.GetGenerateName())
	u.SetResourceVersion("")
	u.SetDeletionTimestamp(nil)
	u.SetSelfLink("")
	own(r.kind, u)
	r.warnings = nil
	if err := r.check(u, problems); err != nil {
		return nil, err
	}
	if problem := api.Frozen(r.kind, was, u); problem != "" {
		return nil, invalid(r.kind, r.name, []api.Problem{{Reason: api.Invalid, Message: problem}})
	}
	if !equality.Semantic.DeepEqual(content(was), content(u)) {
		u.SetGeneration(was.GetGeneration() + 1)
	}
	var err error
	if verb != "apply" && verb != verbRollback { // which have managed the fields themselves
		if u, err = s.manage(r, was, u); err != nil {
			return nil, err
		}
	}
	if same(was, u) {
		return old.shown, nil
	}
	return s.store(r, verb, old, u)
}

// unchanged refuses a write whose resourceVersion is older than the document.
func (s *Server) unchanged(r *request, old *item, asked string) error {
	if unconditional(asked) {
		return nil
	}
	have, err := s.sequence(asked)
	if err != nil && !apierrors.IsResourceExpired(err) {
		return err
	}
	if err != nil || have < old.sequence || have > s.cache.resources.At() {
		return conflict(r.kind, r.name, "resourceVersion %s is not the document's, which is %s; read it again and apply your changes to what it is now",
			asked, old.shown.GetResourceVersion())
	}
	return nil
}

// content is a document without metadata and status: what a generation numbers.
func content(u *unstructured.Unstructured) map[string]any {
	m := maps.Clone(u.Object)
	delete(m, "metadata")
	delete(m, "status")
	return m
}

// same tells whether two revisions differ in nothing but the times of who manages which fields.
func same(a, b *unstructured.Unstructured) bool {
	timeless := func(u *unstructured.Unstructured) *unstructured.Unstructured {
		c := u.DeepCopy()
		fields := c.GetManagedFields()
		for i := range fields {
			fields[i].Time = nil
		}
		c.SetManagedFields(fields)
		return c
	}
	return equality.Semantic.DeepEqual(timeless(a).Object, timeless(b).Object)
}

// store appends a revision, where nobody was faster, and waits until reads show it. old is nil for a new document.
func (s *Server) store(r *request, verb string, old *item, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	ctx := r.Context()
	change := Change{Caller: r.caller, Verb: verb, Kind: r.kind, Namespace: u.GetNamespace(), Name: u.GetName(), After: u}
	expect := s.cache.last(r.kind, u.GetNamespace(), u.GetName())
	if old != nil {
		change.Before, expect = old.written, old.sequence
	}
	if verb == "delete" {
		change.After = nil
	}
	dry, err := r.dryRun()
	if err != nil {
		return nil, err
	}
	change.DryRun = dry
	if verb != "delete" {
		if err := s.mayGrant(r, change.Before, u); err != nil {
			return nil, err
		}
	}
	if err := s.cfg.Hook(ctx, change); err != nil {
		return nil, forbidden(r.kind, u.GetName(), err)
	}
	if dry {
		return shownDry(u, old), nil
	}
	if ns := u.GetNamespace(); ns != "" && verb != "delete" && s.cache.get(api.Namespace, "", ns) == nil {
		made, err := s.makeNamespace(ctx, r.caller, ns)
		if err != nil {
			return nil, fmt.Errorf("make namespace %q: %w", ns, err)
		}
		if made != nil {
			r.warn(fmt.Sprintf("namespace %q was not there and has been made", ns))
		}
	}
	open, sealed, err := s.seal(r.kind, u)
	if err != nil {
		return nil, err
	}
	object, err := json.Marshal(open.Object)
	if err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	was := uint64(0)
	if old != nil {
		was = old.sequence
	}
	data, err := json.Marshal(record{User: r.caller.User, From: r.caller.From, Verb: verb, Deleted: verb == "delete", Was: was, Object: object, Sealed: sealed})
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	seq, err := s.cfg.Resources.Append(ctx, subject(resourcePrefix, r.kind, u.GetNamespace(), u.GetName()), data, expect)
	if err != nil {
		return nil, err
	}
	change.Sequence = seq
	if err := s.cfg.Hook(ctx, change); err != nil {
		return nil, fmt.Errorf("record that %s was stored: %w", u.GetName(), err)
	}
	if err := s.cache.resources.Wait(ctx, seq); err != nil {
		return nil, err
	}
	if verb == "delete" {
		return withVersion(old.shown, s.version(seq)), nil
	}
	if now := s.cache.get(r.kind, u.GetNamespace(), u.GetName()); now != nil && now.sequence == seq {
		u = now.shown
	} // else somebody has already changed it again
	// A status that came meanwhile shows a later version, which the audit knows as another document's change.
	return withVersion(u, s.version(seq)), nil
}

// shownDry is what would be shown after a write that is not made.
func shownDry(u *unstructured.Unstructured, old *item) *unstructured.Unstructured {
	if old == nil {
		return u
	}
	c := withVersion(u, old.shown.GetResourceVersion())
	if st, have := old.shown.Object["status"]; have {
		c.Object["status"] = st
	}
	return c
}

// createVirtual lets the owner of a kind make a document. What it returns may hold a secret, so the hook sees
// what was asked for.
func (s *Server) createVirtual(w http.ResponseWriter, r *request, u *unstructured.Unstructured, problems []api.Problem, maker Creator) error {
	if u.GetName() == "" && u.GetGenerateName() != "" {
		u.SetName(u.GetGenerateName() + rand.String(5))
	}
	delete(u.Object, "status")
	if err := r.check(u, problems); err != nil {
		return err
	}
	dry, err := r.dryRun()
	if err != nil {
		return err
	}
	change := Change{Caller: r.caller, Verb: "create", Kind: r.kind, Name: u.GetName(), After: u.DeepCopy(), DryRun: dry, Begun: new(uint64)}
	if err := s.cfg.Hook(r.Context(), change); err != nil {
		return forbidden(r.kind, u.GetName(), err)
	}
	if dry {
		return s.answer(w, r, http.StatusCreated, u)
	}
	made, err := maker.Create(r.Context(), u)
	if err != nil {
		return s.failed(r, change, err)
	}
	change.Name = made.GetName()
	if err := s.refresh(r.Context(), r.kind); err != nil {
		return err
	}
	change.Sequence = max(1, s.position(r.kind))
	if err := s.cfg.Hook(r.Context(), change); err != nil {
		return fmt.Errorf("record that %s was made: %w", u.GetName(), err)
	}
	return s.answer(w, r, http.StatusCreated, made)
}

// failed tells the hook that a change which it let through was not stored, and returns why.
func (s *Server) failed(r *request, change Change, err error) error {
	change.Err = err
	return errors.Join(err, s.cfg.Hook(context.WithoutCancel(r.Context()), change))
}
