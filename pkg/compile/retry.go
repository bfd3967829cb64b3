package compile

import (
	"fmt"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

const (
	// maxRetries and maxBackoff bound for how long one exchange can occupy its caller's connection.
	maxRetries = 10
	maxBackoff = 10 * time.Second
	// defaultBackoff is used where a route names none.
	defaultBackoff = 25 * time.Millisecond
)

// unsupportedRetry names what of a retry (GEP-1731) cannot be executed.
func unsupportedRetry(r *gatewayv1.HTTPRouteRetry) string {
	if r == nil {
		return ""
	}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			return fmt.Sprintf(".codes[%d]: must be 400 to 599, is %d", i, code)
		}
	}
	if r.Attempts != nil && (*r.Attempts < 1 || *r.Attempts > maxRetries) {
		return fmt.Sprintf(".attempts: must be 1 to %d, is %d", maxRetries, *r.Attempts)
	}
	backoff, err := duration(r.Backoff)
	if err != nil {
		return ".backoff: " + err.Error()
	}
	if backoff > maxBackoff {
		return fmt.Sprintf(".backoff: must be at most %s, is %s", maxBackoff, *r.Backoff)
	}
	return ""
}

// compileRetry reads a retry that was not refused.
func compileRetry(r *gatewayv1.HTTPRouteRetry) *snapshot.Retry {
	if r == nil {
		return nil
	}
	compiled := &snapshot.Retry{Attempts: 1, BackoffMs: uint64(defaultBackoff.Milliseconds())}
	if r.Attempts != nil {
		compiled.Attempts = uint32(min(max(*r.Attempts, 0), maxRetries))
	}
	if r.Backoff != nil {
		backoff, _ := duration(r.Backoff)
		compiled.BackoffMs = uint64(backoff.Milliseconds())
	}
	for _, code := range r.Codes {
		compiled.Codes = append(compiled.Codes, uint32(code))
	}
	return compiled
}
