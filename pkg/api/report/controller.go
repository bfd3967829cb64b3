package report

import "time"

// Paths of the controller's API that are not of Kubernetes' shapes. They are served on its unix socket, and over TLS
// to operators who show a bearer token; PathKubeconfig and PathBackup on the unix socket only. Operators of some namespaces
// are answered PathStatus, PathEdges, PathQuota, PathAuthzDenials and PathPlaintext as far as these go.
const (
	// PathWait (GET, ?resourceVersion=N&timeout=30s) answers Progress, a line of JSON each time it changes; the
	// last line says whether it is done.
	PathWait = "/sennit/v1/wait"
	// PathStatus (GET) answers Cluster.
	PathStatus = "/sennit/v1/status"
	// PathNodes + name + "/allow" (POST, Allow), "/accept" (POST, Accept) and "/remove" (POST, empty) answer 200
	// or Failure.
	PathNodes = "/sennit/v1/nodes/"
	// PathEdges (GET, ?by=version) answers the live graph of who calls whom: a list of telemetry's GraphEdge.
	PathEdges = "/sennit/v1/edges"
	// PathTap (GET, ?node=NAME and a filter: from=SERVICE&to=SERVICE&method=GET&path=/PREFIX&code=5xx) answers
	// telemetry's TapLine, a line of JSON for each, until the caller goes.
	PathTap = "/sennit/v1/tap"
	// PathQuota (GET) answers a list of Quota.
	PathQuota = "/sennit/v1/quota"
	// PathExplain (POST of routing's Question, of at most MaxQuestion bytes) answers routing's Explanation.
	PathExplain = "/sennit/v1/explain"
	// PathAuthzCheck (POST of authz's Question, of at most MaxQuestion bytes) answers authz's Answer, or 404 where there is no such
	// service.
	PathAuthzCheck = "/sennit/v1/authz/check"
	// PathAuthzDenials (GET) answers what AuthorizationPolicies refused of late, or would have: a list of telemetry's SeenDenial, the
	// newest first.
	PathAuthzDenials = "/sennit/v1/authz/denials"
	// PathPlaintext (GET) answers a list of Plaintext, by service.
	PathPlaintext = "/sennit/v1/authz/plaintext"
	// PathAnalyze (POST of documents in YAML or JSON, or of nothing) answers Analysis: what is wrong with the documents
	// that there are, as they would be if those of the request were applied.
	PathAnalyze = "/sennit/v1/analyze"
	// PathBundle (GET) answers the bundle of the trust domain, as JSON in SPIFFE's format. It holds public keys alone.
	PathBundle = "/sennit/v1/bundle"
	// PathKubeconfig (GET, ?expires=720h) answers a kubeconfig in YAML. It holds a secret.
	PathKubeconfig = "/sennit/v1/kubeconfig"
	// PathBackup (GET) answers a backup (see package backup). It holds every document, and the authority's file, sealed.
	PathBackup = "/sennit/v1/backup"
	// PathAuthority (GET) answers Authority. PathAuthority + "/rotate" (POST, Rotate), "/withdraw" (POST, Withdraw) and
	// "/cancel" (POST, empty) answer it as it is then, or Failure; so does "/accept" (POST, RootFile, the root's answer).
	// PathAuthority + "/request" (POST, RootRequest) answers RootFile, what the controller asks a root that is kept elsewhere.
	PathAuthority = "/sennit/v1/authority"
)

// MaxQuestion is how many bytes a question may have: a head of the largest size, and its JSON.
const MaxQuestion = 256 << 10

// Plaintext is who calls a service without an identity, as its nodes told this controller since its start.
type Plaintext struct {
	Service    string            `json:"service"`
	Permissive bool              `json:"permissive"` // they are taken now
	Sources    []PlaintextSource `json:"sources"`    // the newest first
}

