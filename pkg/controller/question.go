package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// question reads what is asked into q, and returns what was compiled last where the asker may do that verb to the service
// that the question is about; done is called when it is answered. False: it is, with what was wrong.
func (c *Controller) question(w http.ResponseWriter, r *http.Request, q any, verb string, about *exchange.ServiceName) (last *compilation, done func(), ok bool) {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, report.MaxQuestion)).Decode(q); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("read the question: %w", err))
		return nil, nil, false
	}
	_, done, ok = c.permit(w, r, ofService(verb, about.Namespace, about.Name))
	if !ok {
		return nil, nil, false
	}
	if last, ok = c.newest(w, r); !ok {
		done()
		return nil, nil, false
	}
	return last, done, true
}

// newestWithin bounds how long a question waits for the documents that were stored before it. It is milliseconds, but on a
// host that is overloaded; then what was compiled last answers.
const newestWithin = 10 * time.Second

// newest is what was compiled last, with all documents that were stored when it was asked for: whoever has applied one
// and then asks is told of it. False: the request is answered, since nothing is compiled yet.
func (c *Controller) newest(w http.ResponseWriter, r *http.Request) (last *compilation, ok bool) {
	ctx, cancel := context.WithTimeout(r.Context(), newestWithin)
	defer cancel()
	stored, _ := c.conn.Records(bus.StreamResource).Last(ctx) // 0 where the bus is away
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for last = c.last.Load(); last == nil || last.resources < stored; last = c.last.Load() {
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	if last == nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, errors.New("nothing is compiled yet; ask again in a moment"))
	}
	return last, last != nil
}
