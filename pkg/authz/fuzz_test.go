package authz

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// FuzzPolicies compiles whatever can be read as policies, and decides by it: neither breaks, and who shows no identity is
// refused wherever an enforced policy that allows asks in each of its rules who calls.
func FuzzPolicies(f *testing.F) {
	for _, body := range []*snapshot.Authorization{
		{Policies: []*snapshot.AuthorizationPolicy{policyOf("a/b", false, &snapshot.AuthorizationRule{From: from("shop/cart"), When: []string{"request.port == 80"}})}},
		{Policies: []*snapshot.AuthorizationPolicy{policyOf("a/b", true, &snapshot.AuthorizationRule{To: to(&snapshot.AuthorizationOperation{
			Paths: prefix("/a"), Headers: []*snapshot.AuthorizationHeader{{Name: "x", Value: "y"}}, Hosts: []string{"*.example.com"}})})}},
	} {
		data, err := proto.Marshal(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "/a/b")
	}
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		body := &snapshot.Authorization{}
		if proto.Unmarshal(data, body) != nil {
			return
		}
		rules, err := Compile(body)
		if err != nil {
			return
		}
		for _, q := range []*Request{
			{Caller: name("shop/cart"), Node: "n", TrustDomain: "td", Port: 80, Method: "GET", Path: path, Host: "a.example.com", Fields: fieldsOf("x: y")},
			{Caller: name("shop/cart"), TCP: true},
		} {
			rules.Decide(q)
		}
		allows, everyNamed := false, true
		for _, p := range body.Policies {
			if p.Deny || p.DryRun {
				continue
			}
			allows = true
			for _, r := range p.Rules {
				everyNamed = everyNamed && len(r.From) > 0
				for _, s := range r.From {
					everyNamed = everyNamed && !s.Plaintext && len(s.Services)+len(s.Namespaces) > 0
				}
			}
		}
		if allows && everyNamed && !rules.Decide(&Request{Plaintext: true, Method: "GET", Path: path}).Denied {
			t.Errorf("nobody passes by %v", body)
		}
	})
}
