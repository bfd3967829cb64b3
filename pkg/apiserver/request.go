package apiserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
)

// A request is what a URL asks for: a kind, and of it everything, a namespace's, or one document.
type request struct {
	*http.Request
	caller          Caller
	kind            *api.Kind
	namespace, name string
	status          bool // the status subresource
	warnings        []string
}

func (s *Server) authenticate(r *http.Request) (Identity, Caller, error) {
	caller := Caller{From: r.RemoteAddr}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return Identity{}, caller, unauthorized("no bearer token; `sennit kubeconfig` on the controller's host prints a configuration with one")
	}
	id, err := s.cfg.Authenticate(r.Context(), token)
	if err != nil {
		return id, caller, unauthorized("the bearer token is not accepted: %v", err)
	}
	caller.From += ", token " + cmp.Or(id.Token, TokenID(token))
	return id, caller, nil
}

// TokenID names a bearer token without telling it: the first 8 digits of its SHA-256.
func TokenID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:4])
}

type callerKey struct{}

// CallerOf is who sent a request that Authenticated or Local let through.
func CallerOf(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Authenticated lets requests through that show a good bearer token, for as long as it is good, and answers what load
// balancers ask without one.
func (s *Server) Authenticated(h http.Handler) http.Handler {
	return s.recognised(h, s.authenticate)
}

// Local lets all requests through, as who says, for a unix socket whose file mode says who may connect: they may do
// everything.
func (s *Server) Local(h http.Handler, who func(*http.Request) Caller) http.Handler {
	return s.recognised(h, func(r *http.Request) (Identity, Caller, error) {
		c := who(r)
		return Identity{User: c.User, Groups: []string{rbac.Masters}}, c, nil
	})
}

func (s *Server) recognised(h http.Handler, who func(*http.Request) (Identity, Caller, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.health(w, r) {
			return
		}
		id, caller, err := who(r)
		if err == nil {
			err = unimpersonated(r)
		}
		if err != nil {
			s.unrecognised(w, r, caller, err)
			return
		}
		caller.User, caller.Groups = id.User, append(slices.Clip(id.Groups), rbac.Authenticated)
		ctx := context.WithValue(r.Context(), callerKey{}, caller)
		if !id.Expires.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadlineCause(ctx, id.Expires, unauthorized("the token has expired"))
			defer cancel()
		}
		if id.Lives != nil {
			var cancel context.CancelCauseFunc
			ctx, cancel = context.WithCancelCause(ctx)
			defer cancel(nil)
			defer context.AfterFunc(id.Lives, func() { cancel(unauthorized("the token has expired, or was taken back")) })()
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// unrecognised answers who did not show who he is. Who fails too often is told to wait, on a connection that ends: each further
// try costs him a handshake. His failures are counted in the audit, and not recorded each.
func (s *Server) unrecognised(w http.ResponseWriter, r *http.Request, caller Caller, err error) {
	if s.failures.note(r.RemoteAddr, time.Now()) {
		s.refusals.tooMany.Add(1)
		s.cfg.RefusedUnseen()
		w.Header().Set("Connection", "close")
		s.fail(w, r, tooMany("too many requests from %s did not show who sends them; wait %s, and look whose token it is", sourceOf(r.RemoteAddr).Addr(), failurePause))
		return
	}
	s.refusals.unrecognised.Add(1)
	s.cfg.Refused(caller, r.Method, r.URL.Path, err)
	w.Header().Set("WWW-Authenticate", `Bearer realm="sennit"`)
	s.fail(w, r, err)
}

// unimpersonated refuses who wants to be taken for somebody else: he would believe that less is allowed than is.
func unimpersonated(r *http.Request) error {
	for name := range r.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			return failure(http.StatusForbidden, metav1.StatusReasonForbidden, "impersonation is not supported")
		}
	}
	return nil
}

// health answers what load balancers ask, and reports whether it was that.
func (s *Server) health(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/healthz", "/livez":
	case "/readyz":
		select {
		case <-s.ready:
		default:
			http.Error(w, "the resources have not been read to their end yet", http.StatusServiceUnavailable)
			return true
		}
	default:
		return false
	}
	_, _ = io.WriteString(w, "ok")
	return true
}

