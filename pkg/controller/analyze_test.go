package controller

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// Every kind that operators write counts in what is analyzed before it is applied: one that did not would be missed by what
// names it.
func TestDocumentsOfEveryKindAreLaidOver(t *testing.T) {
	for _, k := range api.Kinds() {
		if k.Derived || k.Group == api.Roles.Group { // what operators may do changes nothing of the mesh
			continue
		}
		u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "a", "namespace": "shop"}}}
		u.SetGroupVersionKind(k.GVK())
		in, err := overlaid(compile.Input{}, []api.Document{{Kind: k, Object: u}})
		if err != nil {
			t.Errorf("%s: %v", k.Name, err)
		}
		if reflect.DeepEqual(in, compile.Input{}) {
			t.Errorf("a %s is not looked at", k.Name)
		}
	}
}
