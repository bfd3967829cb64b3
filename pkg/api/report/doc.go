// Package report holds what controllers and nodes answer to operators beside the documents of package api: how far
// a change has come, who is there, what a node does. A controller or a node writes these as JSON, the sennit command
// reads and shows them; one set of types keeps the two sides in step.
//
// Types and paths only. The package imports the standard library and nothing else, so that nodes, which know nothing
// of Kubernetes' types, can use it.
//
// Start reading at controller.go, then node.go.
package report
