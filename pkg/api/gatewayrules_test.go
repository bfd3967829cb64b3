package api

import (
	"strings"
	"testing"
)

func TestGatewayRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spec string
		want string // in the one mistake; empty: there is none
	}{
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: a.example}]}", ""},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP, hostname: '*.example'}, {name: b, port: 80, protocol: HTTP, hostname: a.example}]}", ""},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]}", "f.yaml:4:45: spec.listeners: Combination of port"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}", "spec.listeners[1]: must be unique, but name: a is already in item 0"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 0, protocol: HTTP}]}", "spec.listeners[0].port"},
		{"{gatewayClassName: sennit, listeners: [{name: a, protocol: HTTP}]}", "spec.listeners[0].port: is required"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP, hostname: A.example}]}", "spec.listeners[0].hostname"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP, tls: {mode: Terminate, options: {a/b: c}}}]}", "spec.listeners: tls must not be specified"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}]}", "spec.listeners: tls mode must be Terminate"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Terminate}}]}", "certificateRefs or options must be specified"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 443, protocol: TLS}]}", "tls mode must be set"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 53, protocol: UDP, hostname: a.example}]}", "hostname must not be specified"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: [{value: 1.2.3.4}, {value: 1.2.3.4}]}", "IPAddress values must be unique"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: [{value: nowhere}]}", "spec.addresses[0].value: must be an IP address"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], addresses: [{type: Hostname, value: 'a_b'}]}", "Hostname value must be empty"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], infrastructure: {labels: {'/a': b}}}", "Label keys must be"},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}], infrastructure: {annotations: {a/b: c}}}", ""},
		{"{gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP, host: a}]}", "spec.listeners[0].host: unknown field"},
		{"{listeners: [{name: a, port: 80, protocol: HTTP}]}", "spec.gatewayClassName: is required"},
	} {
		_, errs := decode(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec: "+tt.spec+"\n")
		if tt.want == "" && len(errs) > 0 || tt.want != "" && (len(errs) != 1 || !strings.Contains(errs[0], tt.want)) {
			t.Errorf("%s: got %q, want %q", tt.spec, errs, tt.want)
		}
	}
	if _, errs := decode(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a.b}\nspec: {gatewayClassName: sennit, listeners: [{name: a, port: 80, protocol: HTTP}]}\n"); len(errs) != 1 {
		t.Errorf("a name that is no label: %q", errs)
	}
	if _, errs := decode(t, "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: x}\nspec: {controllerName: nobody}\n"); len(errs) != 1 {
		t.Errorf("a class of a controller without a domain: %q", errs)
	}
}
