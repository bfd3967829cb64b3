package proxy

import (
	"errors"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// CONNECT asks a service that is a proxy for a tunnel to some host (RFC 9110 §9.3.6). What passes through the tunnel
// passes by the rules and limits of both nodes, and a server that answers any method with success would read it as requests.
// So both ends have to mean it: the rule names the method, and the process was registered as one that takes it.
//
// On a lane CONNECT is a switch of protocols, to connectProtocol.
const connectProtocol = "connect"

var errConnect = errors.New("CONNECT asks for a tunnel: no rule matches that method, or the process was not registered to take it")

// connected makes of the switch what CONNECT is answered with. HTTP/2's codec does that by itself.
func (c *caller) connected() {
	if c.http != nil {
		c.response.Status, c.response.Upgrade, c.response.BodyLength = 200, "", 0
	}
}

// refused reports whether a CONNECT is none that the place takes.
func (e *serving) refused(place Place) bool {
	if e.request.Method != "CONNECT" {
		return false
	}
	e.request.Upgrade = connectProtocol
	return place.Outside != nil || !place.Connect
}

// connected makes of a success what a lane has for it.
func (e *serving) connected() {
	if e.request.Method == "CONNECT" && e.response.Status >= 200 && e.response.Status < 300 {
		e.response.Status, e.response.Upgrade, e.response.BodyLength = 101, connectProtocol, exchange.LengthUnknown
	}
}
