// Package tpm keeps a node's key in the TPM 2.0 of its host, and has the TPM prove that it does.
//
// A key is made in the TPM, under its storage key, and what the caller keeps of it is the TPM's own wrapping, which this
// TPM alone can load. Each use opens the device, loads the key, uses it and lets go of it: nothing stays in the TPM, whose
// places are few, and a TPM that was reset meanwhile (a host that was suspended) is no error. A use takes some tens to
// hundreds of milliseconds, which is why nothing that requests wait for is signed here.
//
// The owner's and the endorsement hierarchy have to be without a password, as they are where nobody set one.
//
// Start reading at Device.
package tpm
