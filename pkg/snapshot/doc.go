// Package snapshot holds compiled configuration: the messages that controllers sign and nodes apply, the
// envelope around them, and its signing and verification.
//
// A node believes a snapshot because a controller's key signed it and the roster, which the root signed,
// lists that key; never because of who delivered it. Versions order everything: (epoch, revision), and an
// older one is never applied. The package does no I/O and imports none of ours.
//
// Start reading at snapshot.proto, then seal.go (signing) and open.go (verifying).
package snapshot

//go:generate go run ../../internal/protogen
