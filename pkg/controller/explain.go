package controller

import (
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A compilation is the newest state that was compiled. Nobody changes it.
type compilation struct {
	in        compile.Input
	out       compile.Output
	resources uint64 // sequence of the log of documents
}

// explain answers what nodes do with a request, by the code that they do it with, from what was compiled last.
func (c *Controller) explain(w http.ResponseWriter, r *http.Request) {
	var q routing.Question
	last, done, ok := c.question(w, r, &q, "explain", &q.To)
	if !ok {
		return
	}
	defer done()
	sees := c.api.Scope(r, ofService("explain", "", ""))
	sees.Namespaces = append(sees.Namespaces, q.To.Namespace) // though it may be of this service alone
	if ns := q.From.Namespace; ns != q.To.Namespace && !sees.Has(ns) && last.out.Bodies[snapshot.OutSubject(q.To.Namespace, q.To.Name, ns)] != nil {
		// Callers of that namespace have rules of its own.
		_, done, ok := c.permit(w, r, ofService("explain", ns, q.From.Name))
		if !ok {
			return
		}
		done()
	}
	table, err := tableFor(&q, last.out.Bodies)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	e := table.Explain(&q, time.Now())
	admission, err := c.admission(&q, e, last.out.Bodies)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	e.Policies = append(e.Policies, admission...)
	hide(e, sees)
	socket.WriteJSON(w, e)
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
