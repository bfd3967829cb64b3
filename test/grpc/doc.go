// Package grpc has gRPC's own interoperability tests, and h2spec's tests of HTTP/2, run through two real nodes. It is a
// module of its own, so that nothing that is shipped depends on either.
package grpc
