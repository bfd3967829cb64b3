package analyze

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/compile"
)

func TestServicesThatTakePlaintextAreTold(t *testing.T) {
	in := inputOf(t, `{apiVersion: v1, kind: Service, metadata: {name: orders, annotations: {sennit.dev/plaintext: permissive}}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: strict, annotations: {sennit.dev/plaintext: strict}}, spec: {ports: [{port: 80}]}}
`)
	var told []string
	for _, f := range Analyze(in, compile.Compile(in)) {
		if f.Code == CodePlaintext {
			told = append(told, f.Document)
		}
	}
	if len(told) != 1 || told[0] != "default/service/orders" {
		t.Errorf("told of %v", told)
	}
}
