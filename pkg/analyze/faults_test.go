package analyze

import (
	"fmt"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/compile"
)

func TestFaultsOfEverything(t *testing.T) {
	in := inputOf(t, service+`
apiVersion: sennit.dev/v1alpha1
kind: FaultPolicy
metadata: {name: down}
spec:
  targetRefs: [{kind: Service, name: orders}, {kind: Service, name: gone}]
  faults:
  - {name: a, percentage: 99.9999, reset: true}
  - {name: b, percentage: 100, delay: {fixed: 1s}, from: [{name: web}]}
  - {name: c, percentage: 100, delay: {fixed: 1s}, matches: [{method: GET}]}
  - {name: d, percentage: 100, delay: {fixed: 1s}}
`)
	var got []string
	for _, f := range Analyze(in, compile.Compile(in)) {
		if f.Document == "default/faultpolicy/down" {
			got = append(got, fmt.Sprintf("%s %s %s: %s", f.Level, f.Code, f.Field, f.Message))
		}
	}
	want := []string{
		"error TargetNotFound : there is no Service default/gone; the policy is in effect at its other targets",
		"warning FaultsEveryRequest spec.faults[3].percentage: every request to Service default/gone is spoiled, whoever calls",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}
