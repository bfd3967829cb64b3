package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// An openAPI is the description of the API in both versions, encoded once.
type openAPI struct {
	v3       map[string][]byte // by group and version: "api/v1", "apis/sennit.dev/v1alpha1"
	index    []byte
	v2, v2pb []byte
}

func newOpenAPI(version string) *openAPI {
	o := &openAPI{v3: map[string][]byte{}}
	type place struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]place{}
	info := map[string]any{"title": "Sennit", "version": version}
	all := map[string]any{}
	for _, k := range api.Kinds() {
		name := strings.TrimPrefix(root(k), "/")
		for p, item := range pathsOf(k, "2") {
			all[p] = item
		}
		if o.v3[name] != nil {
			continue
		}
		group := map[string]any{}
		need := map[string]*spec.Schema{}
		for _, other := range api.Kinds() {
			if other.Group == k.Group && other.Version == k.Version {
				for p, item := range pathsOf(other, "3") {
					group[p] = item
				}
				closure(need, other.Model())
			}
		}
		doc := mustJSON(map[string]any{
			"openapi": "3.0.0", "info": info, "paths": group, "components": map[string]any{"schemas": need},
		})
		o.v3[name] = doc
		sum := sha256.Sum256(doc)
		paths[name] = place{URL: "/openapi/v3/" + name + "?hash=" + strings.ToUpper(hex.EncodeToString(sum[:]))}
	}
	o.index = mustJSON(map[string]any{"paths": paths})
	definitions := map[string]*spec.Schema{}
	for _, k := range api.Kinds() {
		closure(definitions, k.Model())
	}
	for name, s := range definitions {
		definitions[name] = plainSchema(s)
	}
	v2 := mustJSON(map[string]any{"swagger": "2.0", "info": info, "paths": all, "definitions": definitions})
	o.v2 = []byte(strings.ReplaceAll(string(v2), "#/components/schemas/", "#/definitions/"))
	if doc, err := openapi_v2.ParseDocument(o.v2); err == nil {
		if pb, err := proto.Marshal(doc); err == nil {
			o.v2pb = pb
		}
	}
	return o
}

// root is where the documents of a group and version live.
func root(k *api.Kind) string {
	if k.Group == "" {
		return "/api/" + k.Version
	}
	return "/apis/" + k.Group + "/" + k.Version
}

// closure adds a schema and all that it refers to.
func closure(into map[string]*spec.Schema, name string) {
	if into[name] != nil {
		return
	}
	s := api.Definitions()[name]
	into[name] = s
	var walk func(s *spec.Schema)
	walk = func(s *spec.Schema) {
		if ref := s.Ref.String(); ref != "" {
			closure(into, ref[strings.LastIndexByte(ref, '/')+1:])
		}
		for i := range s.AllOf {
			walk(&s.AllOf[i])
		}
		for _, p := range s.Properties {
			walk(&p)
		}
		if s.Items != nil && s.Items.Schema != nil {
			walk(s.Items.Schema)
		}
		if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
			walk(s.AdditionalProperties.Schema)
		}
	}
	walk(s)
}

// plainSchema is a schema in the words of OpenAPI v2, which has no alternatives: they are left out, and what they forbid
// is refused all the same. Nothing is changed in s.
func plainSchema(s *spec.Schema) *spec.Schema {
	plain := *s
	plain.AnyOf, plain.OneOf, plain.Not = nil, nil, nil
	if s.Properties != nil {
		plain.Properties = make(map[string]spec.Schema, len(s.Properties))
		for name, p := range s.Properties {
			plain.Properties[name] = *plainSchema(&p)
		}
	}
	if s.Items != nil && s.Items.Schema != nil {
		plain.Items = &spec.SchemaOrArray{Schema: plainSchema(s.Items.Schema)}
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		plain.AdditionalProperties = &spec.SchemaOrBool{Allows: true, Schema: plainSchema(s.AdditionalProperties.Schema)}
	}
	return &plain
}

