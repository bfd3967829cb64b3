// Package tpmtest gives tests a TPM: an emulator (swtpm) where it is installed, and one made of software keys that can
// also lie, for what does not need a real one.
package tpmtest
