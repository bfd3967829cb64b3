package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A health is what the checks of one instance have shown so far.
type health struct {
	known  bool // there was a result
	well   bool
	streak int    // results in a row that say otherwise
	detail string // why it is unwell
}

// observe takes one result in and reports whether the health changed by it. The first result counts at
// once: before it nothing is known that would have to be outweighed.
func (h *health) observe(c *Check, err error) bool {
	well := err == nil
	if h.known && well == h.well {
		h.streak = 0
		return false
	}
	needed := c.Healthy
	if h.well {
		needed = c.Unhealthy
	}
	if h.streak++; h.known && h.streak < needed {
		return false
	}
	*h = health{known: true, well: well}
	if err != nil {
		h.detail = err.Error()
		h.detail = strings.ToValidUTF8(h.detail[:min(len(h.detail), 200)], "") // what is not cannot be registered
	}
	return true
}

// watchHealth asks the instance again and again, until ctx ends, and hands each result to observe. The
// waits are spread by a tenth, so that the checks of a host do not fall on one moment.
func watchHealth(ctx context.Context, c *Check, probe func(context.Context, *Check) error, observe func(error)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		attempt, cancel := context.WithTimeout(ctx, c.Timeout)
		err := probe(attempt, c)
		cancel()
		if ctx.Err() != nil {
			return
		}
		observe(err)
		timer.Reset(c.Interval*9/10 + rand.N(c.Interval/5))
	}
}

// checking is the client of all checks. It keeps no connections: a check that goes over an old one does not
// notice that the process takes no new ones.
var checking = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// probe asks once. The error says in a few words what was asked and what came.
func probe(ctx context.Context, c *Check) error {
	if c.Kind == CheckTCP {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.Address.String())
		if err != nil {
			return err
		}
		return conn.Close()
	}
	target := "http://" + c.Address.String() + c.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "sennit-health/1")
	response, err := checking.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("GET %s: no answer within %s", target, c.Timeout)
		}
		return fmt.Errorf("GET %s: %w", target, err)
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("GET %s: %s", target, response.Status)
	}
	return nil
}
