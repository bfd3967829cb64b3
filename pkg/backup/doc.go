// Package backup is the file that a controller's state is kept in apart from it: what is in it, and how damage is
// found. It knows nothing of what the parts hold.
//
// The file is a tar archive, so that people can look into it, with a trailer behind: the SHA-256 of everything before,
// and a MAC of that under the key that seals the authority's keys. The first finds every damage, and whoever holds the
// file can check it; the second finds what somebody changed on purpose, when the file is restored. NOTHING OF A FILE IS
// USED BEFORE ALL OF IT WAS READ AND CHECKED.
//
// Start reading at Manifest.
package backup
