package apiserver

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// readBody reads a body whole, or says that it is too large.
func (r *request) readBody() ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, tooLarge(maxBody)
	}
	if err != nil {
		return nil, badRequest("read the request's body: %v", err)
	}
	return data, nil
}

// contentType is the body's, without parameters; JSON where none is given.
func (r *request) contentType() string {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if t == "" {
		return "application/json"
	}
	return t
}

const protobufType = "application/vnd.kubernetes.protobuf"

// document reads the body as a document. Fields that are given twice are returned as problems.
func (r *request) document() (*unstructured.Unstructured, []api.Problem, error) {
	data, err := r.readBody()
	if err != nil {
		return nil, nil, err
	}
	switch t := r.contentType(); t {
	case "application/json":
		return fromJSON(data)
	case "application/yaml":
		return fromYAML(data)
	case protobufType:
		u, err := r.fromProtobuf(data)
		return u, nil, err
	default:
		return nil, nil, unsupportedType(t, "application/json", "application/yaml")
	}
}

func fromJSON(data []byte) (*unstructured.Unstructured, []api.Problem, error) {
	u := &unstructured.Unstructured{}
	strict, err := kjson.UnmarshalStrict(data, &u.Object, kjson.DisallowDuplicateFields)
	if err != nil {
		return nil, nil, badRequest("the body is no JSON document: %v", err)
	}
	if u.Object == nil {
		return nil, nil, badRequest("the body must be a JSON document, is empty")
	}
	var problems []api.Problem
	for _, e := range strict {
		p := api.Problem{Reason: api.DuplicateField, Message: e.Error()}
		var at kjson.FieldError
		if errors.As(e, &at) {
			p = api.Problem{Path: at.FieldPath(), Reason: api.DuplicateField, Message: "is given twice"}
		}
		problems = append(problems, p)
	}
	return u, problems, nil
}

func fromYAML(data []byte) (*unstructured.Unstructured, []api.Problem, error) {
	data, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, nil, badRequest("the body is no YAML document: %v", err)
	}
	return fromJSON(data)
}

// fromProtobuf reads what clients with generated types send for core kinds.
func (r *request) fromProtobuf(data []byte) (*unstructured.Unstructured, error) {
	if !r.kind.Core {
		return nil, unsupportedType(protobufType, "application/json", "application/yaml")
	}
	gvk := r.kind.GVK()
	o, _, err := protobuf.NewSerializer(api.Scheme(), api.Scheme()).Decode(data, &gvk, nil)
	if err != nil {
		return nil, badRequest("the body is no protobuf document: %v", err)
	}
	if o.GetObjectKind().GroupVersionKind() != r.kind.GVK() {
		return nil, badRequest("the body is a %T, the path is of %s", o, r.kind.Name)
	}
	u, err := api.From(r.kind, o)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return u, nil
}

// deleteOptions reads what a deletion's body and query ask for.
func (r *request) deleteOptions() (*metav1.DeleteOptions, error) {
	data, err := r.readBody()
	if err != nil {
		return nil, err
	}
	opts := &metav1.DeleteOptions{}
	if len(bytes.TrimSpace(data)) > 0 {
		switch t := r.contentType(); t {
		case "application/json":
			if err := kjson.UnmarshalCaseSensitivePreserveInts(data, opts); err != nil {
				return nil, badRequest("delete options: %v", err)
			}
		case protobufType:
			if err := unmarshalOptions(data, opts); err != nil {
				return nil, badRequest("delete options: %v", err)
			}
		default:
			return nil, unsupportedType(t, "application/json")
		}
	}
	for _, v := range append(opts.DryRun, r.URL.Query()["dryRun"]...) {
		if v != metav1.DryRunAll {
			return nil, badRequest("dryRun must be All, is %q", v)
		}
		opts.DryRun = []string{v}
	}
	return opts, nil
}

// unmarshalOptions takes delete options out of Kubernetes' protobuf envelope.
func unmarshalOptions(data []byte, opts *metav1.DeleteOptions) error {
	gvk := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	_, _, err := protobuf.NewSerializer(api.Scheme(), api.Scheme()).Decode(data, &gvk, opts)
	return err
}
