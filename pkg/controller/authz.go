package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// checkAccess answers who may call what, by the code that nodes decide with, from what was compiled last.
func (c *Controller) checkAccess(w http.ResponseWriter, r *http.Request) {
	var q authz.Question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, report.MaxQuestion)).Decode(&q); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("read the question: %w", err))
		return
	}
	last := c.last.Load()
	if last == nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, errors.New("nothing is compiled yet; ask again in a moment"))
		return
	}
	in, found := last.out.Bodies[snapshot.InSubject(q.To.Namespace, q.To.Name)].(*snapshot.Inbound)
	if !found {
		socket.WriteFailure(w, http.StatusNotFound, fmt.Errorf("there is no service %s (see: sennit get services -A)", q.To))
		return
	}
	answer, err := authz.Check(&q, in.Authorization)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	socket.WriteJSON(w, answer)
}
