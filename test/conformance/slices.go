package conformance

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Slices declares the endpoints of EndpointSlices that are written by hand, at one node: Sennit's own are made from what
// nodes registered, and read-only.
type Slices struct {
	Node *Host
}

// Written is told of every change (Shelf.Changed).
func (s *Slices) Written(old, now *unstructured.Unstructured) {
	if now == nil {
		s.Node.Withdraw(s.file(old))
		return
	}
	slice := &discoveryv1.EndpointSlice{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(now.Object, slice); err != nil {
		fmt.Fprintf(os.Stderr, "endpointslice %s/%s: %v\n", now.GetNamespace(), now.GetName(), err)
		return
	}
	service := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
	var documents []string
	for i, e := range slice.Endpoints {
		var b strings.Builder
		fmt.Fprintf(&b, "service: %s\ninstance: %s-%d\nports:\n", service, slice.Name, i)
		for _, port := range slice.Ports {
			fmt.Fprintf(&b, "- {port: %d, name: %s, protocol: http, address: %q}\n", *port.Port, *port.Name, net.JoinHostPort(e.Addresses[0], fmt.Sprint(*port.Port)))
		}
		documents = append(documents, b.String())
	}
	if len(documents) == 0 {
		s.Node.Withdraw(s.file(now))
		return
	}
	if err := s.Node.Declare(context.Background(), s.file(now), service, strings.Join(documents, "---\n")); err != nil {
		fmt.Fprintf(os.Stderr, "endpointslice %s/%s: %v\n", now.GetNamespace(), now.GetName(), err)
	}
}

func (s *Slices) file(u *unstructured.Unstructured) string {
	return "slice." + u.GetNamespace() + "." + u.GetName()
}
