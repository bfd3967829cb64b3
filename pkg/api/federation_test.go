package api

import (
	"slices"
	"strings"
	"testing"
)

// partnerBundle is a bundle with one key of JWT-SVIDs.
const partnerBundle = `{"keys":[{"use":"jwt-svid","kty":"EC","kid":"one","crv":"P-256","x":"fK-wKTnKL7KFLM27lqq5DC-bxrVaH6rDV-IcCSEOeL4","y":"wq-g3TQWxYlV51TCPH030yXsRxvujD4hUUaIQrXk4KI"}]}`

func TestFederatedTrustDomains(t *testing.T) {
	const web = "  endpoint: {url: 'https://a.example/', profile: https_web}\n"
	spiffe := "  endpoint: {url: 'https://a.example:8443', profile: https_spiffe, spiffeID: 'spiffe://a.example/bundle'}\n"
	for _, tt := range []struct {
		name, spec string
		want       []string
	}{
		{"by the web", "  trustDomain: a.example\n" + web, nil},
		{"by the web, with a beginning", "  trustDomain: a.example\n  bundle: '" + partnerBundle + "'\n" + web, nil},
		{"no trust domain", "  trustDomain: spiffe://a.example\n" + web, []string{"spec.trustDomain: must be the name of a trust domain"}},
		{"capitals", "  trustDomain: A.example\n" + web, []string{"spec.trustDomain: must be the name of a trust domain"}},
		{"without TLS", "  trustDomain: a.example\n  endpoint: {url: 'http://a.example/', profile: https_web}\n", []string{"spec.endpoint.url: must be an address as https://"}},
		{"with a password", "  trustDomain: a.example\n  endpoint: {url: 'https://a:b@a.example/', profile: https_web}\n", []string{"spec.endpoint.url: must be an address as https://"}},
		{"another profile", "  trustDomain: a.example\n  endpoint: {url: 'https://a.example/', profile: https}\n", []string{"spec.endpoint.profile: must be one of https_spiffe, https_web"}},
		{"an ID with the web's profile", "  trustDomain: a.example\n  endpoint: {url: 'https://a.example/', profile: https_web, spiffeID: 'spiffe://a.example/b'}\n", []string{"spec.endpoint.spiffeID: must not be given"}},
		{"no ID", "  trustDomain: a.example\n  bundle: '" + partnerBundle + "'\n  endpoint: {url: 'https://a.example/', profile: https_spiffe}\n", []string{"spec.endpoint.spiffeID: is required", "spec.bundle: must have a key with use: x509-svid"}},
		{"a wrong ID", "  trustDomain: a.example\n  endpoint: {url: 'https://a.example/', profile: https_spiffe, spiffeID: a}\n", []string{"spec.endpoint.spiffeID: must be a SPIFFE ID", "spec.bundle: is required"}},
		{"no beginning", "  trustDomain: a.example\n" + spiffe, []string{"spec.bundle: is required with profile: https_spiffe"}},
		{"a beginning without roots", "  trustDomain: a.example\n  bundle: '" + partnerBundle + "'\n" + spiffe, []string{"spec.bundle: must have a key with use: x509-svid"}},
		{"a beginning that is none", "  trustDomain: a.example\n  bundle: '[]'\n" + spiffe, []string{"spec.bundle: must be a bundle as SPIFFE has it"}},
		{"a beginning without end", "  trustDomain: a.example\n  bundle: '" + strings.Repeat("x", MaxTrustBundle+1) + "'\n" + web, []string{"spec.bundle: must have at most"}},
		{"an unknown field", "  trustDomain: a.example\n  insecure: true\n" + web, []string{"spec.insecure: unknown field"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode("f.yaml", []byte("apiVersion: sennit.dev/v1alpha1\nkind: FederatedTrustDomain\nmetadata: {name: a}\nspec:\n"+tt.spec))
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) || slices.ContainsFunc(tt.want, func(want string) bool {
				return !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, want) })
			}) {
				t.Errorf("%s\nwant %s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}
