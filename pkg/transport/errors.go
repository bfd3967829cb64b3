package transport

import (
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

var (
	// ErrNotSent says that the peer certainly did not begin to process the request: any request may be
	// sent again elsewhere.
	ErrNotSent = errors.New("request was not sent")
	// ErrBroken says that the stream or its lane broke after the request may have reached the peer: only
	// an idempotent request may be sent again.
	ErrBroken = errors.New("exchange broke off")
	// ErrMalformed says that the peer sent what docs/reference/wire.md forbids.
	ErrMalformed = errors.New("malformed frame")
	// ErrTooLarge says that a head is over the limits, in either direction.
	ErrTooLarge = errors.New("head over the limit")
	// ErrIdentity says that an end of a lane is not who it should be, or is not trusted.
	ErrIdentity = errors.New("identity refused")
	// ErrBusy is returned by Open where all streams that a lane may have are in use: that says nothing about the peer.
	ErrBusy = errors.New("all streams of the lane are in use")
	// ErrDraining is returned by Open once Drain has let go of the outgoing lanes.
	ErrDraining = errors.New("node is draining")
)

// A ResetError is what reading or writing returns when one side gave the exchange up. It wraps ErrNotSent
// where the peer refused the stream before it looked at the request, and ErrBroken otherwise.
type ResetError struct {
	Reason  exchange.Reason // Completed where no reason was given
	Remote  bool            // the peer gave up; otherwise this node did
	Process uint32          // the error code (RFC 9113 §7) with which the process at the peer's reset it, and Reason ServiceBroke; 0: none
	code    quic.StreamErrorCode
}

// remoteReset is what a code of the peer's says, or with remote false one of this node's.
func remoteReset(code quic.StreamErrorCode, remote bool) *ResetError {
	e := &ResetError{Reason: reasonOf(code), Remote: remote, code: code}
	if code > codeProcess && code <= codeProcess+maxProcess {
		e.Reason, e.Process = exchange.ServiceBroke, uint32(code-codeProcess)
	}
	return e
}

// Error names the side and the reason.
func (e *ResetError) Error() string {
	side := "by this node"
	if e.Remote {
		side = "by the peer"
	}
	if e.Reason == exchange.Completed {
		return fmt.Sprintf("stream reset %s (code %d)", side, e.code)
	}
	return fmt.Sprintf("stream reset %s: %s", side, e.Reason)
}

// Unwrap returns ErrNotSent or ErrBroken.
func (e *ResetError) Unwrap() error {
	if e.code == codeRefused && e.Remote {
		return ErrNotSent
	}
	return ErrBroken
}

// Codes of QUIC resets and of reset frames; docs/reference/wire.md lists them. They are never renumbered.
const (
	codeNone      quic.StreamErrorCode = 0
	codeRefused   quic.StreamErrorCode = 1 // the stream was not looked at
	codeMalformed quic.StreamErrorCode = 2 // a frame that the format forbids
	codeUnread    quic.StreamErrorCode = 3 // the rest of the request is not wanted; the response is whole
	codeReasons   quic.StreamErrorCode = 16
	codeProcess   quic.StreamErrorCode = 256 // plus the code with which a process reset a stream of HTTP/2
	maxProcess                         = 255
)

// reasons have the code 16 plus their index.
var reasons = [...]exchange.Reason{
	exchange.CallerGone, exchange.PeerLost, exchange.ServiceRefused, exchange.ServiceBroke, exchange.Timeout,
	exchange.Malformed, exchange.TooLarge, exchange.Overloaded, exchange.ShuttingDown,
	exchange.InstanceNotServed, exchange.NoService, exchange.NoRoute, exchange.NoBackend, exchange.NoInstance,
	exchange.ConnectFailed, exchange.CallerNotAllowed,
	exchange.NameUnresolved, exchange.AddressRefused, exchange.TLSFailed, exchange.Denied,
}

func codeOf(reason exchange.Reason) quic.StreamErrorCode {
	for i, r := range reasons {
		if r == reason {
			return codeReasons + quic.StreamErrorCode(i)
		}
	}
	return codeNone
}

func reasonOf(code quic.StreamErrorCode) exchange.Reason {
	if code >= codeReasons && code < codeReasons+quic.StreamErrorCode(len(reasons)) {
		return reasons[code-codeReasons]
	}
	if code == codeMalformed {
		return exchange.Malformed
	}
	return exchange.Completed
}

// Codes with which a connection is closed.
const (
	closeDone    quic.ApplicationErrorCode = 0 // idle, drained or replaced
	closeExpired quic.ApplicationErrorCode = 1 // a certificate ended
	closeRefused quic.ApplicationErrorCode = 2 // over a limit, draining, or no longer trusted
)
