// Package login has people sign in at a gateway, by OpenID Connect: authorization code with PKCE (RFC 7636).
//
// A session is a cookie of the browser's that holds the ID token, sealed, and what renews it; nothing is kept at the gateway but
// which renewals there were of late, and every node of it reads the cookies of the others. What a session proves is what its ID token proves, by the policy of the place: it is verified
// as any token is (pkg/authn), and the session ends with it. What those outside may write is the request: cookies are read only
// where a seal of ours is whole, and nobody is led anywhere but to the issuer and back to the host that he came to.
//
// Start reading at Login.
package login
