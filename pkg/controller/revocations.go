package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// revocationReports adds the paths of revocations and certificates.
func (c *Controller) revocationReports(handle func(pattern string, h http.HandlerFunc)) {
	handle("GET "+report.PathRevocations, c.revocations)
	handle("POST "+report.PathRevocations, c.revoke)
	handle("POST "+report.PathUndo, c.undoRevocation)
	handle("GET "+report.PathCertificates, c.certificates)
}

// addRevocations adds what nodes are told is revoked. Where nothing ever was there is no such subject.
func (c *Controller) addRevocations(bodies map[string]bus.Body) error {
	all := c.members.revocations(c.cfg.Now())
	if len(all) == 0 {
		return nil
	}
	return encode(bodies, map[string]proto.Message{snapshot.RevokedSubject: ca.Published(all)})
}

func (c *Controller) revocations(w http.ResponseWriter, r *http.Request) {
	all, err := c.registrar.Revocations(r.Context())
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	shown := make([]report.Revocation, 0, len(all))
	for _, one := range all {
		s := report.Revocation{Serial: one.Serial, Identity: one.Identity, Node: one.Node, Ends: one.Ends.UTC(), Why: one.Why}
		if one.Serial == "" {
			s.Issued = one.Issued.UTC()
		}
		shown = append(shown, s)
	}
	socket.WriteJSON(w, shown)
}

// errRevoke is returned for a request to revoke that names nothing that can be.
var errRevoke = errors.New("name a certificate by its serial, or a service and perhaps a node, or a node")

func (c *Controller) revoke(w http.ResponseWriter, r *http.Request) {
	var body report.Revoke
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body)
	if err == nil && (body.Serial != "") == (body.Service != "" || body.Node != "") {
		err = errRevoke
	}
	var service exchange.ServiceName
	if err == nil && body.Service != "" {
		service, err = exchange.ParseServiceName(body.Service)
	}
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	event := &audit.Event{Verb: "revoke", Detail: body.Why}
	var done report.Revoked
	var do func() error
	switch {
	case body.Serial != "":
		event.Resource, event.Name = "certificates", body.Serial
		do = func() error {
			of, err := c.registrar.RevokeCertificate(r.Context(), body.Serial, body.Why)
			done.Holder, done.Node, done.Restarts = of.SPIFFEID, of.Node, of.Node == ""
			return err
		}
	case body.Service != "":
		event.Resource, event.Namespace, event.Name = "services", service.Namespace, service.Name
		if body.Node != "" {
			event.Detail = strings.TrimSpace("on node " + body.Node + " " + body.Why)
		}
		do = func() error { return c.revokeService(r.Context(), service, body.Node, body.Why, &done) }
	default:
		event.Resource, event.Name = api.Nodes.GroupResource().String(), body.Node
		do = func() error { return c.registrar.RevokeNode(r.Context(), body.Node, body.Why) }
	}
	if err = c.ended(); err == nil {
		err = c.recorder.act(r, event, do)
	}
	switch {
	case errors.Is(err, errSuperseded):
		socket.WriteFailure(w, http.StatusServiceUnavailable, err)
	case errors.Is(err, ca.ErrUnknownNode), errors.Is(err, ca.ErrUnknownCertificate):
		socket.WriteFailure(w, http.StatusNotFound, err)
	case err != nil:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		socket.WriteJSON(w, done)
	}
}

// revokeService takes a service away from one node or all, and from hosts that have a join token for it, and then ends
// what its certificates say.
func (c *Controller) revokeService(ctx context.Context, service exchange.ServiceName, node, why string, done *report.Revoked) error {
	tokens, _, err := c.members.tokens(ctx) // all that was stored before is known then
	if err != nil {
		return err
	}
	nodes, take := []string{node}, c.registrar.Deny
	if node == "" {
		nodes, take = nil, c.registrar.Suspend
		for name, m := range c.members.list() {
			if allowedTo(m.Services, service) {
				nodes = append(nodes, name)
			}
		}
		slices.Sort(nodes)
	}
	for _, token := range tokens {
		if allowedTo(token.Services, service) && (token.Used.IsZero() || token.Attest != nil) && (node == "" || token.Node == node) {
			if err := c.registrar.RevokeToken(ctx, token.ID); err != nil {
				return err
			}
			done.Tokens = append(done.Tokens, token.ID)
		}
	}
	for _, name := range nodes {
		if err := take(ctx, name, service); err != nil {
			return fmt.Errorf("take %s away from node %s: %w", service, name, err)
		}
	}
	done.Nodes = nodes
	return c.registrar.RevokeService(ctx, service, node, why)
}

// errNotSuspended is returned for a service of which there is nothing to undo.
var errNotSuspended = errors.New("no node has lost it by being revoked everywhere")

