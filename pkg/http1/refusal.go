package http1

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// WriteError answers the current request, or what could not be read as one, by the proxy itself: status, the field
// sennit-reason, and a line that says both. It says Connection: close where the connection cannot go on. It fails
// with ErrSequence where a response was begun: the connection can only be closed then. more are further fields; without
// a reason they are all that there is, as of a redirect.
func (c *ServerConn) WriteError(status int, reason exchange.Reason, more ...exchange.Field) error {
	if c.readErr != nil || c.body.err != nil || !c.body.done {
		c.last = true
	}
	response := &exchange.Response{Status: status, Fields: more}
	var text bytes.Buffer
	if reason != exchange.Completed {
		fmt.Fprintf(&text, "sennit: %d %s: %s\n", status, http.StatusText(status), reason)
		response.Fields = append(exchange.Fields{
			{Name: "sennit-reason", Value: string(reason)},
			{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
		}, more...)
		response.BodyLength = int64(text.Len())
	}
	err := c.WriteResponse(response)
	if err != nil {
		return err
	}
	if c.out.framing == byLength {
		if _, err := c.Write(text.Bytes()); err != nil {
			return err
		}
	}
	return c.Finish()
}

// ErrorStatus returns the status that answers an error of ReadRequest or of the body: 400, 431, 413 or 408, and 0
// for errors after which nobody reads an answer.
func (c *ServerConn) ErrorStatus(err error) int {
	switch {
	case errors.Is(err, ErrMalformed):
		return 400
	case errors.Is(err, ErrTooLarge) && c.readErr != nil:
		return 431
	case errors.Is(err, ErrTooLarge):
		return 413
	case isTimeout(err):
		return 408
	}
	return 0
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
