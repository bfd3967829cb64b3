package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// patch changes a document by what the body says, in one of four languages.
func (s *Server) patch(w http.ResponseWriter, r *request) error {
	if r.kind.Derived {
		return methodNotAllowed(r)
	}
	body, err := r.readBody()
	if err != nil {
		return err
	}
	switch t := types.PatchType(r.contentType()); t {
	case types.ApplyYAMLPatchType:
		return s.apply(w, r, body)
	case types.MergePatchType, types.JSONPatchType, types.StrategicMergePatchType:
		if t == types.StrategicMergePatchType && !r.kind.Core {
			return unsupportedType(string(t), string(types.MergePatchType), string(types.JSONPatchType), string(types.ApplyYAMLPatchType))
		}
		return s.change(w, r, "patch", func(old *item) (*unstructured.Unstructured, []api.Problem, error) {
			return patched(r.kind, old, t, body)
		})
	default:
		return unsupportedType(string(t), string(types.MergePatchType), string(types.JSONPatchType),
			string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType))
	}
}

// maxOperations bounds a JSON patch: each may copy the whole document.
const maxOperations = 1000

// patched returns the document with the patch applied. A resourceVersion that the patch does not name is empty.
func patched(k *api.Kind, old *item, t types.PatchType, body []byte) (*unstructured.Unstructured, []api.Problem, error) {
	was := old.shown.DeepCopy()
	was.SetResourceVersion("")
	doc, err := json.Marshal(was.Object)
	if err != nil {
		return nil, nil, err
	}
	switch t {
	case types.JSONPatchType:
		operations, err := jsonpatch.DecodePatch(body)
		if err != nil {
			return nil, nil, badRequest("the JSON patch cannot be read: %v", err)
		}
		if len(operations) > maxOperations {
			return nil, nil, badRequest("the JSON patch has %d operations, more than %d", len(operations), maxOperations)
		}
		if doc, err = operations.Apply(doc); err != nil {
			return nil, nil, failure(http.StatusUnprocessableEntity, "Invalid", fmt.Sprintf("the JSON patch does not fit the document: %v", err))
		}
	case types.StrategicMergePatchType:
		if doc, err = strategicpatch.StrategicMergePatch(doc, body, k.New()); err != nil {
			return nil, nil, badRequest("the strategic merge patch cannot be applied: %v", err)
		}
	default:
		if doc, err = jsonpatch.MergePatch(doc, body); err != nil {
			return nil, nil, badRequest("the merge patch cannot be applied: %v", err)
		}
		_, duplicates, err := fromJSON(body)
		if err != nil {
			return nil, nil, err
		}
		u, _, err := fromJSON(doc)
		return u, duplicates, err
	}
	return fromJSON(doc)
}

// apply is server-side apply: what the body says becomes this manager's, what others manage stays theirs.
func (s *Server) apply(w http.ResponseWriter, r *request, body []byte) error {
	if r.query("fieldManager") == "" {
		return badRequest("fieldManager is required for apply")
	}
	u, problems, err := fromYAML(body)
	if err != nil {
		return err
	}
	if err := r.prepare(u); err != nil {
		return err
	}
	if r.status {
		return unsupportedType(string(types.ApplyYAMLPatchType), string(types.MergePatchType))
	}
	if u.GetManagedFields() != nil {
		return badRequest("metadata.managedFields must not be given in an apply")
	}
	// What is wrong with the body is said in terms of the body, before it is merged into anything.
	if err := r.checkShape(u, problems); err != nil {
		return err
	}
	delete(u.Object, "status")
	api.CompleteLists(r.kind, u) // else the same list, once with and once without defaults, were a conflict
	force := isTrue(r.query("force"))
	for try := 1; ; try++ {
		if err := s.current(r.Context()); err != nil {
			return err
		}
		old := s.cache.get(r.kind, r.namespace, r.name)
		live := emptyOf(r.kind)
		if old != nil {
			live = old.written.DeepCopy()
		}
		merged, err := s.managers[r.kind].Apply(live, u.DeepCopy(), r.manager(), force)
		if err != nil {
			return applyError(err)
		}
		next := merged.(*unstructured.Unstructured)
		next.SetResourceVersion(u.GetResourceVersion())
		code, stored := http.StatusOK, (*unstructured.Unstructured)(nil)
		if old == nil {
			code = http.StatusCreated
			if err := s.mayCreate(r); err != nil {
				return err
			}
			if !unconditional(u.GetResourceVersion()) || u.GetUID() != "" {
				return conflict(r.kind, r.name, "the document is not there, but the apply names its resourceVersion or uid")
			}
			next.SetResourceVersion("")
			begin(r.kind, next)
			if err = r.check(next, nil); err == nil {
				stored, err = s.store(r, "apply", nil, next)
			}
		} else {
			stored, err = s.changeOnce(r, "apply", old, next, nil)
		}
		if errors.Is(err, bus.ErrConflict) && try < attempts {
			continue
		}
		if errors.Is(err, bus.ErrConflict) {
			err = conflict(r.kind, r.name, "the document was changed meanwhile")
		}
		if err != nil {
			return err
		}
		return s.answer(w, r, code, stored)
	}
}

func applyError(err error) error {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	return badRequest("the document cannot be applied: %v", err)
}

// manage notes which fields r's manager has changed between two revisions.
func (s *Server) manage(r *request, was, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	o, err := s.managers[r.kind].Update(was.DeepCopy(), u, r.manager())
	if err != nil {
		return nil, fmt.Errorf("note who manages which fields: %w", err)
	}
	return o.(*unstructured.Unstructured), nil
}

// fieldManagers returns the bookkeeper of managed fields for each kind that is stored.
func fieldManagers() (map[*api.Kind]*managedfields.FieldManager, error) {
	converter, err := managedfields.NewTypeConverter(api.Definitions(), false)
	if err != nil {
		return nil, err
	}
	out := map[*api.Kind]*managedfields.FieldManager{}
	for _, k := range api.Kinds() {
		if k.Derived {
			continue
		}
		m, err := managedfields.NewDefaultFieldManager(converter, oneVersion{}, oneVersion{}, oneVersion{}, k.GVK(), k.GVK().GroupVersion(), "", nil)
		if err != nil {
			return nil, err
		}
		out[k] = m
	}
	return out, nil
}

// oneVersion tells the managers that every kind has one version, and no defaults but those that are already set.
type oneVersion struct{}

func (oneVersion) Convert(in, out, _ any) error {
	return fmt.Errorf("no conversion from %T to %T", in, out)
}

func (oneVersion) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}

func (oneVersion) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (oneVersion) Default(runtime.Object) {}

func (oneVersion) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// emptyOf is the document of a kind that has nothing yet.
func emptyOf(k *api.Kind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.GVK())
	return u
}