// undoRevocation lets the nodes run a service again that it was taken away from by revoking it everywhere. What was issued
// before stays revoked.
func (c *Controller) undoRevocation(w http.ResponseWriter, r *http.Request) {
	var body report.Undo
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body)
	var service exchange.ServiceName
	if err == nil {
		service, err = exchange.ParseServiceName(body.Service)
	}
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	event := &audit.Event{Verb: "undo", Resource: "services", Namespace: service.Namespace, Name: service.Name, Detail: body.Why}
	var nodes []string
	if err = c.ended(); err == nil {
		err = c.recorder.act(r, event, func() (err error) {
			nodes, err = c.resumeService(r.Context(), service)
			event.Detail = strings.TrimSpace("on " + strings.Join(nodes, ", ") + " " + body.Why)
			return err
		})
	}
	switch {
	case errors.Is(err, errSuperseded):
		socket.WriteFailure(w, http.StatusServiceUnavailable, err)
	case errors.Is(err, errNotSuspended):
		socket.WriteFailure(w, http.StatusNotFound, err)
	case err != nil:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		socket.WriteJSON(w, report.Undone{Nodes: nodes})
	}
}

// resumeService gives a service back to the nodes where it is suspended, and returns which they are. Where it cannot be given
// to one, the others have it.
func (c *Controller) resumeService(ctx context.Context, service exchange.ServiceName) (nodes []string, err error) {
	if _, _, err := c.members.tokens(ctx); err != nil { // all that was stored before is known then
		return nil, err
	}
	for name, m := range c.members.list() {
		if allowedTo(m.Suspended, service) {
			nodes = append(nodes, name)
		}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("undo that %s was revoked: %w; `sennit node allow NODE %s` lets one run it", service, errNotSuspended, service)
	}
	slices.Sort(nodes)
	for _, name := range nodes {
		if failed := c.registrar.Resume(ctx, name, service); failed != nil {
			err = errors.Join(err, fmt.Errorf("give %s back to node %s: %w", service, name, failed))
		}
	}
	return nodes, err
}

// certificates answers who holds what.
func (c *Controller) certificates(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	node, service, serial, state := query.Get("node"), query.Get("service"), strings.ToLower(query.Get("serial")), query.Get("state")
	all, err := c.registrar.Certificates(r.Context(), func(one ca.Issued) bool {
		return (node == "" || one.Node == node) && (serial == "" || one.Serial == serial) && (service == "" || serviceOf(one.SPIFFEID) == service)
	})
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	shown := make([]report.HeldCertificate, 0, len(all))
	for _, one := range all {
		if state == "" || one.State == state {
			shown = append(shown, report.HeldCertificate{
				Node: one.Node, Service: serviceOf(one.SPIFFEID), SPIFFEID: one.SPIFFEID, Serial: one.Serial,
				NotBefore: one.NotBefore.UTC(), NotAfter: one.NotAfter.UTC(), Issuer: one.Issuer, State: one.State,
			})
		}
	}
	socket.WriteJSON(w, shown)
}

// serviceOf is the service that a SPIFFE ID names, "namespace/name"; empty where it names none.
func serviceOf(id string) string {
	_, path, _ := strings.Cut(id, "/ns/")
	namespace, name, ok := strings.Cut(path, "/svc/")
	if !ok {
		return ""
	}
	return namespace + "/" + name
}

// endedUsersSecret is where the authority keeps the users of the bus that are ended, for the server's next start: it
// listens before the registry can be read.
const endedUsersSecret = "ended-bus-users"

func (c *Controller) endedUsers() ([]string, error) {
	kept, err := c.authority.Secret(endedUsersSecret)
	return strings.Fields(string(kept)), err
}

// endUsers has the bus let in nobody who was revoked, until ctx ends.
func (c *Controller) endUsers(ctx context.Context) error {
	known, err := c.endedUsers()
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.members.endedChanged:
		}
		now := c.members.endedUsers()
		if slices.Equal(now, known) {
			continue
		}
		if err := c.server.End(ctx, now); err != nil {
			return nil // ctx has ended
		}
		known = now
		if err := c.authority.PutSecret(endedUsersSecret, []byte(strings.Join(now, "\n"))); err != nil {
			c.log.Error("who was revoked is let in by the bus for a moment when this controller starts again", "err", err)
		}
	}
}

// known refuses what a node asks that was removed or revoked, and whose user of the bus has not ended yet. Joining and
// renewing have refusals of their own, which the node can believe.
func (c *Controller) known(verb string, handler bus.Handler) bus.Handler {
	if verb == bus.VerbJoin || verb == bus.VerbRenew {
		return handler
	}
	return func(ctx context.Context, node string, request []byte) ([]byte, error) {
		if c.members.wasRemoved(node) {
			return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_DENIED, Message: ca.ErrRemoved.Error()}
		}
		return handler(ctx, node, request)
	}
}
