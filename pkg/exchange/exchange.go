package exchange

import "io"

// LengthUnknown is the BodyLength of a body that ends by its framing (chunked coding, an end frame, or the
// end of the connection) and not by a number that was stated before it.
const LengthUnknown int64 = -1

// Kind tells what an exchange carries.
type Kind uint8

const (
	// HTTP is one request with one final response (RFC 9110).
	HTTP Kind = iota
	// TCP is one connection whose bytes are not looked at. It has a Target and nothing else of a Request.
	TCP
	// UDP is one flow: the datagrams that one socket of a caller sends to a service, and what it is answered. It too has a
	// Target and nothing else.
	UDP
)

// String returns the kind's name as it stands in logs and metrics.
func (k Kind) String() string {
	switch k {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "http"
}

// A Target says what a calling node asks of the called service's node: which port of the service, and which
// of its instances there.
type Target struct {
	Port     uint16 // the Service's port, not the process's
	UDP      bool   // it is a port of UDP; else of TCP, whatever is spoken there
	Instance string // the instance's identifier; empty: any instance on that node
	// Called is the service and port that are called, "namespace/name:port", where the instance's node speaks to its
	// process as a policy for these says; else empty. The service may be another than the lane's: a Service can lead to
	// instances of others.
	Called string
}

// A Request is the head of one exchange's request. A codec overwrites it whole; it is reused from one
// exchange of a connection to the next, so nobody but its owner writes to it or keeps it.
type Request struct {
	Kind      Kind
	Target    Target // filled by routing, carried by the transport
	Method    string // "GET"; case-sensitive (RFC 9110 §9.1)
	Scheme    string // "http" or "https"
	Authority string // host, with port where one was given (RFC 9110 §7.2)
	Path      string // path and query as they were sent: "/a?b=c"; "*" for OPTIONS; empty for CONNECT
	// Fields are the header fields of the message, without those of the connection (RFC 9110 §7.6.1) and
	// without those that framed it (Host, Content-Length, Transfer-Encoding, Expect: 100-continue).
	Fields Fields
	// BodyLength is 0 where there is no body, LengthUnknown, or the number of bytes that follow.
	BodyLength int64
	// Upgrade is the protocol that the client asks to switch to (RFC 9110 §7.8), usually "websocket";
	// empty where it asks for none.
	Upgrade string
	// ExpectContinue says that the client waits for a 100 before it sends the body (RFC 9110 §10.1.1).
	ExpectContinue bool
}

// Reset makes the request empty and keeps the memory of its fields.
func (r *Request) Reset() {
	fields := r.Fields[:0]
	*r = Request{Fields: fields}
}

// Host returns the authority without its port.
func (r *Request) Host() string { return hostOf(r.Authority) }

// Idempotent reports whether the method may be sent again when it is not known what became of the first
// attempt (RFC 9110 §9.2.2).
func (r *Request) Idempotent() bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// A Response is the head of a response: an informational one (Status below 200) or the final one.
type Response struct {
	Status int // 100 to 599
	// Fields are as in Request.
	Fields Fields
	// BodyLength is 0, LengthUnknown or the number of bytes that follow. For the response to a HEAD request,
	// and for a 304, it is the length that a body would have had, and no body follows (RFC 9110 §8.6);
	// LengthUnknown says there that no Content-Length was given.
	BodyLength int64
	// Upgrade is the protocol that a 101 switches to.
	Upgrade string
}

// Reset makes the response empty and keeps the memory of its fields.
func (r *Response) Reset() {
	fields := r.Fields[:0]
	*r = Response{Fields: fields}
}

// Informational reports whether more heads follow for the same request. A 101 is final: what follows it is
// another protocol.
func (r *Response) Informational() bool { return r.Status < 200 && r.Status != 101 }

// BodyForbidden reports whether a response of this status to this method has no body whatever its fields
// say (RFC 9112 §6.3).
func BodyForbidden(method string, status int) bool {
	return method == "HEAD" || status < 200 || status == 204 || status == 304
}

// A Body is read to io.EOF; after that, Trailers returns the trailer fields, often none. It is owned by one
// exchange and is not safe for concurrent use.
type Body interface {
	io.Reader
	Trailers() Fields
}

// An Outcome says how an exchange ended. It goes to the access log, to metrics and, where the proxy itself
// answered, to the caller in the field "sennit-reason".
type Outcome struct {
	Status int    // the status that the caller saw; 0 where it saw none
	Reason Reason // why the proxy answered or broke off; Completed where the service answered
}

// Reason names why the proxy itself, and not the service, ended an exchange. The words are part of the
// product's interface: operators search logs for them.
type Reason string

// The reasons.
const (
	Completed         Reason = ""                    // the service answered, or a filter of the rule
	NoService         Reason = "no-service"          // the called service is not known here
	NoRoute           Reason = "no-route"            // no rule matches
	NoBackend         Reason = "no-backend"          // a rule refers to nothing, or all its weights are 0
	NoInstance        Reason = "no-instance"         // the service has no usable instance
	ConnectFailed     Reason = "connect-failed"      // no lane to any chosen node
	PeerLost          Reason = "peer-lost"           // the lane or stream broke in the middle
	ServiceRefused    Reason = "service-refused"     // the instance's port does not answer on its own node, or the host outside does not
	NameUnresolved    Reason = "name-unresolved"     // the name of a host outside has no address
	AddressRefused    Reason = "address-refused"     // it has none that its ExternalService allows
	TLSFailed         Reason = "tls-failed"          // the host outside, or the process, did not show that it is the one
	ServiceBroke      Reason = "service-broke"       // the instance broke off or sent what is not HTTP
	Timeout           Reason = "timeout"             // the rule's timeout passed
	CallerGone        Reason = "caller-gone"         // the application closed before the end
	CallerNotAllowed  Reason = "caller-not-allowed"  // the local process may not use this listener
	Malformed         Reason = "malformed"           // the application sent what RFC 9112 forbids
	TooLarge          Reason = "too-large"           // a head over the limit
	Overloaded        Reason = "overloaded"          // a limit of this node, or of the process, was reached
	CircuitOpen       Reason = "circuit-open"        // a ResiliencePolicy allows no more to the service at a time
	Denied            Reason = "denied"              // an AuthorizationPolicy of the called service does not let the caller have this
	Unauthenticated   Reason = "unauthenticated"     // an AuthenticationPolicy asks for a proof of who the end user is, and there is none that is good
	QuotaExceeded     Reason = "quota-exceeded"      // a limit of a QuotaPolicy has nothing left
	FaultInjected     Reason = "fault-injected"      // a FaultPolicy has it so; the service was not asked
	QuotaUnavailable  Reason = "quota-unavailable"   // a limit applies, and no controller granted anything of it
	ShuttingDown      Reason = "shutting-down"       // this node is draining
	InstanceNotServed Reason = "instance-not-served" // the peer no longer runs the chosen instance
)
