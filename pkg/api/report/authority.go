package report

import "time"

// Authority is what signs the certificates of a cluster.
type Authority struct {
	Root         Issuer           `json:"root"`
	Intermediate Issuer           `json:"intermediate"`
	Upstream     *UpstreamIssuer  `json:"upstream,omitempty"`   // that issues for nodes in the place of the intermediate
	UpstreamCA   string           `json:"upstreamCA,omitempty"` // the authority outside that the controller is set to ask
	Failure      string           `json:"failure,omitempty"`    // why it could not be asked the last time
	SigningKey   string           `json:"signingKey"`           // its id
	BusOperator  string           `json:"busOperator"`          // public key of who makes the accounts of the bus
	Offline      bool             `json:"offlineRoot"`          // the root's key is kept elsewhere
	TTL          string           `json:"certificateTTL"`       // of certificates
	Rotation     *AuthorityChange `json:"rotation,omitempty"`
	Next         *NextRoot        `json:"next,omitempty"`           // that was asked to follow on Root
	NextSigning  string           `json:"nextSigningKey,omitempty"` // that the root was asked to let follow on SigningKey: its id
	// BackupNeeded is where no backup was taken since Root took another's place: what is restored from those of before is
	// not believed.
	BackupNeeded bool              `json:"backupNeeded,omitempty"`
	Nodes        AuthorityStanding `json:"nodes"`
}

// An Issuer is a certificate that signs others.
type Issuer struct {
	Key    string    `json:"key"`  // fingerprint of its key
	Name   string    `json:"name"` // its subject
	Ends   time.Time `json:"ends"`
	Serial string    `json:"serial"`
}

// An UpstreamIssuer is an intermediate that an authority outside of the mesh certified.
type UpstreamIssuer struct {
	Issuer
	Authority string   `json:"authority"`
	Roots     []Issuer `json:"roots"`
}

// Phases of a rotation.
const (
	Announced = "announced" // the new root is trusted beside the old one, and issues nothing yet
	Renewing  = "renewing"  // what is new issues, and what the old one issued is still trusted
)

// An AuthorityChange is a rotation that runs.
type AuthorityChange struct {
	Of       string    `json:"of"`    // "root", "intermediate", "signing key" or "bus operator"
	Phase    string    `json:"phase"` // Announced or Renewing
	Begun    time.Time `json:"begun"`
	From     string    `json:"from"` // fingerprints
	To       string    `json:"to"`
	Withdraw time.Time `json:"withdraw,omitzero"` // when nothing hangs on the old one any more, and it is withdrawn
}

// AuthorityStanding is how far nodes have come with the rotation that runs; all of them where none runs.
type AuthorityStanding struct {
	Total   int      `json:"total"`
	Done    int      `json:"done"`              // Announced: told of the new root. Renewing: renewed
	Waiting []string `json:"waiting,omitempty"` // alive, or not heard of yet
	Away    []string `json:"away,omitempty"`    // lost; nobody waits for them
}

// Rotate is the body of a request that begins a rotation.
type Rotate struct {
	Of      string `json:"of"`                // "root", "intermediate", "signing key" or "bus operator"
	OwnRoot bool   `json:"ownRoot,omitempty"` // that the mesh's own root certifies the intermediate, whatever the controller is set to
}

// NextRoot is a root that is to follow, where its key or that of the one before is kept elsewhere.
type NextRoot struct {
	Key    string   `json:"key"`    // fingerprint
	Awaits []string `json:"awaits"` // fingerprints of the roots whose answers are awaited, as `sennit ca request` names them
}

// RootRequest is the body of a request for what the controller asks a root that is kept elsewhere: an intermediate, or where
// one is set something else to follow as well.
type RootRequest struct {
	NextRoot string `json:"nextRoot,omitempty"` // another root: its certificate, PEM
	Online   bool   `json:"online,omitempty"`   // another root, that the controller makes and whose key it keeps
	Signing  bool   `json:"signing,omitempty"`  // another signing key
	// OutsideRoots are roots of authorities outside that rosters may list from then on, PEM, where nothing is to follow.
	OutsideRoots []string `json:"outsideRoots,omitempty"`
}

// RootFile is what is carried between a controller and a root that is kept elsewhere.
type RootFile struct {
	PEM string `json:"pem"`
}

// Withdraw is the body of a request that ends the trust in what was replaced.
type Withdraw struct {
	Force bool `json:"force,omitempty"` // also where certificates hang on it that have not ended
}
