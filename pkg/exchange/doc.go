// Package exchange holds one request and its response as every part of the data path sees them: heads,
// lengths, trailers and the outcome.
//
// Codecs (http1, the transport's frames) fill these values; capture, routing, policy, quota and telemetry
// read them. The package does no I/O and imports none of ours. To keep the hot path free of allocations
// the strings of a head usually point into the buffer of the connection that it was read from: they are
// valid until that connection's next head is read, and whoever keeps one longer clones it.
//
// Start reading at Request and Response.
package exchange
