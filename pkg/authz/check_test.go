package authz

import (
	"reflect"
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestCheck: what people are told is what is decided, and by what.
func TestCheck(t *testing.T) {
	reads := &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Methods: []string{"GET"}, Paths: exact("/prices")})}
	rosesOf := &snapshot.AuthorizationRule{When: []string{`user.claims.sub == 'rose'`}}
	storefront := &snapshot.AuthorizationRule{From: from("shop/storefront")}
	for _, tt := range []struct {
		name     string
		policies []*snapshot.AuthorizationPolicy
		change   func(*Question)
		want     Answer
	}{
		{"no policy", nil, nil, Answer{Allowed: true, Why: "no policy that is enforced allows only some, and none denies it"}},
		{"a dry run alone allows", []*snapshot.AuthorizationPolicy{dry(policyOf("shop/a", false, storefront))}, nil,
			Answer{Allowed: true, Why: "no policy that is enforced allows only some, and none denies it", Policies: []string{"shop/a"}}},
		{"a denial of others", []*snapshot.AuthorizationPolicy{policyOf("shop/a", true, &snapshot.AuthorizationRule{From: from("shop/other")})}, nil,
			Answer{Allowed: true, Why: "no policy that is enforced allows only some, and none denies it", Policies: []string{"shop/a"}}},
		{"allowed", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, reads)}, nil,
			Answer{Allowed: true, Why: "a policy allows it, and none denies it", Policies: []string{"shop/a"}}},
		{"no rule for it", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, reads), policyOf("shop/b", false, reads)}, func(q *Question) { q.Method = "PUT" },
			Answer{Policy: "shop/a", Why: "no policy that allows has a rule for it (the first is AuthorizationPolicy shop/a)", Policies: []string{"shop/a", "shop/b"}}},
		{"denied", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, reads), policyOf("shop/b", true, storefront)}, nil,
			Answer{Policy: "shop/b", Why: "a rule of AuthorizationPolicy shop/b denies it", Policies: []string{"shop/a", "shop/b"}}},
		{"would be denied", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, reads), dry(policyOf("shop/b", true, storefront))}, nil,
			Answer{Allowed: true, WouldBeDenied: true, WouldPolicy: "shop/b", Why: "a rule of AuthorizationPolicy shop/b denies it", Policies: []string{"shop/a", "shop/b"}}},
		{"a path that servers read differently", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, reads)}, func(q *Question) { q.Path = "/a/..%2Fprices" },
			Answer{Policy: "shop/a", Why: "AuthorizationPolicy shop/a asks for paths, and servers read this one differently", Policies: []string{"shop/a"}}},
		{"of TCP, whose path is none", []*snapshot.AuthorizationPolicy{policyOf("shop/a", true, storefront)}, func(q *Question) { q.TCP, q.Method, q.Path = true, "", "" },
			Answer{Policy: "shop/a", Why: "a rule of AuthorizationPolicy shop/a denies it", Policies: []string{"shop/a"}}},
		{"by claims", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, rosesOf)}, func(q *Question) { q.Claims = []byte(`{"sub": "rose"}`) },
			Answer{Allowed: true, Why: "a policy allows it, and none denies it", Policies: []string{"shop/a"}}},
		{"by nobody's claims", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, rosesOf)}, nil,
			Answer{Policy: "shop/a", Why: "no policy that allows has a rule for it (the first is AuthorizationPolicy shop/a)", Policies: []string{"shop/a"}}},
		{"by who has no identity, and says one", []*snapshot.AuthorizationPolicy{policyOf("shop/a", false, storefront)}, func(q *Question) { q.Plaintext = true },
			Answer{Policy: "shop/a", Why: "no policy that allows has a rule for it (the first is AuthorizationPolicy shop/a)", Policies: []string{"shop/a"}}},
	} {
		q := &Question{From: name("shop/storefront"), To: name("shop/orders"), Port: 80, Method: "GET", Path: "/prices"}
		if tt.change != nil {
			tt.change(q)
		}
		got, err := Check(q, &snapshot.Authorization{Policies: tt.policies})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if len(got.Policies) == 0 {
			got.Policies = nil
		}
		if !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: %+v\nwant %+v", tt.name, *got, tt.want)
		}
	}
	if _, err := Check(&Question{Claims: []byte("[]")}, nil); err == nil {
		t.Error("claims that are none are believed")
	}
	if _, err := Check(&Question{}, &snapshot.Authorization{Policies: []*snapshot.AuthorizationPolicy{policyOf("shop/a", true, &snapshot.AuthorizationRule{When: []string{"("}})}}); err == nil || !strings.Contains(err.Error(), "shop/a") {
		t.Errorf("a policy that cannot be decided: %v", err)
	}
}

// TestAsks: what services and gateways may not add to a request on the way, since a rule goes by it.
func TestAsks(t *testing.T) {
	var none *Rules
	byHeader := rulesOf(t, policyOf("shop/a", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Headers: []*snapshot.AuthorizationHeader{{Name: "x-role", Value: "admin"}}})}))
	byCondition := rulesOf(t, policyOf("shop/a", true, &snapshot.AuthorizationRule{When: []string{`size(request.headers) > 3`}}))
	byPath := rulesOf(t, policyOf("shop/a", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{Paths: exact("/x")})}))
	for i, tt := range []struct {
		rules *Rules
		field string
		want  bool
	}{
		{none, "X-Role", false},
		{byHeader, "X-Role", true},
		{byHeader, "x_role", true},
		{byHeader, "X-Other", false},
		{byCondition, "X-Anything", true},
		{byPath, "X-Role", false},
	} {
		if got := tt.rules.Asks(tt.field); got != tt.want {
			t.Errorf("%d: %s is asked for: %v", i, tt.field, got)
		}
	}
	if none.Origins() != nil {
		t.Error("there is a policy where there is none")
	}
}
