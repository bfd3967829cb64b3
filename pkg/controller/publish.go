package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/compile"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// compileLoop compiles whenever something has changed, once for all changes that came meanwhile.
func (c *Controller) compileLoop(ctx context.Context) error {
	if err := c.inputsRead(ctx); err != nil {
		return err
	}
	for {
		changed := c.api.Changed()
		if err := c.compile(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// What is published stays; the next change, or the next second, tries again.
			c.log.Error("compile", "err", err)
			changed = after(ctx, time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-c.rebuild:
		}
	}
}

func after(ctx context.Context, d time.Duration) <-chan struct{} {
	ctx, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx.Done()
}

// inputsRead waits until all that was stored before this start is in memory: a set compiled from less would
// say that services are gone.
func (c *Controller) inputsRead(ctx context.Context) error {
	instances, err := c.conn.Records(bus.StreamInstance).Last(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for c.catalogue.Sequence() < instances || !c.members.read() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	close(c.inputs)
	return nil
}

func (c *Controller) compile(ctx context.Context) error {
	in, resources, err := c.documents(ctx)
	if err != nil {
		return err
	}
	instances, lost, sequence := c.instances()
	c.forget(lost)
	in.Instances, in.Lost, in.Seal, in.TrustDomain = instances, lost, c.keys.seal, c.cfg.TrustDomain
	in.KeySets, in.SessionKey = c.keySets(), c.sessionKey
	c.federate(in)
	out := compile.Compile(in)
	c.wantKeySets(out.KeySources)
	c.foreignConditions(in, out)
	c.last.Store(&compilation{in, out, resources})
	c.keys.forget()

	configs, err := c.nodeConfigs()
	if err != nil {
		return err
	}
	set := bus.Set{Bodies: maps.Clone(configs), BuiltFrom: snapshot.Inputs{Resources: resources, Instances: sequence}}
	if err := c.addBundle(set.Bodies); err != nil {
		return err
	}
	if err := errors.Join(encode(set.Bodies, out.Bodies), c.addRevocations(set.Bodies)); err != nil {
		return err
	}
	c.quotas.SetLimits(out.Limits) // before nodes ask for them
	if !c.gathering.Load() {
		c.publisher.Publish(set)
	}
	return errors.Join(c.writeRouteStatuses(ctx, in, out), c.writeGatewayStatuses(ctx, in, out), c.writeConditions(ctx, in, out))
}

// encode adds bodies as they are published.
func encode(into map[string]bus.Body, bodies map[string]proto.Message) error {
	for subject, body := range bodies {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s: %w", subject, err)
		}
		into[subject] = bus.Body{Data: data, Requires: compile.Requires(body)}
	}
	return nil
}

// nodeConfigs are the bodies of the subjects that concern one node each, as many as there are nodes: they are made
// anew only when the registry of nodes has changed.
func (c *Controller) nodeConfigs() (map[string]bus.Body, error) {
	nodes := c.members.nodes.Load()
	if nodes == c.configsOf && c.configs != nil {
		return c.configs, nil
	}
	bodies := make(map[string]proto.Message)
	for _, m := range c.members.list() {
		config := &snapshot.NodeConfig{}
		for _, s := range m.Services {
			config.Services = append(config.Services, s.String())
		}
		bodies[snapshot.NodeSubject(m.Name)] = config
	}
	configs := make(map[string]bus.Body, len(bodies))
	if err := encode(configs, bodies); err != nil {
		return nil, err
	}
	c.configs, c.configsOf = configs, nodes
	return configs, nil
}

// instances are those of the catalogue that their nodes may still run: a host that was taken over, and removed for
// it, goes on to register and to say that it is alive for as long as its user of the bus does, and must not be called.
func (c *Controller) instances() (instances []*snapshot.Instance, lost map[string]bool, sequence uint64) {
	instances, lost, sequence = c.catalogue.View()
	return slices.DeleteFunc(instances, func(in *snapshot.Instance) bool {
		service, err := exchange.ParseServiceName(in.GetService())
		return err != nil || c.members.mayNot(in.GetNode(), service)
	}), lost, sequence
}

// forget has nobody wait for nodes that were lost or removed since the compilation before.
func (c *Controller) forget(lost map[string]bool) {
	waited := make(map[string]bool)
	for node := range c.members.list() {
		if !lost[node] {
			waited[node] = true
		}
	}
	for node := range c.waited {
		if !waited[node] {
			c.publisher.Applied().Forget(node)
		}
	}
	c.waited = waited
}

// documents returns what is compiled, as it was at one sequence of the log: what a snapshot says of its origin is
// compared with the log when a controller starts, and must not lag behind what is in it. Under a stream of changes
// that never leaves a moment between the reads it is the oldest of them.
func (c *Controller) documents(ctx context.Context) (in compile.Input, at uint64, err error) {
	const tries = 8
	for range tries {
		var sequences []uint64
		in = compile.Input{}
		err := errors.Join(
			read(ctx, c, api.Service, &c.services, &in.Services, &sequences),
			read(ctx, c, api.HTTPRoute, &c.routes, &in.Routes, &sequences),
			read(ctx, c, api.QuotaPolicies, &c.policies, &in.Quotas, &sequences),
			read(ctx, c, api.Gateway, &c.gateways, &in.Gateways, &sequences),
			read(ctx, c, api.GatewayClass, &c.classes, &in.Classes, &sequences),
			read(ctx, c, api.ListenerSet, &c.sets, &in.ListenerSets, &sequences),
			read(ctx, c, api.Namespace, &c.spaces, &in.Namespaces, &sequences),
			read(ctx, c, api.ExternalServices, &c.outside, &in.External, &sequences),
			read(ctx, c, api.ReferenceGrant, &c.grants, &in.Grants, &sequences),
			read(ctx, c, api.Secret, &c.secrets, &in.Secrets, &sequences),
			read(ctx, c, api.ResiliencePolicies, &c.resilient, &in.Resilience, &sequences),
			read(ctx, c, api.GRPCRoute, &c.calls, &in.GRPC, &sequences),
			read(ctx, c, api.TLSRoute, &c.tlsRoutes, &in.TLS, &sequences),
			read(ctx, c, api.TCPRoute, &c.tcpRoutes, &in.TCP, &sequences),
			read(ctx, c, api.UDPRoute, &c.udpRoutes, &in.UDP, &sequences),
			read(ctx, c, api.ConfigMap, &c.configMap, &in.ConfigMaps, &sequences),
			read(ctx, c, api.FaultPolicies, &c.faults, &in.Faults, &sequences),
			read(ctx, c, api.LoadBalancingPolicies, &c.balancing, &in.Balancing, &sequences),
			read(ctx, c, api.BackendTLSPolicy, &c.securing, &in.BackendTLS, &sequences),
			read(ctx, c, api.AuthorizationPolicies, &c.admitting, &in.Authorization, &sequences),
			read(ctx, c, api.AuthenticationPolicies, &c.proving, &in.Authentication, &sequences),
			read(ctx, c, api.FederatedTrustDomains, &c.foreign, &in.Foreign, &sequences),
		)
		if err != nil {
			return compile.Input{}, 0, err
		}
		if at = sequences[0]; slices.Max(sequences) == at {
			break
		}
	}
	return in, at, nil
}

// decoded holds documents of a kind by what they were decoded from, which never changes.
type decoded[T any] map[*unstructured.Unstructured]*T

// read puts all documents of a kind, decoded, into a list, and adds the sequence that they stand for to at. What has not
// changed since the call before is not decoded again, and must not be changed by anybody.
func read[T any](ctx context.Context, c *Controller, kind *api.Kind, known *decoded[T], into *[]*T, at *[]uint64) error {
	found, sequence, err := c.api.Documents(ctx, kind)
	if err != nil {
		return err
	}
	all, now := make([]*T, 0, len(found)), make(decoded[T], len(found))
	for _, u := range found {
		one := (*known)[u]
		if one == nil {
			one = new(T)
			if err := api.As(u, one); err != nil {
				return fmt.Errorf("%s %s/%s: %w", kind.Name, u.GetNamespace(), u.GetName(), err)
			}
		}
		now[u] = one
		all = append(all, one)
	}
	*known, *into, *at = now, all, append(*at, sequence)
	return nil
}
