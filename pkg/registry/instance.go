package registry

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// An Instance is one process of a service on this host, as a file or `sennit service register` declares it.
// It never changes once it was read; readers share it.
type Instance struct {
	Service   exchange.ServiceName
	Name      string // its identifier within the service and node; the node's name where none was given
	Labels    map[string]string
	Weight    uint32 // beside other instances', 1 to maxWeight; 0: nothing is said of it
	Ports     []Port
	Health    *Check // nil: not checked, counts as healthy
	Listeners []Listener
	Gateway   netip.Addr // where the node opens the ports of the Gateway of this name; invalid: it is no gateway
	Egress    *Egress    // nil: it is none; the node itself carries calls of the ExternalService of this name out of the mesh
	Workload  *Workload  // nil: no process gets SVIDs of the service from the node
	Origin    string     // where it was declared: "file:line", or AtRunTime
}

// AtRunTime is the Origin of what `sennit service register` declared.
const AtRunTime = "registered at run time"

// A Port is a port of the service and where the process listens for it on this host.
type Port struct {
	Number   uint16 // the service's port, as callers name it
	Name     string // may be empty
	Protocol snapshot.Protocol
	Address  netip.AddrPort
	Connect  bool // it takes CONNECT: what a caller sends behind that is for it alone to understand
	// Plaintext is where the node takes connections of callers without an identity for this port, where the service's document
	// lets it. Invalid: nowhere.
	Plaintext netip.AddrPort
}

// UDP reports whether it takes datagrams, and no connections.
func (p Port) UDP() bool { return p.Protocol == snapshot.Protocol_PROTOCOL_UDP }

// A Listener lets local processes call a service: whoever connects to Address and is UID, or runs in Unit,
// speaks as As. Where neither is given it is only the node process's own user.
type Listener struct {
	As      exchange.ServiceName
	To      exchange.ServiceName
	Port    uint16 // of the service To
	UDP     bool   // of To, and of Address: who sends it a datagram; else who connects
	Address netip.AddrPort
	HasUID  bool
	UID     uint32
	Unit    string // a unit of the system's systemd, as "orders.service"; empty: none
}

// A socket is what one listener alone can have.
type socket struct {
	address netip.AddrPort
	udp     bool
}

func (l Listener) socket() socket { return socket{l.Address, l.UDP} }

// A Check says how the health of an instance is found out.
type Check struct {
	Kind      CheckKind
	Address   netip.AddrPort // of the port that is asked
	Path      string         // HTTP only: path and query of the GET
	Interval  time.Duration  // from 100 ms to 1 h
	Timeout   time.Duration  // of one attempt; at most Interval
	Healthy   int            // so many successes in a row end an illness
	Unhealthy int            // so many failures in a row begin one

	port string // as it was written: a name or a number
}

// CheckKind is what counts as an answer.
type CheckKind uint8

// How health is checked.
const (
	CheckTCP  CheckKind = iota // the port accepts a connection
	CheckHTTP                  // a GET is answered with a status from 200 to 399
)

// Key names an instance on its node.
type Key struct {
	Service exchange.ServiceName
	Name    string
}

// Key returns the identity of the instance, which is never its address.
func (in *Instance) Key() Key { return Key{in.Service, in.Name} }

// IsGateway reports whether the node itself is the instance: a gateway, which lets in those outside.
func (in *Instance) IsGateway() bool { return in.Gateway.IsValid() }

// String returns "namespace/service/instance".
func (k Key) String() string { return k.Service.String() + "/" + k.Name }

// document is an Instance as it is written in a file.
type document struct {
	Service   string             `json:"service"`
	Instance  string             `json:"instance,omitempty"`
	Labels    map[string]string  `json:"labels,omitempty"`
	Weight    uint32             `json:"weight,omitempty"`
	Ports     []documentPort     `json:"ports,omitempty"`
	Health    *documentHealth    `json:"health,omitempty"`
	Listeners []documentListener `json:"listeners,omitempty"`
	Gateway   *documentGateway   `json:"gateway,omitempty"`
	Egress    *documentEgress    `json:"egress,omitempty"`
	Workload  *documentWorkload  `json:"workload,omitempty"`
}

type documentEgress struct {
	Allow []netip.Prefix `json:"allow,omitempty"`
}

type documentGateway struct {
	Address string `json:"address"`
}

