// Package conformance runs Gateway API's own conformance suite, unmodified, against a real controller and real nodes. It
// is a module of its own, so that nothing that is shipped depends on the suite.
//
// The suite expects a Kubernetes cluster around the implementation: it creates Deployments and waits for their pods, reads
// the pods' logs, and asks which CRDs are installed. A Front adds these to the controller's API and passes everything else
// on to it. What a cluster does about these documents is done here: each pod is a process in a network namespace of its
// own, and is declared to a node (Pods); each Gateway gets an address at another node (Addresses).
//
// Everything runs in one network namespace that the test makes for itself, and so it needs root. README.md says how to run
// it and what the results mean.
//
// Start reading at TestConformance.
package conformance
