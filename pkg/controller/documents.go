package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// ready waits until nodes and instances are read: before, lists would lack some, and versions be lower than
// those that clients hold from before a restart.
func (c *Controller) ready(ctx context.Context) error {
	select {
	case <-c.inputs:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for nodes and instances to be read: %w", context.Cause(ctx))
	}
}

// joinTokens shows join tokens as documents, and makes them.
type joinTokens struct {
	c *Controller

	mu    sync.Mutex
	shown map[string]shownToken // by id, what was listed last
}

// A shownToken is the document of a token, which changes only when the token is used.
type shownToken struct {
	used     time.Time
	document *unstructured.Unstructured
}

func newJoinTokens(c *Controller) *joinTokens {
	return &joinTokens{c: c, shown: map[string]shownToken{}}
}

// Changed returns a channel that is closed when a token is made or used.
func (t *joinTokens) Changed() <-chan struct{} { return t.c.members.bell.Changed() }

// List returns the tokens that are known, without what makes them tokens.
func (t *joinTokens) List(ctx context.Context) ([]*unstructured.Unstructured, uint64, error) {
	if err := t.c.ready(ctx); err != nil {
		return nil, 0, err
	}
	tokens, version, err := t.c.members.tokens(ctx)
	if err != nil {
		return nil, 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*unstructured.Unstructured, 0, len(tokens))
	shown := make(map[string]shownToken, len(tokens))
	for _, token := range tokens {
		one, ok := t.shown[token.ID]
		if !ok || !one.used.Equal(token.Used) {
			document, err := tokenDocument(token)
			if err != nil {
				return nil, 0, err
			}
			one = shownToken{token.Used, document}
		}
		shown[token.ID] = one
		all = append(all, one.document)
	}
	t.shown = shown
	return all, version, nil
}

// tokenDocument shows a token, without what makes it one.
func tokenDocument(token ca.TokenStatus) (*unstructured.Unstructured, error) {
	expires := metav1.NewTime(token.Expires)
	document := &api.JoinToken{
		ObjectMeta: metav1.ObjectMeta{Name: token.ID, UID: types.UID(token.ID)},
		Spec:       api.JoinTokenSpec{Node: token.Node, Services: names(token.Services)},
		Status:     api.JoinTokenStatus{Expires: &expires},
	}
	if a := token.Attest; a != nil {
		document.Spec.Attest = attestDocument(a)
	}
	if !token.Used.IsZero() {
		document.Status.UsedAt, document.Status.UsedBy = &metav1.Time{Time: token.Used}, token.Node
	}
	return api.From(api.JoinTokens, document)
}

// Create makes a token and shows it this once.
func (t *joinTokens) Create(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	var document api.JoinToken
	if err := api.As(u, &document); err != nil {
		return nil, err
	}
	request := ca.TokenRequest{Node: document.Spec.Node}
	for _, name := range document.Spec.Services {
		service, err := exchange.ParseServiceName(name)
		if err != nil {
			return nil, apierrors.NewBadRequest("spec.services: " + err.Error())
		}
		request.Services = append(request.Services, service)
	}
	if document.Spec.TTL != nil {
		request.TTL = document.Spec.TTL.Duration
	}
	if a := document.Spec.Attest; a != nil {
		var err error
		if request.Attest, err = attestOf(a); err != nil {
			return nil, apierrors.NewBadRequest("spec.attest: " + err.Error())
		}
	}
	if err := ca.CheckNodeName(request.Node); err != nil {
		return nil, apierrors.NewBadRequest("spec.node: " + err.Error())
	}
	token, err := t.c.registrar.CreateToken(ctx, request)
	if errors.Is(err, ca.ErrNotAttested) {
		return nil, apierrors.NewBadRequest("spec.attest: " + err.Error())
	}
	if errors.Is(err, ca.ErrNameTaken) {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict, Message: err.Error(),
		}}
	}
	if err != nil {
		return nil, err
	}
	expires := metav1.NewTime(token.Expires())
	document.ObjectMeta = metav1.ObjectMeta{Name: token.ID(), UID: types.UID(token.ID())}
	document.Status = api.JoinTokenStatus{Token: token.Secret(), Expires: &expires}
	return api.From(api.JoinTokens, &document)
}

// Delete takes a token back: it admits nobody from then on.
func (t *joinTokens) Delete(ctx context.Context, _, name string) error {
	return t.c.registrar.RevokeToken(ctx, name)
}

