package demo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func TestAuditMustHoldWhatTheDemoDid(t *testing.T) {
	changes := []change{{"services", "payments-v1", 3}, {"httproutes", "payments", 5}}
	stored := func(change func(*report.AuditEvent)) []report.AuditEvent {
		events := []report.AuditEvent{
			{Kind: "join", Who: "host1", Verb: "join", Resource: "nodes", Name: "host1", Result: report.Done},
			{Kind: "change", Who: "ann", Verb: "apply", Resource: "services", Namespace: "shop", Name: "payments-v1", Revision: 3, Result: report.Done},
			{Kind: "change", Who: "ann", Verb: "apply", Resource: "httproutes.gateway.networking.k8s.io", Namespace: "shop", Name: "payments", Revision: 5, Result: report.Done},
		}
		change(&events[2])
		return events
	}
	for _, tt := range []struct {
		name    string
		events  []report.AuditEvent
		damaged []string
		want    string // in the error; "" for none
	}{
		{"whole", stored(func(*report.AuditEvent) {}), nil, ""},
		{"a change is missing", stored(func(*report.AuditEvent) {})[:2], nil, "revision 5, httproutes shop/payments"},
		{"another revision", stored(func(e *report.AuditEvent) { e.Revision = 4 }), nil, "revision 5"},
		{"nobody did it", stored(func(e *report.AuditEvent) { e.Who = "" }), nil, "revision 5"},
		{"it is not known how it ended", stored(func(e *report.AuditEvent) { e.Result = report.Begun }), nil, "revision 5"},
		{"a join is missing", stored(func(*report.AuditEvent) {})[1:], nil, "host1 joined"},
		{"damaged", stored(func(*report.AuditEvent) {}), []string{"record 7 was changed"}, "record 7 was changed"},
	} {
		err := checkAudit(tt.events, changes, []string{"host1"}, &report.Verification{Problems: tt.damaged})
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrNotShown) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestAuditTableFitsTheTerminal(t *testing.T) {
	shown := auditTable([]report.AuditEvent{
		{Time: time.Unix(0, 0), Who: "somebody", Verb: "apply", Resource: "httproutes.gateway.networking.k8s.io", Name: "payments", Revision: 1234},
		{Time: time.Unix(0, 0), Who: "host1", Verb: "join", Resource: "nodes", Name: "host1"},
	})
	for line := range strings.Lines(shown) {
		if n := lipgloss.Width(line); n > 80 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	for _, want := range []string{"somebody  apply  httproutes/payments      1234", "host1     join   nodes/host1                 -"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is missing in\n%s", want, shown)
		}
	}
}
