// Package controller composes the control plane: one process with the bus inside, the API for operators,
// the authority, the registry, and the compiler that turns documents and instances into signed snapshots.
//
// A change comes in at the API, is stored, compiled with everything else, and published; nodes report what
// they have applied. All state is in the state directory: the streams, and the keys, sealed.
//
// Start reading at Controller.Run; publish.go is the way of one change, nodes.go answers nodes, operators.go
// answers operators.
package controller
