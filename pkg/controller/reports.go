package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// withReports adds what is not of Kubernetes' shapes to the API's handler.
func (c *Controller) withReports(rest http.Handler, guard func(http.Handler) http.Handler) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, guard(h)) }
	handle("GET "+report.PathWait, c.wait)
	handle("GET "+report.PathStatus, func(w http.ResponseWriter, r *http.Request) {
		status := c.Status()
		if gateways, err := c.gatewayReports(r.Context()); err != nil {
			status.Warnings = append(status.Warnings, "gateways are not shown: "+err.Error())
		} else {
			status.Gateways = gateways
		}
		socket.WriteJSON(w, status)
	})
	handle("GET "+report.PathEdges, c.edges)
	handle("GET "+report.PathTap, c.tap)
	handle("GET "+report.PathQuota, c.quotaUsage)
	handle("POST "+report.PathExplain, c.explain)
	handle("POST "+report.PathAuthzCheck, c.checkAccess)
	handle("POST "+report.PathAnalyze, c.analyze)
	handle("POST "+report.PathNodes+"{name}/allow", c.allow)
	handle("POST "+report.PathNodes+"{name}/accept", c.accept)
	handle("POST "+report.PathNodes+"{name}/remove", c.remove)
	handle("GET "+report.PathKubeconfig, c.kubeconfig)
	handle("GET "+report.PathBackup, c.backup)
	c.auditReports(handle)
	mux.Handle("/", rest)
	return mux
}

// edges answers who calls whom.
func (c *Controller) edges(w http.ResponseWriter, r *http.Request) {
	folds := map[string]telemetry.Fold{"": telemetry.ByVersion, report.ByVersion: telemetry.ByVersion, report.ByService: telemetry.ByService, report.ByNode: nil}
	fold, known := folds[r.URL.Query().Get("by")]
	if !known {
		socket.WriteFailure(w, http.StatusBadRequest, errors.New("want by=service, by=version or by=node"))
		return
	}
	socket.WriteJSON(w, c.graph.Edges(time.Now(), fold))
}

// waitStep is how often the progress of a change is looked at and told, where it has changed.
const waitStep = 100 * time.Millisecond

