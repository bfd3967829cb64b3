package api

import (
	"fmt"
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Every rule of the published schemas is enforced, and in its own words: an upgrade that brings a new one fails here.
func TestRulesAreComplete(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	var walk func(s *spec.Schema, path string)
	walk = func(s *spec.Schema, path string) {
		for _, m := range ruleMessages(s) {
			used[m] = true
			if rules[m] == nil {
				t.Errorf("%s: no rule in Go for %q", path, m)
			}
		}
		for name, p := range s.Properties {
			walk(&p, field(path, name))
		}
		if s.Items != nil && s.Items.Schema != nil {
			walk(s.Items.Schema, path+"[]")
		}
		if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
			walk(s.AdditionalProperties.Schema, path+"{}")
		}
	}
	for name, s := range Definitions() {
		walk(s, name+":")
	}
	for m := range rules {
		if !used[m] {
			t.Errorf("rule %q is in no schema", m)
		}
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	const group = "apiVersion: gateway.networking.k8s.io/v1\n"
	const head = group + "kind: HTTPRoute\nmetadata: {name: r}\nspec: "
	for _, tt := range []struct {
		spec string
		bad  bool
	}{
		{"{parentRefs: [{name: a}, {name: b}]}", false},
		{"{parentRefs: [{name: a}, {name: a}]}", true},
		{"{parentRefs: [{name: a, sectionName: x}, {name: a}]}", true},
		{"{parentRefs: [{name: a, sectionName: x}, {name: a, sectionName: y}]}", false},
		{"{parentRefs: [{kind: Service, group: '', name: a, port: 80}, {kind: Service, group: '', name: a, port: 81}]}", false},
		{"{rules: [{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}]}", true},
		{"{rules: [{filters: [{type: CORS, cors: {allowMethods: ['*', GET]}}]}]}", true},
		{"{rules: [{filters: [{type: CORS, cors: {allowMethods: ['*']}}]}]}", false},
		{"{rules: [{filters: [{type: URLRewrite, cors: {}}]}]}", true},
		{"{rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}], backendRefs: [{name: a, port: 1}]}]}", true},
		{"{rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]}]}", true},
		{"{rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}]}", false},
		{"{rules: [{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}]}", true},
		{"{rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replaceFullPath: /x}}}]}]}", true},
		{"{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}}]}]}", true},
		{"{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 101}}}]}]}", true},
		{"{rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 5, denominator: 10}}}]}]}", false},
		{"{rules: [{matches: [{path: {value: /a//b}}]}]}", true},
		{"{rules: [{matches: [{path: {value: /a/../b}}]}]}", true},
		{"{rules: [{matches: [{path: {value: /a/..}}]}]}", true},
		{"{rules: [{matches: [{path: {value: /a%2Fb}}]}]}", true},
		{"{rules: [{matches: [{path: {value: '/a b'}}]}]}", true},
		{"{rules: [{matches: [{path: {type: RegularExpression, value: 'a//b'}}]}]}", false},
		{"{rules: [{timeouts: {request: 0s, backendRequest: 2s}}]}", false},
		{"{parentRefs: [{kind: Service, group: '', name: a, port: 80}, {kind: Service, group: '', name: a}]}", true},
		{"{parentRefs: [{name: a, sectionName: x, port: 80}, {name: a, sectionName: x, port: 81}]}", false},
		{"{rules: [{name: a}, {name: a}]}", true},
		{"{rules: [{name: a}, {}, {}]}", false},
		{"{rules: [{retry: {codes: [500], attempts: 3, backoff: 10ms}}]}", false},
		{"{rules: [{retry: {codes: [399]}}]}", true},
		{"{rules: [{retry: {tries: 3}}]}", true},
		{"{rules: [{sessionPersistence: {sessionName: s, cookieConfig: {lifetimeType: Permanent}}}]}", true},
		{"{rules: [{sessionPersistence: {sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}}]}", false},
		{"{rules: [{sessionPersistence: {sessionName: s, type: Header, cookieConfig: {}}}]}", true},
		{"{rules: [{filters: [{type: CORS, externalAuth: {protocol: HTTP, http: {}, backendRef: {name: a, port: 1}}}]}]}", true},
		{"{rules: [{filters: [{type: ExternalAuth}]}]}", true},
		{"{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, backendRef: {name: a, port: 1}}}]}]}", false},
		{"{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: a, port: 1}}}]}]}", true},
		{"{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, grpc: {}, http: {}, backendRef: {name: a, port: 1}}}]}]}", true},
		{"{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC, backendRef: {name: a, port: 1}}}]}]}", true},
		{"{rules: [{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, grpc: {}, backendRef: {name: a, port: 1}}}]}]}", true},
		{"{hostnames: [Example.com]}", true},
	} {
		_, errs := decode(t, head+tt.spec+"\n")
		if (len(errs) > 0) != tt.bad {
			t.Errorf("%s: got %s", tt.spec, fmt.Sprint(errs))
		}
	}
	for _, tt := range []struct {
		method string
		bad    bool
	}{
		{"{service: a.B_1, method: Get}", false},
		{"{service: .a.B}", false},
		{"{method: Get}", false},
		{"{}", true},
		{"{service: a/B}", true},
		{"{service: a..B}", true},
		{"{method: a.b}", true},
		{"{type: RegularExpression, service: 'a/[a-z]+', method: 'a.b'}", false},
		{"{type: Prefix, service: a}", true},
	} {
		_, errs := decode(t, group+"kind: GRPCRoute\nmetadata: {name: r}\nspec: {rules: [{matches: [{method: "+tt.method+"}]}]}\n")
		if (len(errs) > 0) != tt.bad {
			t.Errorf("method %s: got %s", tt.method, fmt.Sprint(errs))
		}
	}
	for hostname, bad := range map[string]bool{
		"a.example": false, "*.a.example": false, "1a.example": false,
		"192.0.2.1": true, "a_b.example": true, "a.*.example": true, "*a.example": true, "*": true,
	} {
		_, errs := decode(t, group+"kind: TLSRoute\nmetadata: {name: r}\nspec: {hostnames: ['"+hostname+"'], rules: [{backendRefs: [{name: a, port: 1}]}]}\n")
		if (len(errs) > 0) != bad {
			t.Errorf("hostname %s: got %s", hostname, fmt.Sprint(errs))
		}
	}
	for spec, bad := range map[string]bool{
		"rules: [{backendRefs: [{name: a, port: 1}]}]": false,
		"rules: [{backendRefs: [{name: a}]}]":          true,
		"rules: [{backendRefs: []}]":                   true,
		"rules: []":                                    true,
		"hostnames: [a.example], rules: [{backendRefs: [{name: a, port: 1}]}]":              true,
		"rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: a, port: 1}]}]": true,
	} {
		_, errs := decode(t, group+"kind: TCPRoute\nmetadata: {name: r}\nspec: {"+spec+"}\n")
		if (len(errs) > 0) != bad {
			t.Errorf("TCPRoute %s: got %s", spec, fmt.Sprint(errs))
		}
	}
	var many string
	for range 3 {
		many += "{matches: ["
		for range 43 {
			many += "{method: GET}, "
		}
		many += "]}, "
	}
	if _, errs := decode(t, head+"{rules: ["+many+"]}\n"); len(errs) != 1 {
		t.Errorf("129 matches: %q", errs)
	}
}
