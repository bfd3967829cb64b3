package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// gRPC's status codes that the proxy itself answers with.
const (
	gRPCCancelled         = 1
	gRPCUnknown           = 2
	gRPCDeadlineExceeded  = 4
	gRPCPermissionDenied  = 7
	gRPCResourceExhausted = 8
	gRPCUnimplemented     = 12
	gRPCInternal          = 13
	gRPCUnavailable       = 14
	gRPCUnauthenticated   = 16
)

// isGRPC reports whether a request is a call of gRPC (PROTOCOL-HTTP2, "Requests"). gRPC-Web is HTTP like any other.
func isGRPC(r *exchange.Request) bool {
	const prefix = "application/grpc"
	if r.Method != http.MethodPost {
		return false
	}
	kind, _ := r.Fields.Get("content-type")
	if len(kind) < len(prefix) || !strings.EqualFold(kind[:len(prefix)], prefix) {
		return false
	}
	return len(kind) == len(prefix) || kind[len(prefix)] == '+' || kind[len(prefix)] == ';'
}

// gRPCTimeout returns how long the caller waits for the whole call, as it states; 0 where it states nothing, or what is
// no timeout, which the service may judge.
func gRPCTimeout(r *exchange.Request) time.Duration {
	value, ok := r.Fields.Get("grpc-timeout")
	if !ok || len(value) < 2 || len(value) > 9 { // at most 8 digits and a unit
		return 0
	}
	last := len(value) - 1
	var unit time.Duration
	switch value[last] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0
	}
	n, err := strconv.ParseUint(value[:last], 10, 32)
	const longest = 365 * 24 * time.Hour // 99,999,999 hours are more than a Duration has
	if err != nil {
		return 0
	}
	if time.Duration(n) > longest/unit {
		return longest
	}
	return max(time.Duration(n)*unit, 1) // 0 is a deadline that has passed
}

// Error codes of HTTP/2 (RFC 9113 §7) of which more is known than that something went wrong.
const (
	codeStreamClosed       = 0x5
	codeRefusedStream      = 0x7
	codeCancel             = 0x8
	codeEnhanceYourCalm    = 0xb
	codeInadequateSecurity = 0xc
)

// gRPCOfReset is what a client of gRPC makes of a stream that is reset with an error code (PROTOCOL-HTTP2, "Errors"); 0
// where nothing reset it.
func gRPCOfReset(code uint32) int {
	switch code {
	case 0:
		return 0
	case codeStreamClosed:
		return gRPCUnknown
	case codeRefusedStream:
		return gRPCUnavailable
	case codeCancel:
		return gRPCCancelled
	case codeEnhanceYourCalm:
		return gRPCResourceExhausted
	case codeInadequateSecurity:
		return gRPCPermissionDenied
	}
	return gRPCInternal
}

// gRPCStatus are the fields that say by gRPC why the proxy itself ended a call. The code is known, or that of the status by which
// HTTP would say so (gRPC, "HTTP to gRPC Status Code Mapping"), except that a timeout is one.
func gRPCStatus(known, status int, reason exchange.Reason) exchange.Fields {
	code := gRPCUnknown
	if known != 0 {
		code, status = known, 0
	}
	switch status {
	case http.StatusBadRequest, http.StatusInternalServerError:
		code = gRPCInternal
	case http.StatusUnauthorized:
		code = gRPCUnauthenticated
	case http.StatusForbidden:
		code = gRPCPermissionDenied
	case http.StatusNotFound, http.StatusNotImplemented:
		code = gRPCUnimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		code = gRPCUnavailable
	case http.StatusGatewayTimeout:
		code = gRPCDeadlineExceeded
	}
	return exchange.Fields{
		{Name: "grpc-status", Value: strconv.Itoa(code)},
		{Name: "grpc-message", Value: "sennit: " + string(reason)},
	}
}
