// Package quota spends limits that a whole cluster shares without asking anybody.
//
// The owner of a limit, a controller, keeps its Ledger and grants leases; a node spends its lease on its own and
// gives back what it does not use. A lease counts as spent when it is granted, and what may be granted is on disk
// before it is, so that A LIMIT IS NEVER EXCEEDED, WHATEVER PROCESS DIES, WAITS OR ASKS TWICE. What a failure costs is
// tokens that nobody spends: at most one reservation a limit, and one lease a node.
//
// Ledger and Lease are pure: time comes from the caller, and no clock but the owner's counts. A node's lease ends by
// how long it lives, counted from when the node asked for it.
//
// Start reading at ledger.go (what the owner does), with window.go and bucket.go (its two kinds of accounts); then
// lease.go (what a node holds), spender.go (the decision) and refill.go (when a node asks, and for how much).
package quota

//go:generate go run ../../internal/protogen
