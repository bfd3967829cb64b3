package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// An Event is one change that a watch saw.
type Event struct {
	Type   watch.EventType
	Object json.RawMessage // the document, or a Table of one row
}

// Watch calls fn for each change behind the resourceVersion from, in order; where that is empty, first for all that
// there is. It returns nil when the server ends the watch, which it does after half an hour or more: watch again
// from the last version seen. fn's error ends it too.
func (c *Client) Watch(ctx context.Context, t Target, from string, asTable bool, fn func(Event) error) error {
	q := t.query()
	q.Set("watch", "1")
	if from != "" {
		q.Set("resourceVersion", from)
	}
	if t.Name != "" {
		q.Set("fieldSelector", "metadata.name="+t.Name)
	}
	r := request{method: http.MethodGet, path: t.path(false), query: q}
	if asTable {
		r.accept = tableType
	}
	res, err := c.conn.do(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	in := json.NewDecoder(res.Body)
	for {
		var e Event
		err := in.Decode(&e)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the watch at %s broke off: %w (start it again)", c.conn.where, err)
		case e.Type == watch.Error:
			var st metav1.Status
			if err := json.Unmarshal(e.Object, &st); err != nil {
				return fmt.Errorf("the watch at %s failed, and does not say why: %w", c.conn.where, err)
			}
			return &apierrors.StatusError{ErrStatus: st}
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}