// API is the API itself, for callers that Authenticated or Local let through.
func (s *Server) API() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := CallerOf(r.Context())
		if !ok {
			s.fail(w, r, unauthorized("nobody looked who asks"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if k := reviewed(r.URL.Path); k != nil {
			if err := s.review(w, &request{Request: r, caller: caller, kind: k}); err != nil {
				s.fail(w, r, err)
			}
			return
		}
		if s.discovery(w, r) {
			return
		}
		req, err := parse(r)
		if err == nil {
			req.caller = caller
			err = s.serve(w, req)
		}
		if err != nil {
			if apierrors.IsForbidden(err) {
				s.forbid(caller, r.Method, r.URL.Path, err)
			}
			s.fail(w, r, err)
		}
	})
}

// parse reads a URL: /api/v1/… or /apis/<group>/<version>/…, then [namespaces/<ns>/]<plural>[/<name>[/status]].
func parse(r *http.Request) (*request, error) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var group, version string
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		group, version, parts = parts[1], parts[2], parts[3:]
	default:
		return nil, noSuchPath(r.URL.Path)
	}
	req := &request{Request: r}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" {
		req.namespace, parts = parts[1], parts[2:]
	}
	if req.kind = api.ByResource(group, version, parts[0]); req.kind == nil || req.namespace != "" && !req.kind.Namespaced {
		return nil, noSuchPath(r.URL.Path)
	}
	if len(parts) > 1 {
		req.name = parts[1]
		if req.kind.Namespaced && req.namespace == "" {
			return nil, noSuchPath(r.URL.Path)
		}
	}
	switch {
	case len(parts) == 3 && parts[2] == "status" && req.kind.HasStatus:
		req.status = true
	case len(parts) > 2:
		return nil, noSuchPath(r.URL.Path)
	}
	return req, nil
}

// startWithin is how long a request waits for a controller that is starting.
const startWithin = 10 * time.Second

// awaitReady waits until all documents are read.
func (s *Server) awaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	late := time.NewTimer(startWithin)
	defer late.Stop()
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-late.C:
		return unavailable("the controller has not read the resources to their end yet; its log says why")
	}
}

// serve does what the method asks for, where the caller may.
func (s *Server) serve(w http.ResponseWriter, r *request) error {
	if err := s.awaitReady(r.Context()); err != nil {
		return err
	}
	want := r.wants()
	if err := s.allow(r.caller, want); err != nil {
		return err
	}
	if want.Verb == "watch" {
		ctx, stop := s.While(r.Context(), want)
		defer stop()
		r.Request = r.WithContext(ctx)
	}
	switch {
	case r.Method == http.MethodGet && r.name == "" && isTrue(r.query("watch")):
		return s.watch(w, r)
	case r.Method == http.MethodGet && r.name == "":
		return s.list(w, r)
	case r.Method == http.MethodGet:
		return s.get(w, r)
	case r.Method == http.MethodPost && r.name == "":
		return s.create(w, r)
	case r.Method == http.MethodPut && r.name != "" && r.query("rollbackTo") != "":
		return s.rollback(w, r, r.query("rollbackTo"))
	case r.Method == http.MethodPut && r.name != "":
		return s.replace(w, r)
	case r.Method == http.MethodPatch && r.name != "":
		return s.patch(w, r)
	case r.Method == http.MethodDelete && !r.status && r.name != "":
		return s.delete(w, r)
	case r.Method == http.MethodDelete && !r.status:
		return s.deleteAll(w, r)
	}
	return methodNotAllowed(r)
}

func (r *request) query(name string) string { return r.URL.Query().Get(name) }

func isTrue(v string) bool { return v == "true" || v == "1" }

// dryRun tells whether nothing is to be stored.
func (r *request) dryRun() (bool, error) {
	values := r.URL.Query()["dryRun"]
	for _, v := range values {
		if v != "All" {
			return false, badRequest("dryRun must be All, is %q", v)
		}
	}
	return len(values) > 0, nil
}

