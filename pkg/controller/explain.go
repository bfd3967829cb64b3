package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A compilation is the newest state that was compiled. Nobody changes it.
type compilation struct {
	in  compile.Input
	out compile.Output
}

// explain answers what nodes do with a request, by the code that they do it with, from what was compiled last.
func (c *Controller) explain(w http.ResponseWriter, r *http.Request) {
	var q routing.Question
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, report.MaxQuestion)).Decode(&q); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("read the question: %w", err))
		return
	}
	last := c.last.Load()
	if last == nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, errors.New("nothing is compiled yet; ask again in a moment"))
		return
	}
	table, err := tableFor(&q, last.out.Bodies)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	socket.WriteJSON(w, table.Explain(&q, time.Now()))
}

// tableFor is the table of a node that follows what a question is about.
func tableFor(q *routing.Question, bodies map[string]proto.Message) (*routing.Table, error) {
	table := routing.New()
	apply := func(subject string) error {
		_, err := table.Apply(subject, snapshot.Version{Revision: 1}, bodies[subject]) // nil: there is none
		return err
	}
	subjects := []string{snapshot.InSubject(q.To.Namespace, q.To.Name)}
	if !q.Gateway {
		subjects = []string{snapshot.OutSubject(q.To.Namespace, q.To.Name, "")}
		if q.From.Namespace != q.To.Namespace {
			subjects = append(subjects, snapshot.OutSubject(q.To.Namespace, q.To.Name, q.From.Namespace))
		}
		if bodies[subjects[0]] == nil {
			return table, nil // as on a node that heard of no such service
		}
	}
	for _, subject := range subjects {
		if err := apply(subject); err != nil {
			return nil, err
		}
	}
	for _, subject := range table.Needs() {
		if err := apply(subject); err != nil {
			return nil, err
		}
	}
	return table, nil
}
