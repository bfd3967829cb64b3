package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Who changed what, and whether the record of it is whole",
		Long: `The audit holds every change, with who made it and from where, every host that joined, every certificate that was
issued, and every request that was refused.`,
		Example: `  sennit audit log --since 24h
  sennit audit verify`,
		GroupID: groupDocuments,
	}
	cmd.AddCommand(auditLogCommand(), auditVerifyCommand())
	return cmd
}

// An auditLog is one run of `sennit audit log`.
type auditLog struct {
	connection
	since, until string
	want         client.AuditOptions
	out          *format
	rows         *table
	headed       bool
}

func auditLogCommand() *cobra.Command {
	l := &auditLog{}
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show what happened",
		Long: `Log shows events in the order in which they happened. With -o yaml and -o json, each has the whole documents before
and after it; -o json prints one event a line.`,
		Example: `  sennit audit log --since 24h
  sennit audit log --kind httproutes --name shop/orders -o yaml
  sennit audit log --who alice --kind change
  sennit audit log --kind refusal -o wide    # and from where, and why
  sennit audit log -w --since 0s             # from now on, until Ctrl-C`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&l.since, "since", "", "only events from then on: 2026-01-02T15:04:05Z, or how long ago, as 90m or 24h")
	f.StringVar(&l.until, "until", "", "only events up to then")
	f.StringVar(&l.want.Who, "who", "", "only events of this operator or node")
	f.StringVar(&l.want.Kind, "kind", "", "only events of this kind (change, join, issuance, refusal), or of a kind of documents")
	f.StringVar(&l.want.Name, "name", "", "only events of what has this name, or NAMESPACE/NAME")
	f.BoolVarP(&l.want.Watch, "watch", "w", false, "go on with every event")
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"change", "join", "issuance", "refusal", "backup", "restore"}, cobra.ShellCompDirectiveNoFileComp))
	l.out = outputFlag(cmd, "wide")
	l.flags(cmd)
	return cmd
}

func (l *auditLog) run(cmd *cobra.Command) error {
	now := time.Now()
	var err error
	if l.want.Since, err = optionalMoment(l.since, now); err != nil {
		return misused(cmd, "--since %v", err)
	}
	if l.want.Until, err = optionalMoment(l.until, now); err != nil {
		return misused(cmd, "--until %v", err)
	}
	if k, ok := findKind(l.want.Kind); ok {
		l.want.Kind = k.GroupResource().String()
	}
	l.want.Documents = l.out.structured()
	c, err := l.open(cmd)
	if err != nil {
		return err
	}
	l.rows = &table{out: cmd.OutOrStdout()}
	var rows [][]string
	err = c.Audit(cmd.Context(), l.want, func(e report.AuditEvent) error {
		switch {
		case l.out.is == "json":
			return writeLine(cmd.OutOrStdout(), e)
		case l.out.is == "yaml":
			fmt.Fprintln(cmd.OutOrStdout(), "---")
			return l.out.write(cmd.OutOrStdout(), e)
		case l.want.Watch:
			return l.print([][]string{l.row(e)})
		}
		rows = append(rows, l.row(e))
		return nil
	})
	switch {
	case l.want.Watch && cmd.Context().Err() != nil: // Ctrl-C is how a watch ends
		return nil
	case err != nil:
		return err
	case len(rows) > 0:
		return l.print(rows)
	case !l.headed && !l.out.structured():
		fmt.Fprintln(cmd.ErrOrStderr(), "no events")
	}
	return nil
}

// print prints rows, below the names of the columns.
func (l *auditLog) print(rows [][]string) error {
	if !l.headed {
		l.headed = true
		head := []string{"TIME", "KIND", "WHO", "VERB", "WHAT", "REVISION", "RESULT"}
		if l.out.is == "wide" {
			head = append(head, "FROM", "DETAIL")
		}
		rows = append([][]string{head}, rows...)
	}
	return l.rows.print(rows)
}

func (l *auditLog) row(e report.AuditEvent) []string {
	revision := "-"
	if e.Revision > 0 {
		revision = strconv.FormatUint(e.Revision, 10)
	}
	row := []string{e.Time.Format(time.RFC3339), e.Kind, cmp.Or(e.Who, "-"), e.Verb, cmp.Or(eventSubject(e), "-"), revision, e.Result}
	if l.out.is == "wide" {
		row = append(row, cmp.Or(e.From, "-"), cmp.Or(eventDetail(e), "-"))
	}
	return row
}

// eventSubject is what an event is about: httproute/orders, with the namespace where that is not the default one.
func eventSubject(e report.AuditEvent) string {
	if e.Name == "" {
		return ""
	}
	kind, _, _ := strings.Cut(e.Resource, ".")
	if k, ok := findKind(e.Resource); ok {
		kind = k.Singular
	}
	if e.Namespace != "" && e.Namespace != defaultNamespace {
		return kind + "/" + e.Namespace + "/" + e.Name
	}
	return kind + "/" + e.Name
}

func eventDetail(e report.AuditEvent) string {
	var parts []string
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	for _, one := range e.Certificates {
		parts = append(parts, fmt.Sprintf("%s until %s", one.SPIFFEID, one.NotAfter.Format(time.RFC3339)))
	}
	if e.Unrecorded > 0 {
		parts = append(parts, fmt.Sprintf("%d more before it were not recorded", e.Unrecorded))
	}
	return strings.Join(parts, "; ")
}

// errNotWhole is what verifying ends with where something was found; what it is stands in the output.
var errNotWhole = errors.New("the audit was changed or damaged (compare it with a backup, and find out who could write to the controller's disk)")

func auditVerifyCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Find out whether the audit is as it was written",
		Long: `Verify has the controller read its audit and the log of documents from their beginnings, and compare hashes,
signatures and checkpoints. It finds every byte that was changed, and every record that was removed, inserted or moved.
It cannot find that events behind the newest checkpoint, those of the last seconds, were cut off at the end. Whoever
controls the controller's process and keys can write another audit: keep the checkpoint that verify prints elsewhere,
and name it with --expect the next time.`,
		Example: `  sennit audit verify
  sennit audit verify --expect c1:4711:5f3a9c…    # as verify printed it before`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	expect := cmd.Flags().String("expect", "", "a checkpoint that verify printed before, which must still be there")
	out := outputFlag(cmd)
	conn.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		found, err := c.VerifyAudit(cmd.Context(), *expect)
		if err != nil {
			return err
		}
		if out.structured() {
			err = out.write(cmd.OutOrStdout(), found)
		} else {
			err = showVerification(cmd, found)
		}
		if err == nil && len(found.Problems) > 0 {
			err = errNotWhole
		}
		return err
	}
	return cmd
}

func showVerification(cmd *cobra.Command, v *report.Verification) error {
	out := cmd.OutOrStdout()
	for _, problem := range v.Problems {
		fmt.Fprintln(out, problem)
	}
	if v.More > 0 {
		fmt.Fprintf(out, "and %d more\n", v.More)
	}
	verdict := "the audit is whole"
	if len(v.Problems) > 0 {
		verdict = "the audit is not whole"
	}
	fmt.Fprintf(out, "%s: %d records, %d checkpoints, %d revisions of documents\n", verdict, v.Records, v.Checkpoints, v.Revisions)
	_, err := fmt.Fprintf(out, "newest checkpoint: %s; records behind it: %d\n", cmp.Or(v.Checkpoint, "none"), v.Uncovered)
	return err
}