// wait streams how far a change has come, until every node that uses it has applied it or the time is over.
func (c *Controller) wait(w http.ResponseWriter, r *http.Request) {
	version, err := strconv.ParseUint(r.URL.Query().Get("resourceVersion"), 10, 64)
	sequence, _ := apiserver.Sequence(c.authority.Epoch(), version) // of before a restore: nothing to wait for
	timeout, terr := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err := errors.Join(err, terr); err != nil || timeout <= 0 || timeout > time.Hour {
		socket.WriteFailure(w, http.StatusBadRequest, errors.New("want resourceVersion=NUMBER and timeout=DURATION of at most 1h"))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	var told report.Progress
	tell := func(now report.Progress) (more bool) {
		told = now
		return out.Encode(now) == nil && http.NewResponseController(w).Flush() == nil && !now.Done
	}
	if !c.awaitUnheard(ctx, tell) {
		return
	}
	first, gone := true, false
	err = c.publisher.Applied().Watch(ctx, sequence, func(pending []bus.Pending, published bool) bool {
		now := c.progress(pending, published)
		if first || now.Done || !slices.Equal(now.Waiting, told.Waiting) {
			if first = false; !tell(now) {
				gone = !now.Done
				return false
			}
		} else {
			told = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(waitStep):
		}
		return true
	})
	if err != nil && !gone {
		tell(told) // the last line says that it is not done, and who is missing
	}
}

// settling is how long after its start a controller waits for nodes that joined before and have not told it yet
// what they use: until then, nobody could be named who has not applied a change. A node that was cut off
// connects again within a few seconds.
const settling = 10 * time.Second

// awaitUnheard returns when every node has been heard of, or need not be waited for; false: the caller was told
// that this takes too long, or is gone.
func (c *Controller) awaitUnheard(ctx context.Context, tell func(report.Progress) bool) bool {
	var told []string
	for {
		unheard, known := c.unheard(time.Now())
		if known && len(unheard) == 0 {
			return true
		}
		if ctx.Err() != nil || !slices.Equal(unheard, told) {
			told = unheard
			standings := len(c.publisher.Applied().Standings())
			if !tell(report.Progress{Interested: standings + len(unheard), Applied: standings, Waiting: unheard}) || ctx.Err() != nil {
				return false
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(waitStep):
		}
	}
}

// unheard names the nodes that a controller which has just started has not heard of; known is false as long as it
// has not read which nodes there are.
func (c *Controller) unheard(now time.Time) (unheard []string, known bool) {
	if c.members.nodes.Load() == nil {
		return nil, false
	}
	if now.Sub(c.started) >= settling {
		return nil, true
	}
	_, lost, _ := c.catalogue.View()
	standings := c.publisher.Applied().Standings()
	for node := range c.members.list() {
		if _, heard := standings[node]; !heard && !lost[node] {
			unheard = append(unheard, node)
		}
	}
	slices.Sort(unheard)
	return unheard, true
}

// progress says who of those that are waited for is missing.
func (c *Controller) progress(pending []bus.Pending, published bool) report.Progress {
	now := report.Progress{Interested: len(c.publisher.Applied().Standings())}
	for _, p := range pending { // ordered by node
		if n := len(now.Waiting); n == 0 || now.Waiting[n-1] != p.Node {
			now.Waiting = append(now.Waiting, p.Node)
		}
	}
	now.Applied = max(now.Interested-len(now.Waiting), 0)
	now.Done = published && len(now.Waiting) == 0
	return now
}

// Status says what this controller knows of the cluster.
func (c *Controller) Status() report.Cluster {
	s := report.Cluster{
		Cluster: c.cfg.Cluster, TrustDomain: c.cfg.TrustDomain, Version: release.Version(), Controller: c.cfg.Name,
		Nodes: []report.Member{}, Gateways: []report.Gateways{}, Warnings: []string{},
	}
	applied := c.publisher.Applied()
	newest := applied.Newest()
	s.Revision, s.Epoch = newest.Revision, c.authority.Epoch()
	for _, p := range applied.Pending() {
		if p.Problem != "" {
			s.Warnings = append(s.Warnings, p.Node+": "+p.Subject+": "+p.Problem)
		}
	}
	switch err := c.ended(); {
	case err != nil:
		s.Warnings = append(s.Warnings, err.Error())
	case c.gathering.Load():
		s.Warnings = append(s.Warnings, "this controller was restored, and waits for what nodes show before it publishes, at most "+gatherMost.String())
	case !c.publisher.Leading():
		s.Warnings = append(s.Warnings, "this controller does not lead; changes are published by the one that does")
	}
	standings := applied.Standings()
	living, instances, versions := c.liveness(), c.running(), c.versions()
	for name, m := range c.members.list() {
		member := report.Member{Name: name, Address: cmp.Or(instances[name].address, m.Address), Services: []string{}, Behind: standings[name].Behind, Applied: standings[name].Applied.Revision, Version: versions[name]}
		member.State, member.Since = living(name)
		for _, service := range m.Services {
			member.Services = append(member.Services, service.String())
		}
		if m.State == "frozen" {
			s.Warnings = append(s.Warnings, name+" is frozen: "+m.Why+" (end it with `sennit node accept "+name+"`)")
		}
		s.Nodes = append(s.Nodes, member)
	}
	slices.SortFunc(s.Nodes, func(a, b report.Member) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// running is what the instances of a node say of it.
type running struct {
	instances int64
	address   string // that other nodes dial; newer than what the node said when its certificates were issued
}

func (c *Controller) running() map[string]running {
	nodes := map[string]running{}
	instances, _, _ := c.instances()
	for _, in := range instances {
		nodes[in.GetNode()] = running{nodes[in.GetNode()].instances + 1, in.GetLaneAddress()}
	}
	return nodes
}

// versions are those of the nodes' programs, by node, of those that this controller has heard.
func (c *Controller) versions() map[string]string {
	versions := map[string]string{}
	for _, n := range c.catalogue.Nodes() {
		versions[n.Node] = n.Version
	}
	return versions
}

// liveness returns what tells of a node by name.
func (c *Controller) liveness() func(node string) (string, time.Time) {
	known := map[string]struct {
		state string
		since time.Time
	}{}
	for _, n := range c.catalogue.Nodes() {
		one := known[n.Node]
		switch {
		case n.Lost:
			one.state, one.since = report.Lost, n.Since
		case !n.Heard.IsZero():
			one.state, one.since = report.Alive, n.Heard
		default:
			one.state = report.Unknown
		}
		known[n.Node] = one
	}
	return func(node string) (string, time.Time) {
		if one, ok := known[node]; ok {
			return one.state, one.since
		}
		return report.Unknown, time.Time{}
	}
}

func (c *Controller) allow(w http.ResponseWriter, r *http.Request) {
	var body report.Allow
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	service, err := exchange.ParseServiceName(body.Service)
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	c.actOnNode(w, r, "allow", service.String(), func(ctx context.Context, node string) error { return c.registrar.Allow(ctx, node, service) })
}

func (c *Controller) accept(w http.ResponseWriter, r *http.Request) {
	var body report.Accept
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	c.actOnNode(w, r, "accept", body.Key, func(ctx context.Context, node string) error { return c.registrar.Accept(ctx, node, body.Key) })
}

func (c *Controller) remove(w http.ResponseWriter, r *http.Request) {
	c.actOnNode(w, r, "remove", "", c.registrar.Remove)
}

// actOnNode does something to a node, and records it.
func (c *Controller) actOnNode(w http.ResponseWriter, r *http.Request, verb, detail string, do func(ctx context.Context, node string) error) {
	node := r.PathValue("name")
	event := &audit.Event{Verb: verb, Resource: api.Nodes.GroupResource().String(), Name: node, Detail: detail}
	err := c.ended()
	if err == nil {
		err = c.recorder.act(r, event, func() error { return do(r.Context(), node) })
	}
	switch {
	case errors.Is(err, errSuperseded):
		socket.WriteFailure(w, http.StatusServiceUnavailable, err)
	case errors.Is(err, ca.ErrUnknownNode):
		socket.WriteFailure(w, http.StatusNotFound, err)
	case err != nil:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		socket.WriteJSON(w, struct{}{})
	}
}

// kubeconfig makes a new token and all that is needed to use it. It is for the socket alone: a token must not
// make others.
func (c *Controller) kubeconfig(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		socket.WriteFailure(w, http.StatusForbidden, errors.New("kubeconfigs are made on the controller's host, over its unix socket"))
		return
	}
	address := c.apiAddress.Load()
	if address == nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, errors.New("this controller has no API over TLS (start it with --api ADDRESS:PORT)"))
		return
	}
	var token string
	event := &audit.Event{Kind: audit.Issuance, Verb: "kubeconfig", Resource: "tokens"}
	err := c.recorder.act(r, event, func() (err error) {
		token, err = c.operators.create(localCaller(r).User)
		event.Detail = "token " + apiserver.TokenID(token)
		return err
	})
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	server := "https://" + net.JoinHostPort(c.cfg.hosts()[0], strconv.Itoa(int(address.Port())))
	config, err := apiserver.Kubeconfig(c.cfg.Cluster, server, c.authority.RootPEM(), token)
	if err != nil {
		socket.WriteFailure(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(config) // the caller has gone
}
