package report

import "time"

// Paths of a node's API, on its unix socket.
const (
	// PathServices: PUT of one document of services.d (YAML) declares it and answers Declared; GET answers a list
	// of Registered; DELETE of PathServices + "/namespace/name/instance" withdraws what was declared so.
	PathServices = "/v1/services"
	// PathNodeStatus (GET) answers Node.
	PathNodeStatus = "/v1/status"
	// PathNodeTap (GET, a filter as of PathTap) answers telemetry's TapLine, a line of JSON for each, until the caller
	// goes.
	PathNodeTap = "/v1/tap"
	// PathNodeExplain (POST of routing's Question, of at most MaxQuestion bytes) answers routing's Explanation, from the
	// node's own table.
	PathNodeExplain = "/v1/explain"
)

// Declared names an instance that a node has taken on.
type Declared struct {
	Service  string `json:"service"` // "namespace/name"
	Instance string `json:"instance"`
}

// Registered is an instance that a node runs.
type Registered struct {
	Service  string            `json:"service"` // "namespace/name"
	Instance string            `json:"instance"`
	Labels   map[string]string `json:"labels,omitempty"`
	Ports    []Port            `json:"ports,omitempty"`
	Origin   string            `json:"origin,omitempty"` // "orders.yaml:1", or who declared it at run time
	Healthy  bool              `json:"healthy"`
	Detail   string            `json:"detail,omitempty"` // of the health: what the last check said
}

// Port is one port of an instance.
type Port struct {
	Port     uint16 `json:"port"` // that callers name
	Name     string `json:"name,omitempty"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"` // where the process listens
}

// Node is what a node knows of itself.
type Node struct {
	Node         string        `json:"node"`
	Bus          Bus           `json:"bus"`
	Services     []Health      `json:"services"`
	Listeners    []Listener    `json:"listeners"`
	Gateways     []Gateway     `json:"gateways"`
	Lanes        []Lane        `json:"lanes"`
	Certificates []Certificate `json:"certificates"`
	Process      Process       `json:"process"`
	Datagrams    Datagrams     `json:"datagrams"`
	Problems     []string      `json:"problems"` // what is wrong, each with what to do
}

// Bus is a node's connection to the bus.
type Bus struct {
	Connected  bool      `json:"connected"`
	StaleSince time.Time `json:"staleSince,omitzero"` // time of the last beat, where a fresh one is due; else zero
}

// Health is the health of an instance that the node runs.
type Health struct {
	Service  string `json:"service"` // "namespace/name"
	Instance string `json:"instance"`
	Healthy  bool   `json:"healthy"`
	Detail   string `json:"detail,omitempty"`
}

// Listener is an explicit listener.
type Listener struct {
	Address string `json:"address"`
	As      string `json:"as"`              // the service that its connections speak as
	To      string `json:"to"`              // the service and port that they reach
	Error   string `json:"error,omitempty"` // why it does not listen
	Flows   *Flows `json:"flows,omitempty"` // of one of UDP
}

// Flows are those of a listener of UDP: what a socket sends, and what it is answered.
type Flows struct {
	Open    int    `json:"open"`
	Begun   uint64 `json:"begun"`
	Refused uint64 `json:"refused"` // datagrams of those who may not use the listener, or of too many
	Dropped uint64 `json:"dropped"` // datagrams that found a queue full
}

// Gateway is a port on which a gateway of the node lets in those outside.
type Gateway struct {
	Gateway     string `json:"gateway"`         // "namespace/name"
	Address     string `json:"address"`         // without a port where its configuration names none
	Error       string `json:"error,omitempty"` // why it is not open
	Connections int    `json:"connections"`     // that are open
	Accepted    uint64 `json:"accepted"`        // since it was opened
	Refused     uint64 `json:"refused"`         // because their source had too many
}

// Lane is a lane that the node has to another.
type Lane struct {
	From  string `json:"from"` // the local service, "namespace/name"
	To    string `json:"to"`   // the remote one
	Node  string `json:"node"`
	State string `json:"state"`
	// Carrier is what the connection runs over, "quic" or "tcp", and Why says so where it is not the usual one.
	Carrier string `json:"carrier"`
	Why     string `json:"why,omitempty"`
}

// Certificate is an SVID that the node holds; Service is "" for the node's own.
type Certificate struct {
	Service  string    `json:"service"`
	NotAfter time.Time `json:"notAfter"`
}

// Process is what the node's process holds. Its memory as the system counts it is in /proc.
type Process struct {
	PID        int    `json:"pid"`
	Goroutines int    `json:"goroutines"`
	HeapBytes  uint64 `json:"heapBytes"` // of objects: those in use, and those not collected yet
}

// Datagrams are those of lanes since the node started, and the system calls that carried them: Received by Reads
// is how many datagrams one read takes. All are 0 where the kernel has no UDP GRO.
type Datagrams struct {
	Received int64 `json:"received"`
	Reads    int64 `json:"reads"`
	Sent     int64 `json:"sent"`
	Writes   int64 `json:"writes"`
}
