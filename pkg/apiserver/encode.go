package apiserver

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// A form is how a client wants documents: encoding, and whole, as metadata only, or as a table.
type form struct {
	protobuf, yaml bool
	as             string // "", "Table", "PartialObjectMetadata"
	include        string // of a table's documents: None, Metadata, Object
}

// negotiate takes the first form in Accept that is served.
func negotiate(r *request) (form, error) {
	accept := r.Header.Get("Accept")
	if accept == "" {
		return form{}, nil
	}
	f := form{include: r.query("includeObject")}
	for clause := range strings.SplitSeq(accept, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		f.protobuf, f.yaml = false, false
		switch t {
		case "application/json", "*/*", "application/*":
		case "application/yaml":
			f.yaml = true
		case protobufType:
			if !r.kind.Core || params["as"] != "" {
				continue
			}
			f.protobuf = true
		default:
			continue
		}
		switch as := strings.TrimSuffix(params["as"], "List"); as {
		case "":
		case "Table", "PartialObjectMetadata":
			if params["g"] != "meta.k8s.io" || params["v"] != "v1" {
				continue
			}
			f.as = as
		default:
			continue
		}
		return f, nil
	}
	return f, failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
		"none of the types in Accept is served; ask for application/json, application/yaml, or for core kinds "+protobufType)
}

func (f form) watchType() string {
	if f.protobuf {
		return protobufType + ";stream=watch"
	}
	return "application/json"
}

// shape gives one document as the client wants it.
func (f form) shape(k *api.Kind, u *unstructured.Unstructured, columns bool) any {
	switch f.as {
	case "Table":
		return table(k, []*unstructured.Unstructured{u}, listMeta{version: u.GetResourceVersion()}, f.include, columns)
	case "PartialObjectMetadata":
		return partial(u)
	}
	return u.Object
}

func partial(u *unstructured.Unstructured) map[string]any {
	return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": u.Object["metadata"]}
}

// answer sends one document.
func (s *Server) answer(w http.ResponseWriter, r *request, code int, u *unstructured.Unstructured) error {
	f, err := negotiate(r)
	if err != nil {
		return err
	}
	if f.protobuf {
		data, err := toProtobuf(r.kind, "", u)
		if err != nil {
			return err
		}
		return s.write(w, r, code, protobufType, data)
	}
	return s.encode(w, r, code, f, f.shape(r.kind, u, true))
}

// answerList sends a list of documents.
func (s *Server) answerList(w http.ResponseWriter, r *request, all []*unstructured.Unstructured, meta listMeta) error {
	f, err := negotiate(r)
	if err != nil {
		return err
	}
	if f.as == "Table" {
		return s.encode(w, r, http.StatusOK, f, table(r.kind, all, meta, f.include, true))
	}
	m := map[string]any{"resourceVersion": meta.version}
	if meta.next != "" {
		m["continue"], m["remainingItemCount"] = meta.next, meta.remaining
	}
	items := make([]any, len(all))
	for i, u := range all {
		items[i] = u.Object
		if f.as != "" {
			items[i] = partial(u)
		}
	}
	list := map[string]any{"apiVersion": r.kind.APIVersion(), "kind": r.kind.Name + "List", "metadata": m, "items": items}
	if f.as != "" {
		list["apiVersion"], list["kind"] = "meta.k8s.io/v1", "PartialObjectMetadataList"
	}
	if f.protobuf {
		data, err := listToProtobuf(r.kind, list)
		if err != nil {
			return err
		}
		return s.write(w, r, http.StatusOK, protobufType, data)
	}
	return s.encode(w, r, http.StatusOK, f, list)
}

// answerStatus sends a Status of success.
func (s *Server) answerStatus(w http.ResponseWriter, r *request, st *metav1.Status) error {
	f, err := negotiate(r)
	if err != nil {
		return err
	}
	if f.protobuf {
		var b bytes.Buffer
		if err := protobuf.NewSerializer(api.Scheme(), api.Scheme()).Encode(st, &b); err != nil {
			return err
		}
		return s.write(w, r, int(st.Code), protobufType, b.Bytes())
	}
	return s.encode(w, r, int(st.Code), form{yaml: f.yaml}, st)
}

func (s *Server) encode(w http.ResponseWriter, r *request, code int, f form, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if f.yaml {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
		return s.write(w, r, code, "application/yaml", data)
	}
	return s.write(w, r, code, "application/json", append(data, '\n'))
}

func (s *Server) write(w http.ResponseWriter, r *request, code int, contentType string, data []byte) error {
	r.setWarnings(w.Header())
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(code)
	_, _ = w.Write(data) // a client that is gone needs no answer
	return nil
}

// toProtobuf encodes a document of a core kind, or the Status of an error event.
func toProtobuf(k *api.Kind, event watch.EventType, u *unstructured.Unstructured) ([]byte, error) {
	var o runtime.Object = k.New()
	if event == watch.Error {
		o = &metav1.Status{}
	}
	if err := api.As(u, o); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err := protobuf.NewSerializer(api.Scheme(), api.Scheme()).Encode(o, &b)
	return b.Bytes(), err
}

func listToProtobuf(k *api.Kind, list map[string]any) ([]byte, error) {
	o, err := api.Scheme().New(k.GVK().GroupVersion().WithKind(k.Name + "List"))
	if err != nil {
		return nil, err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list, o); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = protobuf.NewSerializer(api.Scheme(), api.Scheme()).Encode(o, &b)
	return b.Bytes(), err
}
