// Package client speaks to a controller, and to the node of this host, for the operator's commands.
//
// Documents pass as they are; answers that are no success come back as Kubernetes' status errors, so that callers
// tell not-found from conflict with apimachinery's functions. Where nobody answers, the error says what was tried
// and what to do. Tokens are read from files, sent to the one server that they are for, and never stand in an error.
//
// Nothing is tried again and nothing is kept between calls.
//
// Start reading at connect.go (where the controller is), then documents.go.
package client
