// Package audit is the record of what happened: who changed what and from where, which host joined, which
// certificates were issued, and what was refused.
//
// Each controller writes one chain of records into the audit's stream: a record is signed, and holds the hash of
// the record before, whole and as it is stored. The leading controller signs checkpoints over the heads of all
// chains. So a byte that was flipped, and a record that was removed, inserted, moved or rewritten, is found; what
// cannot be found is that records behind the newest checkpoint are missing at the end, where the checkpoint is
// gone from the stream and from wherever a copy of it was kept.
//
// A changed document is not copied into its record: the record holds the sequence and the hash of the revision in
// the log of documents, which keeps every one, and verifying looks at both logs.
//
// The package decides nothing and knows no document's form. WHAT RECORD ACKNOWLEDGED IS ON DISK.
//
// Start reading at audit.proto, then writer.go (the way in) and verify.go.
package audit

//go:generate go run ../../internal/protogen
