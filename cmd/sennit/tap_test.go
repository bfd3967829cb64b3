package main

import (
	"testing"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

func TestResultsOfTaps(t *testing.T) {
	for want, e := range map[string]*telemetry.Tapped{
		"200":                                  {Protocol: "http", Status: 200},
		"503 fault-injected default/p/x:abort": {Protocol: "http", Status: 503, Reason: "fault-injected", Fault: "default/p/x:abort"},
		"200 default/p/x:delay":                {Protocol: "http", Status: 200, Fault: "default/p/x:delay"},
		"-":                                    {Protocol: "http"},
		"closed":                               {Protocol: "tcp"},
	} {
		if got := resultOf(e); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