// PlaintextSource are the connections of one address.
type PlaintextSource struct {
	Source      string    `json:"source"` // an IP address
	Taken       bool      `json:"taken"`  // else they were refused
	Connections uint64    `json:"connections"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
}

// An Analysis is what is wrong, of package analyze's findings.
type Analysis[F any] struct {
	Findings []F `json:"findings"`
	Before   []F `json:"before,omitempty"` // the same without the documents of the request
}

// HeaderSealingKey names, in the answer with a backup, the file of the key that a restore needs beside it.
const HeaderSealingKey = "Sennit-Sealing-Key"

// What the edges of the graph tell apart; ByVersion where nothing is asked for.
const (
	ByService = "service" // caller and callee
	ByVersion = "version" // and which version of which backend answered
	ByNode    = "node"    // and where that runs
)

// Progress is how far a change has come. Interested are the nodes that are alive and use something that was
// compiled from the change.
type Progress struct {
	Interested int      `json:"interested"`
	Applied    int      `json:"applied"`
	Waiting    []string `json:"waiting,omitempty"` // nodes that have not, sorted
	Done       bool     `json:"done"`
}

// Accept is the body of a request that ends a freeze.
type Accept struct {
	Key string `json:"key,omitempty"` // fingerprint of the host's key that goes on; empty: the one that the registry has
}

// Allow is the body of a request that lets a node run one more service.
type Allow struct {
	Service string `json:"service"` // "namespace/name"
}

// Failure is the body of every answer that is not a success. Kubernetes' Status has the same field.
type Failure struct {
	Message string `json:"message"` // what was wrong, and what to do
}

// Liveness of a node, as controllers know it.
const (
	Alive   = "alive"
	Lost    = "lost"
	Unknown = "unknown" // not heard of since this controller started to lead
)

// Cluster is what a controller knows of its cluster.
type Cluster struct {
	Cluster     string     `json:"cluster"`
	TrustDomain string     `json:"trustDomain"`
	Version     string     `json:"version"`    // of the controller's program
	Controller  string     `json:"controller"` // its name
	Epoch       uint64     `json:"epoch"`
	Revision    uint64     `json:"revision"`             // of the newest snapshot
	Namespaces  []string   `json:"namespaces,omitempty"` // what follows is of these alone; empty: of all, and of the cluster
	Nodes       []Member   `json:"nodes"`
	Gateways    []Gateways `json:"gateways"`
	Warnings    []string   `json:"warnings"`
}

// Gateways is what nodes make of one Gateway.
type Gateways struct {
	Name      string   `json:"name"` // "namespace/name"
	Class     string   `json:"class"`
	Addresses []string `json:"addresses"`
	Listeners []string `json:"listeners"` // "name:port/protocol(attached routes)"
	Routes    int      `json:"routes"`    // that are attached to listeners
	State     string   `json:"state"`     // "Programmed", or the reason why it is not
	Problem   string   `json:"problem,omitempty"`
}

// Member is one node of a cluster.
type Member struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`          // Alive, Lost or Unknown
	Since    time.Time `json:"since,omitzero"` // of State
	Address  string    `json:"address"`        // that other nodes dial
	Services []string  `json:"services"`       // that it may run, "namespace/name"
	Applied  uint64    `json:"applied"`        // newest revision that it reported as applied
	Behind   int       `json:"behind"`         // snapshots that it uses and has not applied yet
	Version  string    `json:"version"`        // of its program
}

// Quota is the use of one limit of a QuotaPolicy, or of one caller's or value's part of it.
type Quota struct {
	Limit    string `json:"limit"` // "namespace/policy/limit"
	Requests int64  `json:"requests"`
	Per      string `json:"per"`
	Burst    int64  `json:"burst,omitempty"`  // of a bucket
	Caller   string `json:"caller,omitempty"` // "namespace/name", where it counts by caller
	Value    string `json:"value,omitempty"`  // of the header, where it counts by one
	// Granted is what nodes have spent or hold of this window, and what the window lost by failures; of a bucket, what
	// is missing from it.
	Granted int64         `json:"granted"`
	Resets  time.Time     `json:"resets,omitzero"` // when the window ends, or the bucket is full
	Holders []QuotaHolder `json:"holders,omitempty"`
}

// QuotaHolder is a node that holds leases of a limit.
type QuotaHolder struct {
	Node   string `json:"node"`   // empty: nodes that the asker does not see, together
	Tokens int64  `json:"tokens"` // granted to it in leases that have not ended; some may be spent
}