// pathsOf describes what the paths of a kind answer to.
func pathsOf(k *api.Kind, version string) map[string]any {
	base := root(k)
	var outer []any
	if k.Namespaced {
		base += "/namespaces/{namespace}"
		outer = append(outer, parameter(version, "path", "namespace", true))
	}
	ref := map[string]any{"$ref": "#/components/schemas/" + k.Model()}
	operation := func(verb, action string, queries ...string) map[string]any {
		var parameters []any
		for _, q := range queries {
			parameters = append(parameters, parameter(version, "query", q, false))
		}
		response := map[string]any{"description": "OK"}
		op := map[string]any{
			"operationId": action + k.Name, "x-kubernetes-action": action, "responses": map[string]any{"200": response},
			"x-kubernetes-group-version-kind": map[string]any{"group": k.Group, "version": k.Version, "kind": k.Name},
		}
		body := map[string]any{"application/json": map[string]any{"schema": ref}}
		if verb == "patch" {
			body = map[string]any{}
			for _, t := range []string{"application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"} {
				body[t] = map[string]any{"schema": map[string]any{"type": "object"}}
			}
			if k.Core {
				body["application/strategic-merge-patch+json"] = map[string]any{"schema": map[string]any{"type": "object"}}
			}
		}
		if version == "3" {
			response["content"] = map[string]any{"application/json": map[string]any{"schema": ref}}
			if verb == "post" || verb == "put" || verb == "patch" {
				op["requestBody"] = map[string]any{"content": body, "required": true}
			}
		} else {
			response["schema"] = ref
			op["produces"] = []any{"application/json"}
			if verb == "post" || verb == "put" || verb == "patch" {
				parameters = append(parameters, map[string]any{"in": "body", "name": "body", "required": true, "schema": ref})
			}
		}
		op["parameters"] = parameters
		return op
	}
	write := []string{"dryRun", "fieldManager", "fieldValidation"}
	collection := map[string]any{"parameters": outer}
	one := map[string]any{"parameters": append(append([]any(nil), outer...), parameter(version, "path", "name", true))}
	for _, verb := range k.Verbs {
		switch verb {
		case "list":
			collection["get"] = operation("get", "list", "labelSelector", "fieldSelector", "limit", "continue", "watch", "resourceVersion", "timeoutSeconds")
		case "create":
			collection["post"] = operation("post", "post", write...)
		case "deletecollection":
			collection["delete"] = operation("delete", "deletecollection", "labelSelector", "fieldSelector", "dryRun")
		case "get":
			one["get"] = operation("get", "get")
		case "update":
			one["put"] = operation("put", "put", write...)
		case "patch":
			one["patch"] = operation("patch", "patch", append(write, "force")...)
		case "delete":
			one["delete"] = operation("delete", "delete", "dryRun")
		}
	}
	return map[string]any{base + "/" + k.Plural: collection, base + "/" + k.Plural + "/{name}": one}
}

func parameter(version, in, name string, required bool) map[string]any {
	p := map[string]any{"in": in, "name": name}
	if required {
		p["required"] = true
	}
	kind := "string"
	switch name {
	case "limit", "timeoutSeconds":
		kind = "integer"
	case "watch", "force":
		kind = "boolean"
	}
	if version == "3" {
		p["schema"] = map[string]any{"type": kind}
	} else {
		p["type"] = kind
	}
	return p
}

// serveOpenAPI answers /openapi/v2, /openapi/v3 and /openapi/v3/<group and version>.
func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request, path string) bool {
	o := s.openAPI()
	data, kind := []byte(nil), "application/json"
	switch {
	case path == "/openapi/v3":
		data = o.index
	case path == "/openapi/v2":
		data = o.v2
		if strings.Contains(r.Header.Get("Accept"), "application/com.github.proto-openapi.spec.v2") && o.v2pb != nil {
			data, kind = o.v2pb, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
		}
	default:
		data = o.v3[strings.TrimPrefix(path, "/openapi/v3/")]
	}
	if data == nil {
		s.fail(w, r, noSuchPath(r.URL.Path))
		return true
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Vary", "Accept")
	if r.URL.Query().Get("hash") != "" {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(data)
	return true
}

// mustJSON encodes what this package has made itself.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("apiserver: " + err.Error())
	}
	return data
}
