// Package telemetry records what happened to exchanges: summaries of who calls whom, metrics, spans, and the access log.
//
// A node's Edges count every exchange by caller, callee, backend, destination and protocol, without a lock
// and without allocating; each second Report takes what was counted. A controller's Graph merges the
// reports of all nodes into rates and percentiles over a sliding window. Percentiles are at most 1/32 off
// (histogram.go says why). The AccessLog writes one JSON line for each failed exchange and for a sample of
// the others, and drops lines, counted, rather than delay an exchange.
//
// What reports take is added up for good (totals.go), which is what Prometheus scrapes (metrics.go).
//
// A sampled exchange becomes a span in OTLP (span.go), which waits on the node (spans.go) and, once it came over the
// bus, on the controller for a receiver (otlp.go); both are bounded, and count what they drop.
//
// Taps show exchanges as they end to who looks, and cost a load where nobody does (tap.go); who may is in an answer that a
// controller signs (tapped.go).
//
// The package carries no reports and opens no port: it is handed what it writes to.
// Start reading at edges.go, then graph.go, metrics.go and accesslog.go.
package telemetry

//go:generate go run ../../internal/protogen
