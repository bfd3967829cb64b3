package backup

import (
	"errors"
	"fmt"
	"time"
)

// Format is the version of the file that this package writes and reads.
const Format = 1

// What is in the archive, in this order: the authority's file, the streams' parts, the manifest.
const (
	authorityEntry = "ca.db"
	streamsFolder  = "streams/"
	manifestEntry  = "manifest.json"
)

// Limits on what a file may make a reader hold, in bytes.
const (
	maxAuthority = 1 << 30
	maxManifest  = 1 << 20
	// MaxPart bounds one part of a stream.
	MaxPart = 1 << 20
)

// A Manifest says what a backup is of.
type Manifest struct {
	Format      int       `json:"format"`
	Made        time.Time `json:"made"`
	Version     string    `json:"version"` // of the program that made it
	Cluster     string    `json:"cluster"`
	TrustDomain string    `json:"trustDomain"`
	Controller  string    `json:"controller"` // its name
	Epoch       uint64    `json:"epoch"`
	Key         string    `json:"key"` // fingerprint of the key that seals ca.db, which is not in the file
	Streams     []Stream  `json:"streams"`
}

// A Stream is one stream of the bus, as it was when it was copied.
type Stream struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	Last     uint64 `json:"last"` // sequence of the newest message; 0: none was ever stored
	Parts    int    `json:"parts"`
}

// What callers decide on.
var (
	// ErrDamaged is returned for a file that is not, byte for byte, as a controller wrote it.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrFormat is returned for a file that is no backup, or of a newer program.
	ErrFormat = errors.New("this is no backup that this program can read")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}
