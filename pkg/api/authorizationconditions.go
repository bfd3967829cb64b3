package api

import (
	"maps"
	"slices"
	"strings"

	"github.com/sennit-mesh/sennit/internal/condition"
)

// The ways in which headers are compared.
const (
	AuthorizationSuffix  = "Suffix"
	AuthorizationPresent = "Present"
	// AuthorizationHeaderPrefix is not AuthorizationPrefix: of a header any bytes may follow.
	AuthorizationHeaderPrefix = "Prefix"
)

// An AuthorizationHeader is about a field of a request's head. Without a type the whole value is compared.
type AuthorizationHeader struct {
	Name  string `json:"name"`
	Type  string `json:"type,omitempty"`
	Value string `json:"value,omitempty"`
}

const (
	maxAuthorizationLabels     = 8
	maxAuthorizationConditions = 8
)

// authorizationConditions compiles a rule's conditions as nodes will.
func (w *walker) authorizationConditions(path string, rule any) {
	if !has(rule, "when") {
		return
	}
	conditions := items(rule, "when")
	w.between(path, "items", int64(len(conditions)), 1, maxAuthorizationConditions)
	for i, c := range conditions {
		if expression, ok := c.(string); ok {
			if _, err := condition.Compile(expression); err != nil {
				w.add(index(path, i), Invalid, "must be a condition in CEL: %v", err)
			}
		}
	}
}

// authorizationLabels checks labels of the calling Service's document.
func (w *walker) authorizationLabels(path string, f any) {
	for _, name := range []string{"labels", "notLabels"} {
		if !has(f, name) {
			continue
		}
		labels, _ := f.(map[string]any)[name].(map[string]any)
		w.between(field(path, name), "items", int64(len(labels)), 1, maxAuthorizationLabels)
	}
}

// framing are the fields that no request has when it is decided on: they frame it, or are of one connection alone.
var framing = []string{"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect", "proxy-connection"}

func (w *walker) authorizationHeaders(path string, t any) {
	for _, name := range []string{"headers", "notHeaders"} {
		if !has(t, name) {
			continue
		}
		headers := items(t, name)
		w.between(field(path, name), "items", int64(len(headers)), 1, maxAuthorizationValues)
		for i, h := range headers {
			at, of := index(field(path, name), i), strings.ToLower(str(h, "name"))
			kind := str(h, "type")
			w.oneOf(field(at, "type"), kind, AuthorizationExact, AuthorizationHeaderPrefix, AuthorizationSuffix, AuthorizationPresent)
			switch {
			case of == "host" || strings.HasPrefix(of, ":"):
				w.add(field(at, "name"), Invalid, "is %q: ask by hosts, methods or paths", of)
			case slices.Contains(framing, of):
				w.add(field(at, "name"), Invalid, "no request has %q by the time it is decided on", of)
			case !isToken(of) || strings.Contains(of, "_"):
				w.add(field(at, "name"), Invalid, `must be the name of a header without "_", which some servers take for "-"; is %q`, of)
			}
			value := str(h, "value")
			switch {
			case kind == AuthorizationPresent && value != "":
				w.add(field(at, "value"), Invalid, "must be empty where type is Present")
			case kind != AuthorizationPresent && value == "":
				w.add(field(at, "value"), Required, "must be given (with type: Present any value will do)")
			case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) || strings.TrimSpace(value) != value:
				w.add(field(at, "value"), Invalid, "must be printable ASCII with no space at its ends, is %q", value)
			}
		}
	}
}

// authorizationHosts checks names that requests are for.
func (w *walker) authorizationHosts(path string, t any) {
	w.lists(path, t, []string{"hosts", "notHosts"}, func(at, value string) {
		name := strings.TrimPrefix(value, "*.")
		if name == "" || strings.HasSuffix(name, ".") || strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-._[]", r) && (r != ':' || !strings.HasPrefix(name, "["))
		}) {
			w.add(at, Invalid, `must be a host in small letters, without port, or "*." and one for all below it; is %q`, value)
		}
	})
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

func (s AuthorizationSource) clone() AuthorizationSource {
	for _, list := range []*[]string{&s.Services, &s.Namespaces, &s.NotServices, &s.NotNamespaces, &s.TrustDomains, &s.NotTrustDomains, &s.Nodes, &s.NotNodes} {
		*list = slices.Clone(*list)
	}
	s.Labels, s.NotLabels = maps.Clone(s.Labels), maps.Clone(s.NotLabels)
	return s
}

func (o AuthorizationOperation) clone() AuthorizationOperation {
	for _, list := range []*[]string{&o.Methods, &o.NotMethods, &o.GRPCMethods, &o.Hosts, &o.NotHosts} {
		*list = slices.Clone(*list)
	}
	o.Paths, o.NotPaths = slices.Clone(o.Paths), slices.Clone(o.NotPaths)
	o.Ports, o.NotPorts = slices.Clone(o.Ports), slices.Clone(o.NotPorts)
	o.Headers, o.NotHeaders = slices.Clone(o.Headers), slices.Clone(o.NotHeaders)
	return o
}
