// Package api holds the documents that operators write: their kinds, schemas, defaults and rules.
//
// Text goes in, complete documents or problems come out. Decode reads YAML or JSON as people write it and
// names file, line, column, field and remedy of everything that is wrong, not only of the first. Check does the
// same for a document that arrived by the API. What is accepted has no unknown field, all defaults set, and
// converts to the Go type of its kind. Documents pass as unstructured maps, so that nothing is lost which an
// operator wrote; As turns one into its Go type.
//
// The package does no I/O, and does not know whether what a document refers to exists.
//
// Start reading at kind.go (which kinds there are), then decode.go, schema.go (one walker over the published
// schemas) and validate.go (what schemas cannot say).
package api

//go:generate go run ../../internal/crdschema backendtlspolicies gatewayclasses gateways grpcroutes httproutes listenersets referencegrants tcproutes tlsroutes udproutes