type documentPort struct {
	Port      uint16 `json:"port"`
	Name      string `json:"name,omitempty"`
	Protocol  string `json:"protocol"`
	Address   string `json:"address"`
	Connect   bool   `json:"connect,omitempty"`
	Plaintext string `json:"plaintext,omitempty"`
}

type documentHealth struct {
	HTTP      *documentTarget `json:"http,omitempty"`
	TCP       *documentTarget `json:"tcp,omitempty"`
	Interval  string          `json:"interval"`
	Timeout   string          `json:"timeout"`
	Healthy   int             `json:"healthy"`
	Unhealthy int             `json:"unhealthy"`
}

type documentTarget struct {
	Port string `json:"port"`
	Path string `json:"path,omitempty"`
}

type documentListener struct {
	As      string  `json:"as"`
	To      string  `json:"to"`
	Address string  `json:"address"`
	UID     *uint32 `json:"uid,omitempty"`
	Unit    string  `json:"unit,omitempty"`

	Protocol string `json:"protocol,omitempty"`
}

// MarshalJSON writes the instance as a document of services.d: JSON is YAML, so Parse reads it back.
func (in *Instance) MarshalJSON() ([]byte, error) {
	d := document{Service: in.Service.String(), Instance: in.Name, Labels: in.Labels, Weight: in.Weight}
	for _, p := range in.Ports {
		port := documentPort{Port: p.Number, Name: p.Name, Protocol: protocolName(p.Protocol), Address: p.Address.String(), Connect: p.Connect}
		if p.Plaintext.IsValid() {
			port.Plaintext = p.Plaintext.String()
		}
		d.Ports = append(d.Ports, port)
	}
	if c := in.Health; c != nil {
		d.Health = &documentHealth{Interval: c.Interval.String(), Timeout: c.Timeout.String(), Healthy: c.Healthy, Unhealthy: c.Unhealthy}
		target := &documentTarget{Port: c.port, Path: c.Path}
		if c.Kind == CheckHTTP {
			d.Health.HTTP = target
		} else {
			d.Health.TCP = target
		}
	}
	for _, l := range in.Listeners {
		out := documentListener{As: l.As.String(), To: fmt.Sprintf("%s:%d", l.To, l.Port), Address: l.Address.String(), Unit: l.Unit}
		if l.HasUID {
			out.UID = &l.UID
		}
		if l.UDP {
			out.Protocol = "udp"
		}
		d.Listeners = append(d.Listeners, out)
	}
	if in.IsGateway() {
		d.Gateway = &documentGateway{Address: in.Gateway.String()}
	}
	if in.Egress != nil {
		d.Egress = &documentEgress{Allow: in.Egress.Allow}
	}
	if w := in.Workload; w != nil {
		d.Workload = &documentWorkload{Unit: w.Unit}
		if w.HasUID {
			d.Workload.UID = &w.UID
		}
	}
	return json.Marshal(d)
}

func protocolName(p snapshot.Protocol) string {
	switch p {
	case snapshot.Protocol_PROTOCOL_HTTP:
		return "http"
	case snapshot.Protocol_PROTOCOL_HTTP2:
		return "http2"
	case snapshot.Protocol_PROTOCOL_UDP:
		return "udp"
	}
	return "tcp"
}

// isInstanceName reports whether s can name an instance or a node: 1 to 253 of letters, digits, ".", "_"
// and "-", with a letter or digit at both ends.
func isInstanceName(s string) bool {
	alnum := func(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' }
	if s == "" || len(s) > 253 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && !strings.ContainsRune("._-", rune(s[i])) {
			return false
		}
	}
	return true
}

// isLabelKey and isLabelValue follow what Kubernetes allows for labels, so that selectors can name them.
func isLabelKey(s string) bool {
	prefix, name, found := strings.Cut(s, "/")
	if !found {
		prefix, name = "x", s
	}
	return isInstanceName(prefix) && isInstanceName(name) && len(name) <= 63
}

// IsPlace reports whether s can name a zone or a region; the empty string names none.
func IsPlace(s string) bool { return isLabelValue(s) }

func isLabelValue(s string) bool { return s == "" || isInstanceName(s) && len(s) <= 63 }

// sockets are where the node listens for the instance.
func (in *Instance) sockets() []socket {
	var all []socket
	for _, l := range in.Listeners {
		all = append(all, l.socket())
	}
	for _, p := range in.Ports {
		if p.Plaintext.IsValid() {
			all = append(all, socket{address: p.Plaintext})
		}
	}
	return all
}
