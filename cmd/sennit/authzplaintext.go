package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func authzPlaintextCommand() *cobra.Command {
	var (
		conn connection
		out  *format
	)
	cmd := &cobra.Command{
		Use:   "plaintext",
		Short: "List which services take callers without an identity, and who these are",
		Long: `Plaintext lists the addresses from which services are called without an identity, where services.d names an address for such
callers, and whether they are taken. A service whose Service has the annotation sennit.dev/plaintext: permissive takes them; every
other refuses them. Once a permissive service has had no such caller for as long as its rarest takes to come, strict is safe. The
controller keeps in memory what nodes told it, since its start.`,
		Example: `  sennit authz plaintext`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			all, err := c.Plaintext(cmd.Context())
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), all)
			}
			return showPlaintext(cmd.OutOrStdout(), all, time.Now())
		},
	}
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

func showPlaintext(w io.Writer, all []report.Plaintext, now time.Time) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "every service is strict, and nobody called one without an identity")
		return err
	}
	rows := [][]string{{"SERVICE", "MODE", "SOURCE", "CONNECTIONS", "LAST"}}
	for _, p := range all {
		mode := "strict"
		if p.Permissive {
			mode = "permissive"
		}
		if len(p.Sources) == 0 {
			rows = append(rows, []string{p.Service, mode, "nobody yet", "-", "-"})
		}
		for _, s := range p.Sources {
			verdict := " refused"
			if s.Taken {
				verdict = " taken"
			}
			rows = append(rows, []string{p.Service, mode, s.Source, strconv.FormatUint(s.Connections, 10) + verdict, now.Sub(s.Last).Round(time.Second).String() + " ago"})
		}
	}
	return (&table{out: w}).print(rows)
}
