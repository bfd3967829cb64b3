package compile

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

func TestRetryOfARule(t *testing.T) {
	const to = `backendRefs: [{name: payments-v2, port: 80}]`
	for _, tt := range []struct {
		name, rule string
		want       *snapshot.Retry
	}{
		{"none", `{` + to + `}`, nil},
		{"defaults", `{retry: {}, ` + to + `}`, &snapshot.Retry{Attempts: 1, BackoffMs: 25}},
		{"all", `{retry: {codes: [500, 503], attempts: 3, backoff: 1s}, matches: [{path: {value: /a}}, {path: {value: /b}}], ` + to + `}`, &snapshot.Retry{Codes: []uint32{500, 503}, Attempts: 3, BackoffMs: 1000}},
		{"at once", `{retry: {backoff: 0s}, ` + to + `}`, &snapshot.Retry{Attempts: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range out(t, Compile(InputOf(t, route("["+tt.rule+"]"))), "shop", "payments", "").Ports[0].Rules {
				if !proto.Equal(r.Retry, tt.want) {
					t.Errorf("%s: %v, want %v", r.Origin, r.Retry, tt.want)
				}
			}
		})
	}
}
