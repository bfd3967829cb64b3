// Package bus carries everything that controllers and nodes say to each other over NATS: the embedded
// server with its accounts, the streams with the controllers' records, a node's requests and their
// answers, and the publishing and following of configuration.
//
// The bus is trusted with availability, never with integrity or secrets: a node believes a snapshot because
// it is signed, and an answer because it carries the request's nonce and what the verb's own signatures
// say. What the package guarantees is that no node can publish where streams live nor reach their JetStream
// API, that a node speaks only under its own name, and that what Records.Append acknowledged is on disk. It
// does not seal or verify anything itself (package snapshot does), and it knows nothing of HTTP.
//
// Start reading at accounts.go (who may do what), then server.go, records.go (what is stored), request.go
// and serve.go (what nodes ask), publisher.go and follower.go (how configuration travels).
package bus

//go:generate go run ../../internal/protogen
