// Package federation exchanges bundles with other trust domains, as SPIFFE Federation has it: it serves the mesh's own
// (endpoint.go), and fetches those of others, by https_spiffe or https_web, again as their refresh hint says (watch.go).
//
// What an endpoint served is kept, and goes on to count while the endpoint is away, across restarts too. An endpoint is
// believed because of its certificate: with https_spiffe under the bundle of its own trust domain, the one that an operator
// wrote at first and the last one that it served from then on. What it serves is bounded, and replaces the bundle of that
// one trust domain and of no other. Start reading at watch.go.
package federation
