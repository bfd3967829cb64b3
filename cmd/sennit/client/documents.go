package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"

	"github.com/sennit-mesh/sennit/pkg/api"
)

// Manager is the name under which this client manages the fields that it applies.
const Manager = "sennit"

// A Target names documents: all of a kind, of a namespace, that labels select, or one.
type Target struct {
	Kind      *api.Kind
	Namespace string // "": of all namespaces
	Name      string // "": all
	Labels    string // label selector
	At        uint64 // revision at which they were so; 0: now. For lists and tables
}

// Of is the target that is one document.
func Of(k *api.Kind, u *unstructured.Unstructured) Target {
	return Target{Kind: k, Namespace: u.GetNamespace(), Name: u.GetName()}
}

// path is the target's URL path; a watch of one document is a selection from its collection.
func (t Target) path(named bool) string {
	p := "/api/" + t.Kind.Version
	if t.Kind.Group != "" {
		p = "/apis/" + t.Kind.Group + "/" + t.Kind.Version
	}
	if t.Kind.Namespaced && t.Namespace != "" {
		p += "/namespaces/" + url.PathEscape(t.Namespace)
	}
	p += "/" + t.Kind.Plural
	if named && t.Name != "" {
		p += "/" + url.PathEscape(t.Name)
	}
	return p
}

func (t Target) query() url.Values {
	q := url.Values{}
	if t.At > 0 {
		q.Set("resourceVersion", strconv.FormatUint(t.At, 10))
		q.Set("resourceVersionMatch", "Exact")
		if t.Name != "" {
			q.Set("fieldSelector", "metadata.name="+t.Name)
		}
	}
	if t.Labels != "" {
		q.Set("labelSelector", t.Labels)
	}
	return q
}

// send sends a request for documents, and hands on its warnings.
func (c *Client) send(ctx context.Context, r request) (*answer, error) {
	a, err := c.conn.whole(ctx, r)
	if err == nil && c.Warn != nil {
		for _, text := range warnings(a.header) {
			c.Warn(text)
		}
	}
	return a, err
}

// document sends a request that is answered by a document; code is the answer's.
func (c *Client) document(ctx context.Context, r request) (u *unstructured.Unstructured, code int, err error) {
	a, err := c.send(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	u = &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(a.body); err != nil {
		return nil, 0, fmt.Errorf("%s answers what is no document: %w", c.conn.where, err)
	}
	return u, a.code, nil
}

// Get returns one document.
func (c *Client) Get(ctx context.Context, t Target) (*unstructured.Unstructured, error) {
	u, _, err := c.document(ctx, request{method: http.MethodGet, path: t.path(true)})
	return u, err
}

// List returns documents, and the resourceVersion that they stand for.
func (c *Client) List(ctx context.Context, t Target) (items []*unstructured.Unstructured, version string, err error) {
	a, err := c.send(ctx, request{method: http.MethodGet, path: t.path(false), query: t.query()})
	if err != nil {
		return nil, "", err
	}
	var list struct {
		Metadata metav1.ListMeta  `json:"metadata"`
		Items    []map[string]any `json:"items"`
	}
	if err := kjson.Unmarshal(a.body, &list); err != nil {
		return nil, "", fmt.Errorf("%s answers what is no list: %w", c.conn.where, err)
	}
	for _, m := range list.Items {
		items = append(items, &unstructured.Unstructured{Object: m})
	}
	return items, list.Metadata.ResourceVersion, nil
}

const tableType = "application/json;as=Table;v=v1;g=meta.k8s.io"

// Table returns documents as the server shows them to people: all that the target names, or the one.
func (c *Client) Table(ctx context.Context, t Target) (*metav1.Table, error) {
	a, err := c.send(ctx, request{method: http.MethodGet, path: t.path(t.At == 0), query: t.query(), accept: tableType})
	if err != nil {
		return nil, err
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(a.body, table); err != nil {
		return nil, fmt.Errorf("%s answers what is no table: %w", c.conn.where, err)
	}
	return table, nil
}

// ApplyOptions are what an apply may ask for.
type ApplyOptions struct {
	DryRun bool // answer what would be, change nothing
	Force  bool // take over fields that others manage
}

// Apply makes u's fields those of the document that it names, and creates that where there is none. It returns the
// document as it is then, and whether it is new.
func (c *Client) Apply(ctx context.Context, k *api.Kind, u *unstructured.Unstructured, opts ApplyOptions) (now *unstructured.Unstructured, created bool, err error) {
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, false, fmt.Errorf("encode the document: %w", err)
	}
	q := url.Values{"fieldManager": {Manager}, "fieldValidation": {"Strict"}}
	if opts.DryRun {
		q.Set("dryRun", "All")
	}
	if opts.Force {
		q.Set("force", "true")
	}
	now, code, err := c.document(ctx, request{
		method: http.MethodPatch, path: Of(k, u).path(true), query: q, body: body, contentType: "application/apply-patch+yaml",
	})
	if err != nil {
		return nil, false, err
	}
	return now, code == http.StatusCreated, nil
}

// Create stores a new document and returns it.
func (c *Client) Create(ctx context.Context, k *api.Kind, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, fmt.Errorf("encode the document: %w", err)
	}
	made, _, err := c.document(ctx, request{
		method: http.MethodPost, path: Of(k, u).path(false), query: url.Values{"fieldManager": {Manager}, "fieldValidation": {"Strict"}},
		body: body, contentType: "application/json",
	})
	return made, err
}

// Replace stores a whole document over the one that it was read from, and fails where that was changed meanwhile.
func (c *Client) Replace(ctx context.Context, k *api.Kind, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	body, err := json.Marshal(u.Object)
	if err != nil {
		return nil, fmt.Errorf("encode the document: %w", err)
	}
	now, _, err := c.document(ctx, request{
		method: http.MethodPut, path: Of(k, u).path(true), query: url.Values{"fieldManager": {Manager}}, body: body, contentType: "application/json",
	})
	return now, err
}

// Rollback makes a document again what it was at a revision, if it is still as it was read: version is its
// resourceVersion, or empty where there is none now.
func (c *Client) Rollback(ctx context.Context, t Target, to uint64, version string, dryRun bool) (*unstructured.Unstructured, error) {
	q := url.Values{"rollbackTo": {strconv.FormatUint(to, 10)}}
	if version != "" {
		q.Set("resourceVersion", version)
	}
	if dryRun {
		q.Set("dryRun", "All")
	}
	u, _, err := c.document(ctx, request{method: http.MethodPut, path: t.path(true), query: q})
	return u, err
}

// Delete removes one document, or finds out whether it could.
func (c *Client) Delete(ctx context.Context, t Target, dryRun bool) error {
	q := url.Values{}
	if dryRun {
		q.Set("dryRun", "All")
	}
	_, err := c.send(ctx, request{method: http.MethodDelete, path: t.path(true), query: q})
	return err
}
