package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// serveSocket answers sennit's commands on this host until ctx ends. Whoever can open the file may register
// services as the node: its mode lets its owner alone.
func (n *Node) serveSocket(ctx context.Context) error {
	if n.cfg.Socket == "" {
		<-ctx.Done()
		return nil
	}
	l, err := socket.Listen(ctx, n.cfg.Socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+report.PathServices, n.putService)
	mux.HandleFunc("GET "+report.PathServices, func(w http.ResponseWriter, _ *http.Request) { socket.WriteJSON(w, n.registered()) })
	mux.HandleFunc("DELETE "+report.PathServices+"/{namespace}/{name}/{instance}", n.deleteService)
	mux.HandleFunc("GET "+report.PathNodeStatus, func(w http.ResponseWriter, _ *http.Request) { socket.WriteJSON(w, n.Status()) })
	mux.HandleFunc("GET "+report.PathNodeTap, n.localTap)
	mux.HandleFunc("POST "+report.PathNodeExplain, n.explain)
	return socket.Serve(ctx, l, mux)
}

func (n *Node) putService(w http.ResponseWriter, r *http.Request) {
	document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	in, err := n.local.Set("standard input", document)
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	socket.WriteJSON(w, report.Declared{Service: in.Service.String(), Instance: in.Name})
}

func (n *Node) deleteService(w http.ResponseWriter, r *http.Request) {
	service := exchange.ServiceName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	err := n.local.Remove(registry.Key{Service: service, Name: r.PathValue("instance")})
	switch {
	case errors.Is(err, registry.ErrNotRegistered):
		socket.WriteFailure(w, http.StatusNotFound, err)
	case err != nil:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		socket.WriteJSON(w, report.Declared{Service: service.String(), Instance: r.PathValue("instance")})
	}
}

func (n *Node) registered() []report.Registered {
	list := []report.Registered{}
	for _, in := range n.local.Instances() {
		known, well, detail := n.local.Health(in.Key())
		one := report.Registered{
			Service: in.Service.String(), Instance: in.Name, Labels: in.Labels, Origin: in.Origin,
			Healthy: well || in.Health == nil, Detail: detail,
		}
		if in.Health != nil && !known {
			one.Detail = "not checked yet"
		}
		for _, p := range in.Ports {
			one.Ports = append(one.Ports, report.Port{Port: p.Number, Name: p.Name, Protocol: protocolName(p.Protocol), Address: p.Address.String()})
		}
		list = append(list, one)
	}
	return list
}

func protocolName(p snapshot.Protocol) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PROTOCOL_"))
}

// Status says what the node knows of itself.
func (n *Node) Status() report.Node {
	s := report.Node{
		Node: n.identity.Node(), Services: []report.Health{}, Listeners: []report.Listener{},
		Lanes: []report.Lane{}, Certificates: []report.Certificate{}, Problems: []string{},
		Process: process(), Datagrams: report.Datagrams(n.lanes.Datagrams()),
	}
	following := n.follower.State()
	s.Bus = report.Bus{Connected: n.conn.Err() == nil, StaleSince: following.StaleSince}
	if err := n.conn.Err(); err != nil {
		s.Problems = append(s.Problems, fmt.Sprintf("the bus is away, and the node serves with what it has: %v", err))
	}
	for _, subject := range following.Refused {
		s.Problems = append(s.Problems, subject+": the newest configuration needs a newer node; what was in force before stays")
	}
	for _, in := range n.registered() {
		s.Services = append(s.Services, report.Health{Service: in.Service, Instance: in.Instance, Healthy: in.Healthy, Detail: in.Detail})
	}
	s.Gateways = n.gatewayStatus()
	for _, l := range n.capture.Status() {
		if l.Listener.Gateway || l.Listener.Plaintext {
			continue
		}
		one := report.Listener{Address: l.Listener.Address.String(), As: l.Listener.As.String(), To: fmt.Sprintf("%s:%d", l.Listener.To, l.Listener.Port)}
		if l.Err != nil {
			one.Error = l.Err.Error()
		}
		if l.Listener.UDP {
			one.Flows = &report.Flows{Open: l.Active, Begun: l.Accepted, Refused: l.Refused, Dropped: l.Dropped}
		}
		s.Listeners = append(s.Listeners, one)
	}
	for _, c := range n.lanes.Connections() {
		if !c.Inbound {
			s.Lanes = append(s.Lanes, report.Lane{From: c.Key.Local.String(), To: c.Key.Remote.String(), Node: c.Key.Node, Carrier: c.Carrier.String(), Why: c.Why, State: laneState(c.Draining, c.Running)})
		}
	}
	identity := n.identity.Status()
	if identity.Clock != nil {
		s.Problems = append(s.Problems, identity.Clock.Error())
	}
	for _, c := range identity.Certificates {
		s.Certificates = append(s.Certificates, report.Certificate{Service: serviceOf(c.SPIFFEID), NotAfter: c.NotAfter})
	}
	if err := n.store.unkept.Load(); err != nil {
		s.Problems = append(s.Problems, fmt.Sprintf("configuration cannot be kept, and a restart would begin with an older one: %v (is the disk of %s full?)", *err, n.cfg.StateDir))
	}
	if err := n.identity.LastError(); err != nil {
		problem := fmt.Sprintf("certificates cannot be renewed: %v", err)
		if errors.Is(err, ca.ErrFrozen) { // which of the two keys that it names is this host's
			problem += fmt.Sprintf(" (this host's keys: %s, %s)", identity.Key, identity.NextKey)
		}
		s.Problems = append(s.Problems, problem)
	}
	for _, p := range n.local.Problems() {
		s.Problems = append(s.Problems, p.Err.Error())
	}
	for key, err := range n.registrar.Failures() {
		s.Problems = append(s.Problems, fmt.Sprintf("%s is not registered: %v", key, err))
	}
	return s
}

// process looks at this process without stopping it.
func process() report.Process {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	return report.Process{PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), HeapBytes: heap[0].Value.Uint64()}
}

func laneState(draining bool, running int) string {
	switch {
	case draining:
		return "draining"
	case running > 0:
		return fmt.Sprintf("%d running", running)
	}
	return "idle"
}

// serviceOf is "namespace/name" of a service's SPIFFE ID, and empty for the node's own.
func serviceOf(id string) string {
	_, path, found := strings.Cut(id, "/ns/")
	if !found {
		return ""
	}
	return strings.Replace(path, "/svc/", "/", 1)
}