// nodeDocuments shows the registry of nodes as documents.
type nodeDocuments struct{ c *Controller }

// Changed returns a channel that is closed when a node joins, renews, is lost or found, or runs something else.
func (d nodeDocuments) Changed() <-chan struct{} { return d.c.bell.Changed() }

// List returns all nodes. They come from two logs, and the sum of two numbers that never go down never does.
func (d nodeDocuments) List(ctx context.Context) ([]*unstructured.Unstructured, uint64, error) {
	if err := d.c.ready(ctx); err != nil {
		return nil, 0, err
	}
	version := d.c.members.version.At() + d.c.catalogue.Sequence()
	living, instances, versions := d.c.liveness(), d.c.running(), d.c.versions()
	var all []*unstructured.Unstructured
	for name, m := range d.c.members.list() {
		document := &api.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(m.Key), CreationTimestamp: metav1.NewTime(m.Joined)},
			Spec:       api.NodeSpec{Services: names(m.Services)},
			Status: api.NodeStatus{
				Address: cmp.Or(instances[name].address, m.Address), Generation: int64(m.Generation),
				Instances: instances[name].instances, Message: m.Why, Version: versions[name],
			},
		}
		state, since := living(name)
		document.Status.Liveness = state
		if state == report.Lost { // of one that lives it changes all the time, and no version with it
			document.Status.LastSeen = &metav1.Time{Time: since}
		}
		if m.State == "frozen" {
			document.Status.Liveness = m.State
		}
		u, err := api.From(api.Nodes, document)
		if err != nil {
			return nil, 0, err
		}
		all = append(all, u)
	}
	return all, version, nil
}

// endpointSlices shows instances as Kubernetes' clients know them: a slice for each service and node.
type endpointSlices struct{ c *Controller }

// Changed returns a channel that is closed when an instance, or the life of a node, changes.
func (e endpointSlices) Changed() <-chan struct{} { return e.c.bell.Changed() }

// List returns the slices as of now.
func (e endpointSlices) List(ctx context.Context) ([]*unstructured.Unstructured, uint64, error) {
	if err := e.c.ready(ctx); err != nil {
		return nil, 0, err
	}
	instances, lost, version := e.c.instances()
	slices := map[string]*discoveryv1.EndpointSlice{}
	var order []string
	for _, in := range instances {
		service, err := exchange.ParseServiceName(in.GetService())
		address, aerr := netip.ParseAddrPort(in.GetLaneAddress())
		if errors.Join(err, aerr) != nil || len(in.GetPorts()) == 0 { // a gateway is no endpoint
			continue
		}
		// A service's name holds no dot, so that no two pairs of service and node have one name.
		key := service.Namespace + "/" + service.Name + "." + in.GetNode()
		slice := slices[key]
		if slice == nil {
			slice = &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: service.Namespace, Name: service.Name + "." + in.GetNode(), UID: types.UID(strings.ReplaceAll(key, "/", ".")),
					Labels: map[string]string{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: "controller.sennit.dev"},
				},
				AddressType: discoveryv1.AddressTypeIPv4,
			}
			if address.Addr().Is6() {
				slice.AddressType = discoveryv1.AddressTypeIPv6
			}
			for _, p := range in.GetPorts() {
				name, number, protocol := p.GetName(), int32(p.GetNumber()), corev1.ProtocolTCP
				if p.GetProtocol() == snapshot.Protocol_PROTOCOL_UDP {
					protocol = corev1.ProtocolUDP
				}
				slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol})
			}
			slices[key] = slice
			order = append(order, key)
		}
		node, ready := in.GetNode(), !in.GetUnhealthy() && !lost[in.GetNode()]
		var zone *string
		if in.GetZone() != "" {
			zone = ptr(in.GetZone())
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address.Addr().String()}, NodeName: &node, Hostname: ptr(in.GetInstance()), Zone: zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
		})
	}
	var all []*unstructured.Unstructured
	for _, key := range order {
		u, err := api.From(api.EndpointSlice, slices[key])
		if err != nil {
			return nil, 0, fmt.Errorf("endpoint slice %s: %w", key, err)
		}
		all = append(all, u)
	}
	return all, version, nil
}

func names(services []exchange.ServiceName) []string {
	all := make([]string, 0, len(services))
	for _, s := range services {
		all = append(all, s.String())
	}
	return all
}
