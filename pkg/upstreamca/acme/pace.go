package acme

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

const (
	minPause = time.Second
	// maxPause is how long what failed for now waits before it is sent once more. An authority that asks for a longer pause
	// (RFC 8555 §6.6) gets it: the request fails, and the controller asks again in its own time.
	maxPause = 10 * time.Second
)

// paced bounds the pauses that an authority asks for in Retry-After. A date of a clock that is behind, or a number below 0, would have
// an order be asked about without a pause.
type paced struct {
	next http.RoundTripper
	now  func() time.Time
}

func (p paced) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if asked := response.Header.Get("Retry-After"); asked != "" {
		response.Header.Set("Retry-After", strconv.Itoa(int(pause(asked, p.now())/time.Second)))
	}
	return response, nil
}

// pause reads a Retry-After (RFC 9110 §10.2.3), in whole seconds: at least minPause, and no longer than any order takes.
func pause(asked string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.Atoi(asked); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(min(max(seconds, 0), int(orderTime/time.Second))) * time.Second
	} else if date, err := http.ParseTime(asked); err == nil {
		wait = date.Sub(now) + time.Second - 1 // dates are of whole seconds
	}
	return min(max(wait, minPause), orderTime).Truncate(time.Second)
}

// again is how long to wait before what failed for now is sent once more; 0: it is not.
func again(n int, _ *http.Request, response *http.Response) time.Duration {
	if n > maxRetries {
		return 0
	}
	wait := time.Duration(n) * time.Second
	if asked, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil { // as paced left it
		wait = time.Duration(asked) * time.Second
	}
	if wait > maxPause {
		return 0
	}
	return wait
}
