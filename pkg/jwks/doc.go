// Package jwks fetches the keys that issuers of tokens publish (JWK sets, RFC 7517 §5), and keeps the last.
//
// A controller fetches, so that nodes need no way out; what is read goes to them as any configuration does, signed. Keys
// are fetched again and again, and soon where a token names one that is not there. While an issuer does not answer, its
// last keys stay for a bounded time, across restarts too. Which server answers is proven by its certificate; what it
// answers is bounded, and only usable public keys are taken from it (authn.ReadKeys).
//
// Start reading at Fetcher.
package jwks
