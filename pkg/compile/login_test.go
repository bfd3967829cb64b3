package compile_test

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const signingIn = `
---
{apiVersion: v1, kind: Secret, metadata: {namespace: shop, name: idp}, type: Opaque, data: {client-secret: dmVyeSBzZWNyZXQK}}
---
{apiVersion: sennit.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {namespace: shop, name: users, uid: u1}, spec: {
  targetRefs: [{kind: Gateway, name: front}],
  issuers: [{issuer: 'https://id.example', audiences: [shop], keys: {inline: '{"keys":[` + aKey + `]}'}}],
  oidc: {issuer: 'https://id.example', clientID: shop, clientSecretRef: {name: idp}, sessionTime: 1h, callbackPath: /sennit/callback, cookieName: sennit-session}}}`

// TestWhatSigningInTakesIsSealed to the nodes of the gateway, and is nowhere else.
func TestWhatSigningInTakesIsSealed(t *testing.T) {
	node, err := snapshot.NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	compiled := func(documents string) (*snapshot.Login, compile.Output, []byte) {
		in := compile.InputOf(t, withGateway+documents)
		in.Instances = append(in.Instances, &snapshot.Instance{
			Node: "one", Instance: "one", Service: "shop/front", LaneAddress: "10.0.0.1:7443",
			Gateway: &snapshot.Gateway{Address: "10.0.0.1", SealingKey: node.PublicKey().Bytes()},
		})
		in.Seal = snapshot.SealKey
		in.SessionKey = func(origin, uid string) []byte { return []byte(strings.Repeat(origin+uid, 3))[:32] }
		out := compile.Compile(in)
		body := out.Bodies[snapshot.InSubject("shop", "front")].(*snapshot.Inbound)
		encoded, err := proto.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return body.Ingress.Authentications[0].Login, out, encoded
	}
	l, out, encoded := compiled(signingIn)
	if l.ClientId != "shop" || l.SessionMs != 3_600_000 || l.CallbackPath != "/sennit/callback" || l.Cookie != "sennit-session" || len(l.Secrets) != 1 {
		t.Fatalf("%+v", l)
	}
	opened, err := snapshot.OpenKey(node, snapshot.LoginOf("shop/front", "shop/users"), l.Secrets[0].Sealed)
	if err != nil {
		t.Fatal(err)
	}
	var secrets snapshot.LoginSecrets
	if err := proto.Unmarshal(opened, &secrets); err != nil || secrets.ClientSecret != "very secret" || len(secrets.SessionKey) != 32 {
		t.Errorf("%+v, %v", &secrets, err)
	}
	if bytes.Contains(encoded, []byte("very secret")) || bytes.Contains(encoded, secrets.SessionKey) {
		t.Error("what is to be sealed is there in the clear")
	}
	name := types.NamespacedName{Namespace: "shop", Name: "users"}
	if c := out.Authentication[name]; c[1].Status != "True" {
		t.Errorf("%+v", c)
	}
	for spoiled, want := range map[string]string{
		strings.Replace(signingIn, "clientSecretRef: {name: idp}", "clientSecretRef: {name: other}", 1): "there is no Secret shop/other",
		strings.Replace(signingIn, "client-secret:", "secret:", 1):                                      "has nothing in client-secret",
	} {
		l, out, _ := compiled(spoiled)
		if c := out.Authentication[name]; len(l.Secrets) != 0 || c[1].Status != "False" || !strings.Contains(c[1].Message, want) {
			t.Errorf("%+v, want %q", c, want)
		}
	}
}
