package apiserver

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// tokens owns join tokens, as the registry does.
type tokens struct {
	mu      sync.Mutex
	all     []*unstructured.Unstructured
	version uint64
	changed chan struct{}
}

func (o *tokens) List(context.Context) ([]*unstructured.Unstructured, uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.all), o.version, nil
}

func (o *tokens) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

func (o *tokens) change(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
	o.version++
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *tokens) Create(_ context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	o.change(func() { o.all = append(o.all, u) })
	shown := u.DeepCopy()
	return shown, unstructured.SetNestedField(shown.Object, "secret", "status", "token")
}

func (o *tokens) Delete(_ context.Context, _, name string) error {
	o.change(func() {
		o.all = slices.DeleteFunc(o.all, func(u *unstructured.Unstructured) bool { return u.GetName() == name })
	})
	return nil
}

func TestVirtualKinds(t *testing.T) {
	t.Parallel()
	owner := &tokens{changed: make(chan struct{})}
	slicesOf := &tokens{changed: make(chan struct{})}
	port := int32(80)
	slice, err := api.From(api.EndpointSlice, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "a-0", Namespace: "default"}, AddressType: "IPv4",
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}, Ports: []discoveryv1.EndpointPort{{Port: &port}},
	})
	if err != nil {
		t.Fatal(err)
	}
	slicesOf.change(func() { slicesOf.all = append(slicesOf.all, slice) })
	var secrets []any
	w := start(t, func(c *Config) {
		c.Virtual = map[*api.Kind]Virtual{api.JoinTokens: owner, api.EndpointSlice: slicesOf}
		c.Hook = func(_ context.Context, c Change) error {
			if c.After != nil && c.Kind == api.JoinTokens {
				secrets = append(secrets, c.After.Object["status"])
			}
			return nil
		}
	})
	const path = "/apis/sennit.dev/v1alpha1/jointokens"
	doc := `{"apiVersion":"sennit.dev/v1alpha1","kind":"JoinToken","metadata":{"name":"web1"},"spec":{"node":"web1","services":["default/orders"]}}`
	s := w.watch(path + "?watch=1")
	made := w.must(201, "POST", path, jsonType, doc)
	if at(made, "status", "token") != "secret" {
		t.Errorf("the token is not in the answer: %v", made)
	}
	s.expect("ADDED web1")
	got := w.must(200, "GET", path+"/web1", "", "")
	if at(got, "status", "token") != nil || at(got, "spec", "node") != "web1" {
		t.Errorf("shown again: %v", got)
	}
	if len(secrets) != 2 || secrets[0] != nil || secrets[1] != nil {
		t.Errorf("the hook has seen the secret: %v", secrets)
	}
	w.must(422, "POST", path, jsonType, `{"metadata":{"name":"x"},"spec":{"node":"x","services":["orders"]}}`)
	w.must(405, "PATCH", path+"/web1", mergeType, `{}`)
	w.must(200, "DELETE", path+"/web1", "", "")
	s.expect("DELETED web1")
	w.must(404, "GET", path+"/web1", "", "")

	const endpoints = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	if o := w.must(200, "GET", endpoints, "", ""); at(o, "items", 0, "endpoints", 0, "addresses", 0) != "10.0.0.1" {
		t.Errorf("endpoints: %v", o)
	}
	w.must(405, "DELETE", endpoints+"/a-0", "", "")
	w.must(405, "POST", endpoints, jsonType, `{"metadata":{"name":"x"},"addressType":"IPv4","endpoints":[]}`)
	w.must(200, "GET", "/apis/sennit.dev/v1alpha1/nodes", "", "") // nobody owns them here: there are none
}

func encodeProtobuf(o runtime.Object, version, kind string) ([]byte, error) {
	o.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(version, kind))
	var b bytes.Buffer
	err := protobuf.NewSerializer(api.Scheme(), api.Scheme()).Encode(o, &b)
	return b.Bytes(), err
}

func TestProtobuf(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var svc corev1.Service
	svc.Name = "a"
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	data, err := encodeProtobuf(&svc, "v1", "Service")
	if err != nil {
		t.Fatal(err)
	}
	code, o, h := w.do("POST", services, protobufType, string(data), "Accept", protobufType)
	if code != 201 || h.Get("Content-Type") != protobufType {
		t.Fatalf("%d %v", code, o)
	}
	if o := w.must(200, "GET", services+"/a", "", ""); at(o, "spec", "ports", 0, "targetPort") != 80.0 {
		t.Errorf("%v", o)
	}
	list := w.must(200, "GET", services, "", "", "Accept", protobufType)
	if text := list["text"].(string); len(text) < 4 || text[:4] != "k8s\x00" {
		t.Errorf("a list: %q", text)
	}
	w.must(200, "DELETE", services+"/a", "", "", "Accept", protobufType)
	w.must(415, "POST", routes, protobufType, string(data))
	w.must(400, "POST", services, protobufType, "nonsense")
	w.must(200, "GET", routes, "", "", "Accept", protobufType+",application/json")
}