// manager is who manages the fields that a request sets.
func (r *request) manager() string {
	if m := r.query("fieldManager"); m != "" {
		return m
	}
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	if agent == "" {
		return "unknown"
	}
	return agent[:min(len(agent), 128)]
}

// prepare makes a body the document that its path names, or says why it is not.
func (r *request) prepare(u *unstructured.Unstructured) error {
	if u.GetAPIVersion() == "" {
		u.SetAPIVersion(r.kind.APIVersion())
	}
	if u.GetKind() == "" {
		u.SetKind(r.kind.Name)
	}
	if u.GetAPIVersion() != r.kind.APIVersion() || u.GetKind() != r.kind.Name {
		return badRequest("the document is a %s of %s, the path is of %s of %s", u.GetKind(), u.GetAPIVersion(), r.kind.Name, r.kind.APIVersion())
	}
	if _, ok := u.Object["metadata"].(map[string]any); !ok {
		u.Object["metadata"] = map[string]any{}
	}
	switch ns := u.GetNamespace(); {
	case r.kind.Namespaced && r.namespace == "":
		return badRequest("the path must name the namespace, as in %s/namespaces/default/%s", root(r.kind), r.kind.Plural)
	case ns == "" && r.kind.Namespaced:
		u.SetNamespace(r.namespace)
	case ns != r.namespace:
		return badRequest("the document is of namespace %q, the path of %q", ns, r.namespace)
	}
	if r.name != "" {
		if u.GetName() == "" {
			u.SetName(r.name)
		}
		if u.GetName() != r.name {
			return badRequest("the document's name is %q, the path's %q", u.GetName(), r.name)
		}
	}
	return nil
}

// check sets defaults and finds what is wrong, as strictly as fieldValidation asks.
func (r *request) check(u *unstructured.Unstructured, problems []api.Problem) error {
	if err := r.judge(u, append(problems, api.Check(r.kind, u)...)); err != nil {
		return err
	}
	if rest := api.Check(r.kind, u); len(rest) > 0 { // where the shape was wrong, rules were not looked at
		return invalid(r.kind, u.GetName(), rest)
	}
	for _, text := range api.Warnings(r.kind, u) {
		r.warn(text)
	}
	return nil
}

// checkShape is check for a document of which the rest may be there already: it minds fields and types only, and
// sets no defaults.
func (r *request) checkShape(u *unstructured.Unstructured, problems []api.Problem) error {
	for _, p := range api.Check(r.kind, u.DeepCopy()) {
		if p.Strict() || p.Reason == api.WrongType {
			problems = append(problems, p)
		}
	}
	return r.judge(u, problems)
}

// judge refuses, warns of, or removes what the problems name.
func (r *request) judge(u *unstructured.Unstructured, problems []api.Problem) error {
	var wrong, strict []api.Problem
	for _, p := range problems {
		if p.Strict() {
			strict = append(strict, p)
		} else {
			wrong = append(wrong, p)
		}
	}
	mode := r.query("fieldValidation")
	switch mode {
	case "", "Warn", "Ignore", "Strict":
	default:
		return badRequest("fieldValidation must be Strict, Warn or Ignore, is %q", mode)
	}
	if len(wrong) > 0 {
		return invalid(r.kind, u.GetName(), append(wrong, strict...))
	}
	if len(strict) > 0 && mode == "Strict" {
		return strictError(strict)
	}
	for _, p := range strict {
		if mode != "Ignore" {
			r.warn(p.String())
		}
	}
	api.Prune(u, strict)
	return nil
}

// warn adds a Warning header to the answer; clients show it.
func (r *request) warn(text string) { r.warnings = append(r.warnings, text) }

func (r *request) setWarnings(h http.Header) {
	for _, text := range r.warnings {
		h.Add("Warning", fmt.Sprintf(`299 - "%s"`, strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(text)))
	}
	r.warnings = nil
}

// before waits until the cache has all that was stored before this request.
func (s *Server) before(ctx context.Context, k *api.Kind) error {
	if k.Derived {
		return s.refresh(ctx, k)
	}
	return s.current(ctx)
}
