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
// with ErrSequence where a response was begun: the connection can only be closed then. more are further fields.
func (c *ServerConn) WriteError(status int, reason exchange.Reason, more ...exchange.Field) error {
	c.lastUnlessRead()
	var text bytes.Buffer
	fmt.Fprintf(&text, "sennit: %d %s: %s\n", status, http.StatusText(status), reason)
	err := c.WriteResponse(&exchange.Response{
		Status: status,
		Fields: append(exchange.Fields{
			{Name: "sennit-reason", Value: string(reason)},
			{Name: "Content-Type", Value: "text/plain; charset=utf-8"},
		}, more...),
		BodyLength: int64(text.Len()),
	})
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

// WriteAnswer answers the current request with an empty body, as a redirect does. It says Connection: close and fails
// as WriteError does.
func (c *ServerConn) WriteAnswer(status int, fields exchange.Fields) error {
	c.lastUnlessRead()
	if err := c.WriteResponse(&exchange.Response{Status: status, Fields: fields}); err != nil {
		return err
	}
	return c.Finish()
}

// lastUnlessRead makes the current exchange the last where the next request cannot be found.
func (c *ServerConn) lastUnlessRead() {
	if c.readErr != nil || c.body.err != nil || !c.body.done {
		c.last = true
	}
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
