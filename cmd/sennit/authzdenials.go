package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

func authzDenialsCommand() *cobra.Command {
	var (
		conn           connection
		service        string
		dryRun, denied bool
		out            *format
	)
	cmd := &cobra.Command{
		Use:   "denials [--service SERVICE] [--dry-run | --enforced]",
		Short: "List what policies refused of late, and what they would refuse",
		Long: `Denials lists who was refused what, by which policy, as the nodes of the called services saw it: calls alike in one line, the
newest first. Calls that passed, and would not once a policy's dry run is over, are marked "would be". Paths are without their
query; of one caller 16 are told apart. The controller keeps the last 1,024 kinds in memory: those that nodes told it, since
its start.`,
		Example: `  sennit authz denials --dry-run
  sennit authz denials --service shop/orders -o json`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dryRun && denied {
				return misused(cmd, "give --dry-run or --enforced, not both")
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			seen, err := c.AccessDenials(cmd.Context())
			if err != nil {
				return err
			}
			seen = slices.DeleteFunc(seen, func(s telemetry.SeenDenial) bool {
				return dryRun && !s.DryRun || denied && s.DryRun || service != "" && s.Service != service && !strings.HasSuffix(s.Service, "/"+service)
			})
			if out.structured() {
				return out.write(cmd.OutOrStdout(), seen)
			}
			return showDenials(cmd.OutOrStdout(), seen, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&service, "service", "", "only calls of this service")
	f.BoolVar(&dryRun, "dry-run", false, "only what passed, and would not once a dry run is over")
	f.BoolVar(&denied, "enforced", false, "only what was refused")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// showDenials prints denials for people.
func showDenials(w io.Writer, seen []telemetry.SeenDenial, now time.Time) error {
	if len(seen) == 0 {
		_, err := fmt.Fprintln(w, "nothing was refused, and nothing would have been")
		return err
	}
	rows := [][]string{{"SERVICE", "CALLER", "NODE", "METHOD", "PATH", "POLICY", "DENIED", "COUNT", "LAST"}}
	for _, s := range seen {
		denied := "yes"
		if s.DryRun {
			denied = "would be"
		}
		caller, method := s.Caller, s.Method
		if caller == "" {
			caller = "(no identity)"
		}
		if method == "" {
			method = "(tcp)"
		}
		rows = append(rows, []string{
			s.Service, caller, orDash(s.Node), method, orDash(s.Path), s.Policy, denied, strconv.FormatUint(s.Count, 10),
			now.Sub(s.Last).Round(time.Second).String() + " ago",
		})
	}
	return (&table{out: w}).print(rows)
}
