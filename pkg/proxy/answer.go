package proxy

import (
	"errors"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// statusOf is the status with which the proxy answers for a reason of its own.
func statusOf(reason exchange.Reason) int {
	switch reason {
	case exchange.NoRoute:
		return http.StatusNotFound
	case exchange.Unauthenticated:
		return http.StatusUnauthorized
	case exchange.Denied:
		return http.StatusForbidden
	case exchange.NoBackend:
		return http.StatusInternalServerError
	case exchange.PeerLost, exchange.ServiceBroke, exchange.AddressRefused, exchange.TLSFailed:
		return http.StatusBadGateway
	case exchange.Timeout, exchange.FaultInjected: // a fault that answers says with what
		return http.StatusGatewayTimeout
	case exchange.Malformed:
		return http.StatusBadRequest
	case exchange.QuotaExceeded:
		return http.StatusTooManyRequests
	case exchange.TooLarge:
		return http.StatusRequestHeaderFieldsTooLarge
	default:
		return http.StatusServiceUnavailable
	}
}

// A failure is why an attempt brought no response.
type failure struct {
	err    error
	reason exchange.Reason
	unsent bool // the service certainly did not process the request

	process uint32 // the code with which the process reset a stream of HTTP/2; 0: it did not

	granted bool // another attempt is paid for out of the budget
}

// errLocal wraps what went wrong at the local end of an exchange, the application's or the process's.
var errLocal = errors.New("local connection")

// elsewhere reports whether another instance may do better.
func (f failure) elsewhere() bool {
	switch f.reason {
	case exchange.Timeout, exchange.CallerGone, exchange.Malformed, exchange.TooLarge, exchange.CircuitOpen, exchange.FaultInjected, exchange.Denied:
		return false
	}
	return true
}

// failed tells what an error of the lane means for the request.
func failed(err error) failure {
	if errors.Is(err, errLocal) {
		return failure{err: err, reason: exchange.CallerGone}
	}
	f := failure{err: err, reason: exchange.PeerLost, unsent: errors.Is(err, transport.ErrNotSent)}
	switch {
	case errors.Is(err, transport.ErrBusy):
		f.reason = exchange.Overloaded
	case f.unsent:
		f.reason = exchange.ConnectFailed
	}
	if errors.Is(err, transport.ErrTooLarge) {
		f.reason = exchange.TooLarge
	}
	var reset *transport.ResetError
	if errors.As(err, &reset) && reset.Reason != exchange.Completed {
		f.reason, f.process = reset.Reason, reset.Process
		if f.process == codeRefusedStream { // the process looked at nothing of it (RFC 9113 §8.7)
			f.unsent = f.unsent || reset.Remote
		}
		switch reset.Reason {
		case exchange.ServiceRefused, exchange.InstanceNotServed, exchange.ShuttingDown,
			exchange.NameUnresolved, exchange.AddressRefused, exchange.TLSFailed:
			// The peer resets with these before it has given anything to the process.
			f.unsent = f.unsent || reset.Remote
		}
	}
	return f
}

// unreachable reports whether the failure says something about the instance, and not about this request.
func (f failure) unreachable() bool {
	switch f.reason {
	case exchange.ConnectFailed, exchange.PeerLost, exchange.ServiceRefused, exchange.InstanceNotServed, exchange.ShuttingDown,
		exchange.NameUnresolved, exchange.AddressRefused, exchange.TLSFailed:
		return true
	}
	return false
}
