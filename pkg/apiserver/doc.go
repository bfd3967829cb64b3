// Package apiserver is the controller's HTTPS API: Kubernetes' conventions with no Kubernetes behind.
//
// A request names a document and what to do with it; the server decodes and checks it (pkg/api), asks the hook,
// and appends it to the log of resources, conditional on the last sequence of its subject. The log is the truth:
// a cache follows it, lists and watches are answered from the cache, and every read first waits until the cache
// has everything that the log held when the read arrived. So a write is visible to the next read, on every
// controller. Status lies in a log of its own, keyed by the same names. Documents that other parts own (instances,
// tokens, nodes) are shown through the same API from what they implement as Virtual.
//
// It opens no listener and holds no state that is not in the logs. It does not decide who may do what beyond
// knowing who asks: the hook refuses.
//
// Start reading at server.go, then write.go for the way of a change and watch.go for the way back.
package apiserver
