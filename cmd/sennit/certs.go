package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func certsCommand() *cobra.Command {
	var (
		conn                         connection
		node, service, serial, state string
	)
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Show who holds which certificate, and until when",
		Long: `Certs shows the certificates that the controller issued, from what it recorded when it did, until a day after they
expired. STATE is current; renewing, where it is time for another which the holder has not got yet; replaced, where it has a
newer one; revoked; or expired. NODE is - for those of the controller itself.`,
		Example: `  sennit certs --service shop/orders
  sennit certs --node web1 --state current
  sennit certs -o json | jq '.[] | select(.state == "renewing")'`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd, "wide")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		if service != "" {
			namespace, name := splitService(service)
			service = namespace + "/" + name
		}
		all, err := c.Certificates(cmd.Context(), node, service, serial, state)
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), all)
		}
		if len(all) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "no such certificate was issued")
			return err
		}
		rows := [][]string{{"NODE", "SERVICE", "SERIAL", "NOT BEFORE", "NOT AFTER", "STATE"}}
		if out.is == "wide" {
			rows[0] = append(rows[0], "ISSUER", "SPIFFE ID")
		}
		for _, one := range all {
			row := []string{orDash(one.Node), orDash(one.Service), one.Serial, one.NotBefore.Format(time.RFC3339), one.NotAfter.Format(time.RFC3339), one.State}
			if out.is == "wide" {
				row = append(row, one.Issuer, one.SPIFFEID)
			}
			rows = append(rows, row)
		}
		return (&table{out: cmd.OutOrStdout()}).print(rows)
	}
	f := cmd.Flags()
	f.StringVar(&node, "node", "", "of this node")
	f.StringVar(&service, "service", "", "of this service, [NAMESPACE/]NAME")
	f.StringVar(&serial, "serial", "", "with this serial number")
	f.StringVar(&state, "state", "", "in this state")
	conn.flags(cmd)
	return cmd
}
