package controller

import (
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// permitted answers requests of operators who may do what of says they want, for as long as they may.
func (c *Controller) permitted(of func(*http.Request) rbac.Request, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r, done, ok := c.permit(w, r, of(r)); ok {
			defer done()
			h(w, r)
		}
	}
}

// permit lets the request's operator do what it says, or answers that he may not. Where he may, the request that it
// returns ends when he may no longer, and done must be called.
func (c *Controller) permit(w http.ResponseWriter, r *http.Request, want rbac.Request) (_ *http.Request, done func(), ok bool) {
	if err := c.api.Authorize(r, want); err != nil {
		notPermitted(w, err)
		return r, nil, false
	}
	ctx, stop := c.api.While(r.Context(), want)
	return r.WithContext(ctx), stop, true
}

func notPermitted(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if known := apierrors.APIStatus(nil); errors.As(err, &known) {
		code = int(known.Status().Code)
	}
	socket.WriteFailure(w, code, err)
}

// inPart answers operators who may have a path, with all of it, and those who may "get" services/reports in namespaces, with
// what is of these.
func (c *Controller) inPart(h func(http.ResponseWriter, *http.Request, rbac.Scope)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		sees, err := c.api.AuthorizePart(r, ofPath(r), ofService("reports", "", ""))
		if err != nil {
			notPermitted(w, err)
			return
		}
		h(w, r, sees)
	}
}

// ofPath wants the path itself, as roles name it in nonResourceURLs. It is what every path needs that nothing else is said
// of, so that a new one is for those alone who may everything.
func ofPath(r *http.Request) rbac.Request {
	return rbac.Request{Verb: strings.ToLower(r.Method), Path: r.URL.Path}
}

// ofNode wants to do something to a node: "create" of nodes/allow.
func ofNode(act string) func(*http.Request) rbac.Request {
	return func(r *http.Request) rbac.Request {
		return rbac.Request{Verb: "create", Group: api.Nodes.Group, Resource: api.Nodes.Plural, Subresource: act, Name: r.PathValue("name")}
	}
}

// ofService wants to look at a service: "get" of services/tap. An empty namespace is all of them.
func ofService(look, namespace, name string) rbac.Request {
	return rbac.Request{Verb: "get", Resource: api.Service.Plural, Subresource: look, Namespace: namespace, Name: name}
}
