// Package attest verifies what a cloud says of one of its instances, and asks an instance's metadata service for it; and
// what a TPM says of itself and of a key (tpm.go), which pkg/tpm asks for.
//
// Evidence is a document that a stranger sends. It is bounded, its signature is verified with the keys that the cloud
// publishes before anything of it is read, and what it says of the instance is believed only then. Verifying is pure: keys
// and the time are handed in.
//
// What evidence proves differs. Google's and Azure's is made for a Challenge, which is the hash of the request that it
// comes with, and ends soon: it cannot be used with another request. Amazon's is the same for the whole life of the
// instance, and every process there can read it: it proves that its sender has been on the instance, once.
//
// Start reading at Verifier.
package attest
