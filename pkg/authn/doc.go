// Package authn proves who the end user of a request is.
//
// What it is told is a document that a stranger wrote: everything in it is bounded, what two readers could read differently
// is refused, and nothing of it is believed before its signature is verified. It is pure: keys are handed to it, and it
// neither fetches them nor keeps files. Who enforces what is decided here is pkg/proxy; what follows from who the user is,
// is pkg/authz's.
//
// Start reading at User.
package authn
