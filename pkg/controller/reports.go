package controller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// withReports adds what is not of Kubernetes' shapes to the API's handler. What operators may of it roles say by its path,
// unless something else is said here.
func (c *Controller) withReports(rest http.Handler) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, c.permitted(ofPath, h)) }
	handleNode := func(act string, h http.HandlerFunc) {
		mux.Handle("POST "+report.PathNodes+"{name}/"+act, c.permitted(ofNode(act), h))
	}
	handle("GET "+report.PathWait, c.wait)
	mux.HandleFunc("GET "+report.PathStatus, c.inPart(c.status))
	mux.HandleFunc("GET "+report.PathEdges, c.inPart(c.edges))
	mux.HandleFunc("GET "+report.PathTap, c.tap) // these three ask for the namespace of the service that is looked at
	mux.HandleFunc("POST "+report.PathExplain, c.explain)
	mux.HandleFunc("POST "+report.PathAuthzCheck, c.checkAccess)
	mux.HandleFunc("GET "+report.PathPlaintext, c.inPart(c.plaintextCallers))
	mux.HandleFunc("GET "+report.PathAuthzDenials, c.inPart(c.accessDenials))
	mux.HandleFunc("GET "+report.PathQuota, c.inPart(c.quotaUsage))
	handle("POST "+report.PathAnalyze, c.analyze)
	handleNode("allow", c.allow)
	handleNode("accept", c.accept)
	handleNode("remove", c.remove)
	handle("GET "+report.PathBundle, c.endpoint.ServeHTTP)
	handle("GET "+report.PathKubeconfig, c.kubeconfig)
	handle("GET "+report.PathBackup, c.backup)
	c.auditReports(handle)
	c.authorityReports(handle)
	c.revocationReports(handle)
	mux.Handle("/", rest)
	return mux
}

// status answers how the cluster is.
func (c *Controller) status(w http.ResponseWriter, r *http.Request, sees rbac.Scope) {
	status := c.Status(sees)
	if gateways, err := c.gatewayReports(r.Context()); err != nil {
		status.Warnings = append(status.Warnings, "gateways are not shown: "+err.Error())
	} else {
		status.Gateways = slices.DeleteFunc(gateways, func(g report.Gateways) bool { return !sees.Has(namespaceOf(g.Name)) })
	}
	socket.WriteJSON(w, status)
}

// edges answers who calls whom.
func (c *Controller) edges(w http.ResponseWriter, r *http.Request, sees rbac.Scope) {
	folds := map[string]telemetry.Fold{"": telemetry.ByVersion, report.ByVersion: telemetry.ByVersion, report.ByService: telemetry.ByService, report.ByNode: nil}
	fold, known := folds[r.URL.Query().Get("by")]
	if !known {
		socket.WriteFailure(w, http.StatusBadRequest, errors.New("want by=service, by=version or by=node"))
		return
	}
	now := time.Now()
	socket.WriteJSON(w, edgesSeen(func(fold telemetry.Fold) []telemetry.GraphEdge { return c.graph.Edges(now, fold) }, fold, sees))
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

// Status says what this controller knows of the cluster, as far as somebody sees it.
func (c *Controller) Status(sees rbac.Scope) report.Cluster {
	s := report.Cluster{
		Cluster: c.cfg.Cluster, TrustDomain: c.cfg.TrustDomain, Version: release.Version(), Controller: c.cfg.Name,
		Namespaces: sees.Namespaces, Nodes: []report.Member{}, Gateways: []report.Gateways{}, Warnings: []string{},
	}
	applied := c.publisher.Applied()
	newest := applied.Newest()
	s.Revision, s.Epoch = newest.Revision, c.authority.Epoch()
	nodeSeen := c.nodesSeen(sees)
	s.Warnings = append(s.Warnings, problemsSeen(applied.Pending(), sees, nodeSeen)...)
	if sees.Everywhere {
		s.Warnings = append(s.Warnings, c.warnings()...)
	}
	standings := applied.Standings()
	living, instances, versions := c.liveness(), c.running(), c.versions()
	for name, m := range c.members.list() {
		if !nodeSeen(name) {
			continue
		}
		member := report.Member{
			Name: name, Address: cmp.Or(instances[name].address, m.Address), Services: servicesSeen(m.Services, sees),
			Behind: standings[name].Behind, Applied: standings[name].Applied.Revision, Version: versions[name],
		}
		member.State, member.Since = living(name)
		if m.State == "frozen" {
			s.Warnings = append(s.Warnings, name+" is frozen: "+m.Why+" (end it with `sennit node accept "+name+"`)")
		}
		s.Nodes = append(s.Nodes, member)
	}
	slices.SortFunc(s.Nodes, func(a, b report.Member) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// warnings are about this controller and the authority.
func (c *Controller) warnings() (all []string) {
	switch err := c.ended(); {
	case err != nil:
		all = append(all, err.Error())
	case c.gathering.Load():
		all = append(all, "this controller was restored, and waits for what nodes show before it publishes, at most "+gatherMost.String())
	case !c.publisher.Leading():
		all = append(all, "this controller does not lead; changes are published by the one that does")
	}
	for _, warning := range []string{c.upstreamEnds(), c.delegationEnded(), c.intermediateEnds()} {
		if warning != "" {
			all = append(all, warning)
		}
	}
	return all
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
