// Package workload is the SPIFFE Workload API of a node: gRPC on a unix socket that every process of the host may open, and
// on which each gets the SVIDs of the one service it is, and what they are verified with.
//
// Who asks is told by the kernel, at the connection and again for each answer (capture.Processes), and is the service
// that services.d names for it; who is none gets PermissionDenied. A process gets a certificate with a key of its own, never the
// one with which the node opens lanes: the key of a lane never leaves the node. Certificates are asked for when a process
// first wants one, and renewed for as long as one waits for it; they are kept, so that a node that starts without the
// bus has them. JWT-SVIDs are signed by a controller, one by one.
//
// What processes can make grow is bounded: connections, streams, audiences, tokens a second. Start reading at server.go.
package workload

//go:generate go run ../../internal/protogen
