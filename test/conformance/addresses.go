package conformance

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Addresses gives each Gateway an address of its own, at one node, as a cluster's load balancer does: a file of the node's
// services.d says which. A Gateway that asks for the Usable address gets that.
type Addresses struct {
	Node *Host
	API  client.WithWatch // the controller

	Usable string

	given  map[types.NamespacedName]string
	number int
}

// Run follows Gateways until ctx ends.
func (a *Addresses) Run(ctx context.Context) {
	a.given = map[types.NamespacedName]string{}
	for ctx.Err() == nil {
		if err := a.follow(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "follow Gateways:", err)
			time.Sleep(100 * time.Millisecond) // rather than in a circle
		}
	}
}

func (a *Addresses) follow(ctx context.Context) error {
	events, err := a.API.Watch(ctx, &gatewayv1.GatewayList{})
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		gateway, ok := event.Object.(*gatewayv1.Gateway)
		if !ok {
			return fmt.Errorf("the watch says %v", event.Object)
		}
		name := types.NamespacedName{Namespace: gateway.Namespace, Name: gateway.Name}
		if event.Type == watch.Deleted {
			a.take(name)
		} else if err := a.give(ctx, name, gateway.Spec.Addresses); err != nil {
			return err
		}
	}
	return nil
}

func (a *Addresses) give(ctx context.Context, name types.NamespacedName, asked []gatewayv1.GatewaySpecAddress) error {
	if a.given[name] != "" {
		return nil
	}
	a.number++
	address := fmt.Sprintf("10.97.%d.%d", a.number/200, 1+a.number%200)
	if slices.ContainsFunc(asked, func(one gatewayv1.GatewaySpecAddress) bool { return one.Value == a.Usable }) {
		address = a.Usable
	}
	if err := run("ip", "addr", "add", address+"/32", "dev", "lo"); err != nil {
		return err
	}
	a.given[name] = address
	return a.Node.Declare(ctx, "gateway."+name.Namespace+"."+name.Name, name.String(), fmt.Sprintf("service: %s\ngateway: {address: %s}\n", name, address))
}

func (a *Addresses) take(name types.NamespacedName) {
	a.Node.Withdraw("gateway." + name.Namespace + "." + name.Name)
	if err := run("ip", "addr", "del", a.given[name]+"/32", "dev", "lo"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	delete(a.given, name)
}
