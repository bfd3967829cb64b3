// Package node composes the node proxy: the process that runs once on each host and carries the traffic of
// its services.
//
// It knows every part of the data path and none of their insides: identity (ca), lanes (transport), rules
// (routing), exchanges (proxy), callers (capture), processes (registry), what happened (telemetry) and the
// bus. Configuration and identity are kept in the state directory, so that a node which starts with the bus
// away serves from what it had.
//
// Start reading at Node.Run; apply.go is the way of one change, drain.go the end.
package node

//go:generate go run ../../internal/protogen
