package node

import (
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// TestWhatSigningInTakesIsForOneGatewayAndPolicy has a node get what was sealed to others, and what was sealed to it for
// something else.
func TestWhatSigningInTakesIsForOneGatewayAndPolicy(t *testing.T) {
	mine, err := snapshot.NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := snapshot.NewSealingKey()
	if err != nil {
		t.Fatal(err)
	}
	front := exchange.ServiceName{Namespace: "shop", Name: "front"}
	secrets, err := proto.Marshal(&snapshot.LoginSecrets{SessionKey: make([]byte, 32), ClientSecret: "s"})
	if err != nil {
		t.Fatal(err)
	}
	body := func(recipient []byte, as string) *snapshot.Login {
		sealed, err := snapshot.SealKey(recipient, as, secrets)
		if err != nil {
			t.Fatal(err)
		}
		return &snapshot.Login{Issuer: "https://id.example", Secrets: []*snapshot.SealedKey{{Recipient: recipient, Sealed: sealed}}}
	}
	public := mine.PublicKey().Bytes()
	for _, tt := range []struct {
		name string
		body *snapshot.Login
		can  bool
	}{
		{"its own", body(public, snapshot.LoginOf("shop/front", "shop/users")), true},
		{"another node's", body(other.PublicKey().Bytes(), snapshot.LoginOf("shop/front", "shop/users")), false},
		{"another gateway's", body(public, snapshot.LoginOf("shop/back", "shop/users")), false},
		{"another policy's", body(public, snapshot.LoginOf("shop/front", "shop/others")), false},
		{"a certificate's key", body(public, "shop/front"), false},
		{"nothing yet", &snapshot.Login{Issuer: "https://id.example"}, false},
	} {
		l := logins{key: mine, log: slog.New(slog.DiscardHandler)}
		in := map[exchange.ServiceName]*snapshot.Ingress{front: {Authentications: []*snapshot.Authentication{{Origin: "shop/users", Login: tt.body}}}}
		l.take(in)
		first := l.of(front, "shop/users")
		if (first != nil) != tt.can || l.of(front, "shop/others") != nil {
			t.Errorf("%s: %v", tt.name, first)
		}
		l.take(map[exchange.ServiceName]*snapshot.Ingress{front: proto.Clone(in[front]).(*snapshot.Ingress)})
		if l.of(front, "shop/users") != first {
			t.Errorf("%s: made anew", tt.name)
		}
		l.take(nil)
		if l.of(front, "shop/users") != nil {
			t.Errorf("%s: still there", tt.name)
		}
	}
}
