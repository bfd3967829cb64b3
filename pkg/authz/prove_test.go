package authz

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// The token and the key of RFC 7515, appendix A.3: by joe, until 2011-03-22 18:43.
const (
	rfcToken = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ." +
		"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	rfcKey = `{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`
)

func TestWhoIsNotProven(t *testing.T) {
	then := time.Unix(1300819380-60, 0)
	asks := &snapshot.Authentication{Origin: "shop/users", Issuers: []*snapshot.Issuer{{Issuer: "joe", Keys: []byte(rfcKey)}}}
	optional := &snapshot.Authentication{Origin: "shop/users", Optional: true, Issuers: asks.Issuers}
	claims := json.RawMessage(`{"sub":"alice"}`)
	for _, tt := range []struct {
		name string
		q    Question
		body *snapshot.Authentication
		now  time.Time
		want string // empty: proven, or nobody asks
	}{
		{"nobody asks", Question{}, nil, then, ""},
		{"a good token", Question{Token: rfcToken}, asks, then, ""},
		{"a good token, later", Question{Token: rfcToken}, asks, then.Add(time.Hour), "the token has expired"},
		{"a bad token", Question{Token: rfcToken[:len(rfcToken)-2] + "AA", Claims: claims}, asks, then, "signature is wrong"},
		{"a bad token where none is asked for", Question{Token: "a.b.c"}, optional, then, "malformed"},
		{"no token", Question{}, asks, then, "there is none"},
		{"no token where none is asked for", Question{}, optional, then, ""},
		{"claims alone", Question{Claims: claims}, asks, then, ""},
		{"a connection", Question{TCP: true}, asks, then, "a connection does not have"},
		{"a connection where none is asked for", Question{TCP: true}, optional, then, ""},
	} {
		answer, err := Unproven(&tt.q, tt.body, tt.now)
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case (answer == nil) != (tt.want == "") || answer != nil && (answer.Allowed || answer.Policy != "shop/users" || !strings.Contains(answer.Why, tt.want)):
			t.Errorf("%s: %+v, want %q", tt.name, answer, tt.want)
		}
	}
}
