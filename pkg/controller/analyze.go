package controller

import (
	"fmt"
	"io"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/analyze"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/compile"
)

// analyze answers what is wrong with the documents, or would be if those of the request were applied. Nothing changes.
func (c *Controller) analyze(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxFile))
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, fmt.Errorf("read the documents: %w", err))
		return
	}
	last, ok := c.newest(w, r)
	if !ok {
		return
	}
	answer := report.Analysis[analyze.Finding]{Findings: analyze.Analyze(last.in, last.out)}
	if len(data) > 0 {
		docs, err := api.Decode("request", data)
		if err != nil {
			socket.WriteFailure(w, http.StatusBadRequest, err)
			return
		}
		in, err := overlaid(last.in, docs)
		if err != nil {
			socket.WriteFailure(w, http.StatusBadRequest, err)
			return
		}
		in.Seal = new(keySealer).seal // that of the compiler's goroutine is its own; nothing of this is published
		answer.Before, answer.Findings = answer.Findings, analyze.Analyze(in, compile.Compile(in))
	}
	if answer.Findings == nil {
		answer.Findings = []analyze.Finding{}
	}
	socket.WriteJSON(w, answer)
}

// overlaid is the input with documents in the place of those of their names.
func overlaid(in compile.Input, docs []api.Document) (compile.Input, error) {
	for _, d := range docs {
		var err error
		switch d.Kind {
		case api.Service:
			in.Services, err = overlay(in.Services, d)
		case api.HTTPRoute:
			in.Routes, err = overlay(in.Routes, d)
		case api.GRPCRoute:
			in.GRPC, err = overlay(in.GRPC, d)
		case api.TLSRoute:
			in.TLS, err = overlay(in.TLS, d)
		case api.TCPRoute:
			in.TCP, err = overlay(in.TCP, d)
		case api.UDPRoute:
			in.UDP, err = overlay(in.UDP, d)
		case api.QuotaPolicies:
			in.Quotas, err = overlay(in.Quotas, d)
		case api.FaultPolicies:
			in.Faults, err = overlay(in.Faults, d)
		case api.ExternalServices:
			in.External, err = overlay(in.External, d)
		case api.AuthenticationPolicies:
			in.Authentication, err = overlay(in.Authentication, d)
		case api.FederatedTrustDomains:
			in.Foreign, err = overlay(in.Foreign, d)
		case api.AuthorizationPolicies:
			in.Authorization, err = overlay(in.Authorization, d)
		case api.BackendTLSPolicy:
			in.BackendTLS, err = overlay(in.BackendTLS, d)
		case api.ResiliencePolicies:
			in.Resilience, err = overlay(in.Resilience, d)
		case api.LoadBalancingPolicies:
			in.Balancing, err = overlay(in.Balancing, d)
		case api.Gateway:
			in.Gateways, err = overlay(in.Gateways, d)
		case api.GatewayClass:
			in.Classes, err = overlay(in.Classes, d)
		case api.ListenerSet:
			in.ListenerSets, err = overlay(in.ListenerSets, d)
		case api.ReferenceGrant:
			in.Grants, err = overlay(in.Grants, d)
		case api.Secret:
			in.Secrets, err = overlay(in.Secrets, d)
		case api.ConfigMap:
			in.ConfigMaps, err = overlay(in.ConfigMaps, d)
		case api.Namespace:
			in.Namespaces, err = overlay(in.Namespaces, d)
		}
		if err != nil {
			return in, err
		}
	}
	return in, nil
}

// overlay returns the documents with d in the place of the one of its name, or behind them as the newest.
func overlay[T any, P interface {
	*T
	metav1.Object
}](all []P, d api.Document) ([]P, error) {
	one := P(new(T))
	if err := api.As(d.Object, one); err != nil {
		return nil, err
	}
	one.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	next := make([]P, 0, len(all)+1)
	for _, before := range all {
		if before.GetName() == one.GetName() && before.GetNamespace() == one.GetNamespace() {
			one.SetCreationTimestamp(before.GetCreationTimestamp())
			continue
		}
		next = append(next, before)
	}
	return append(next, one), nil
}
