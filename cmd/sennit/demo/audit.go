package demo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

const newestShown = 8 // events of the audit

// A document is one of the shop's, with its place in the API.
type document struct {
	group, resource, name string // group as in a path: "/api/v1"
	content               map[string]any
}

// A change is a document that was stored, as the audit must tell it.
type change struct {
	resource, name string
	revision       uint64
}

// apply stores a document, and returns when every node that uses it has it.
func (s *show) apply(ctx context.Context, d document) error {
	version, err := s.mesh.Store(ctx, d.group+"/namespaces/shop/"+d.resource+"/"+d.name, d.content)
	if err != nil {
		return err
	}
	revision, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return fmt.Errorf("store %s %s: resource version %q: %w", d.resource, d.name, version, err)
	}
	s.changes = append(s.changes, change{d.resource, d.name, revision})
	return s.mesh.Wait(ctx, version)
}

// audit shows the record of what the demo did, and has it verified.
func (s *show) audit(ctx context.Context) error {
	c, err := client.New(client.Config{Socket: s.mesh.Socket()})
	if err != nil {
		return err
	}
	var events []report.AuditEvent
	if err := c.Audit(ctx, client.AuditOptions{}, func(e report.AuditEvent) error {
		if e.Kind != "issuance" { // certificates are renewed all the time
			events = append(events, e)
		}
		return nil
	}); err != nil {
		return err
	}
	s.view.say("Audit of what the demo did, the newest of %d events. By hand: sennit audit log\n%s",
		len(events), auditTable(events[max(0, len(events)-newestShown):]))
	found, err := c.VerifyAudit(ctx, "")
	if err != nil {
		return err
	}
	verdict := "it is whole"
	if len(found.Problems) > 0 {
		verdict = "it is not whole"
	}
	s.view.say("Verified, %s: %d records, %d revisions. By hand: sennit audit verify", verdict, found.Records, found.Revisions)
	return checkAudit(events, s.changes, hosts, found)
}

// checkAudit wants a record of every change and of every host that joined, and a whole audit.
func checkAudit(events []report.AuditEvent, changes []change, joined []string, found *report.Verification) error {
	if len(found.Problems) > 0 {
		return fmt.Errorf("%w: the audit is damaged: %s", ErrNotShown, strings.Join(found.Problems, "; "))
	}
	for _, c := range changes {
		if !slices.ContainsFunc(events, func(e report.AuditEvent) bool {
			resource, _, _ := strings.Cut(e.Resource, ".")
			return e.Kind == "change" && e.Result == report.Done && e.Who != "" && e.Namespace == "shop" && (change{resource, e.Name, e.Revision}) == c
		}) {
			return fmt.Errorf("%w: the audit has no record of revision %d, %s shop/%s", ErrNotShown, c.revision, c.resource, c.name)
		}
	}
	for _, host := range joined {
		if !slices.ContainsFunc(events, func(e report.AuditEvent) bool {
			return e.Kind == "join" && e.Result == report.Done && e.Name == host
		}) {
			return fmt.Errorf("%w: the audit has no record that %s joined", ErrNotShown, host)
		}
	}
	return nil
}

// auditTable is who did what, one event a line.
func auditTable(events []report.AuditEvent) string {
	rows := [][]string{{"time", "who", "did", "to what", "revision"}}
	for _, e := range events {
		resource, _, _ := strings.Cut(e.Resource, ".")
		revision := "-"
		if e.Revision > 0 {
			revision = strconv.FormatUint(e.Revision, 10)
		}
		rows = append(rows, []string{e.Time.Local().Format("15:04:05"), e.Who, e.Verb, resource + "/" + e.Name, revision})
	}
	return strings.Join(columns(rows, 4), "\n")
}
