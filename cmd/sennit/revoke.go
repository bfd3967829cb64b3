package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func revokeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "End what certificates say, at once",
		Long: `Revoke ends certificates before they expire. Nodes learn it within a second: open lanes of who was revoked are closed,
and no others are made. A node that was away learns it when it is back. A whole host is revoked with sennit node revoke.`,
		Example: `  sennit revoke certificate 6f1c9e…          # one certificate; its holder gets another at once
  sennit revoke service shop/orders --node web1
  sennit revoke service shop/orders          # on every node, and back:
  sennit revoke undo shop/orders`,
		GroupID: groupHosts, Args: cobra.NoArgs,
	}
	cmd.AddCommand(revokeCertificateCommand(), revokeServiceCommand(), revokeUndoCommand(), revokeListCommand())
	return cmd
}

func revokeCertificateCommand() *cobra.Command {
	var conn connection
	var why string
	cmd := &cobra.Command{
		Use:   "certificate SERIAL",
		Short: "Revoke one certificate; its holder gets another at once",
		Long: `Certificate revokes the certificate with a serial number, as sennit certs shows it. Its holder makes a new key and gets
another certificate at once, so that nothing stops: it is for a key that leaked. Revoke the service or the node where the
holder itself is not to be trusted. It cannot be taken back, and need not be.`,
		Example: `  sennit certs --service shop/orders
  sennit revoke certificate 6f1c9e02a4 --why leaked`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	return revoking(cmd, &conn, &why, (*client.Client).Revoke, func(args []string) report.Revoke { return report.Revoke{Serial: args[0], Why: why} }, func(w io.Writer, args []string, done *report.Revoked) {
		fmt.Fprintf(w, "certificate/%s of %s revoked\n", args[0], done.Holder)
		if done.Restarts {
			fmt.Fprintln(w, "it is a controller's: restart that controller, so that it gets another")
		}
	})
}

func revokeServiceCommand() *cobra.Command {
	var conn connection
	var why, node string
	cmd := &cobra.Command{
		Use:   "service [NAMESPACE/]NAME",
		Short: "Revoke the identity of a service, on one node or on all",
		Long: `Service revokes every certificate of a service and takes the service away from the nodes that may run it, or from one of
them. Its calls fail, and calls to it. Join tokens that nobody used yet and that name the service are taken back. Undo it
on all nodes that lost the service with sennit revoke undo SERVICE, and for one with sennit node allow NODE SERVICE. What was
issued before stays revoked.`,
		Example: `  sennit revoke service shop/orders --node web1
  sennit revoke service shop/orders --why misbehaves
  sennit revoke undo shop/orders             # gives it back to all nodes that lost it by the line above
  sennit node allow web1 shop/orders         # gives it back to a node`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&node, "node", "", "the node whose certificates of the service are revoked (default all)")
	return revoking(cmd, &conn, &why, (*client.Client).Revoke, func(args []string) report.Revoke {
		namespace, name := splitService(args[0])
		return report.Revoke{Service: namespace + "/" + name, Node: node, Why: why}
	}, func(w io.Writer, args []string, done *report.Revoked) {
		namespace, name := splitService(args[0])
		fmt.Fprintf(w, "service/%s/%s revoked, and taken away from %s\n", namespace, name, orDash(strings.Join(done.Nodes, ", ")))
		if len(done.Tokens) > 0 {
			fmt.Fprintf(w, "join tokens taken back: %s\n", strings.Join(done.Tokens, ", "))
		}
	})
}

func revokeUndoCommand() *cobra.Command {
	var conn connection
	var why string
	cmd := &cobra.Command{
		Use:   "undo [NAMESPACE/]NAME",
		Short: "Undo that a service was revoked on all nodes",
		Long: `Undo lets every node run a service again from which it was taken away by revoking the service on all nodes. They get new
certificates at once; what was issued before stays revoked, and join tokens that were taken back stay so. A node that lost the
service alone (--node), or was revoked or removed since, does not get it back.`,
		Example: `  sennit revoke service shop/orders --why misbehaves
  sennit revoke undo shop/orders --why replaced`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	return revoking(cmd, &conn, &why, (*client.Client).Undo, func(args []string) report.Undo {
		namespace, name := splitService(args[0])
		return report.Undo{Service: namespace + "/" + name, Why: why}
	}, func(w io.Writer, args []string, done *report.Undone) {
		namespace, name := splitService(args[0])
		fmt.Fprintf(w, "service/%s/%s given back to %s\n", namespace, name, strings.Join(done.Nodes, ", "))
	})
}

// revoking completes a command that revokes something, or undoes that, and says what was done.
func revoking[What, Done any](cmd *cobra.Command, conn *connection, why *string, do func(*client.Client, context.Context, What) (*Done, error), what func(args []string) What, say func(io.Writer, []string, *Done)) *cobra.Command {
	out := outputFlag(cmd)
	cmd.Flags().StringVar(why, "why", "", "the reason, for the audit")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		done, err := do(c, cmd.Context(), what(args))
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), done)
		}
		say(cmd.OutOrStdout(), args, done)
		return nil
	}
	conn.flags(cmd)
	return cmd
}

func nodeRevokeCommand() *cobra.Command {
	var conn connection
	var why string
	cmd := &cobra.Command{
		Use:   "revoke NODE",
		Short: "Cut a node off at once: on the bus, and on every lane",
		Long: `Revoke ends a node as remove does, and everything that it holds with it: its lanes are closed within a second, its
certificates and those of its services are refused everywhere, and the bus lets it in no more. It is for a host that was
taken over, stolen or lost. It cannot be taken back: the host joins anew, with its state removed and a new join token,
which may have the same name.`,
		Example: `  sennit node revoke web1 --why stolen
  sennit join-token create --node web1 --service default/orders    # the same name for a new host`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes(&conn),
	}
	return revoking(cmd, &conn, &why, (*client.Client).Revoke, func(args []string) report.Revoke { return report.Revoke{Node: args[0], Why: why} }, func(w io.Writer, args []string, _ *report.Revoked) {
		fmt.Fprintf(w, "node/%s revoked\n", args[0])
	})
}

func revokeListCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is revoked, and when that ends",
		Long: `List shows what is revoked. A revocation ends when the last certificate that it concerns has expired: then there is
nothing left to refuse.`,
		Example: `  sennit revoke list -o json`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		all, err := c.Revocations(cmd.Context())
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), all)
		}
		if len(all) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing is revoked")
			return err
		}
		now := time.Now()
		rows := [][]string{{"REVOKED", "NODE", "ISSUED UNTIL", "ENDS IN", "WHY"}}
		for _, r := range all {
			what, issued := r.Identity, "-"
			switch {
			case r.Serial != "":
				what = "certificate " + r.Serial
			case what == "":
				what = "everything"
			}
			if !r.Issued.IsZero() {
				issued = r.Issued.Format(time.RFC3339)
			}
			rows = append(rows, []string{what, orDash(r.Node), issued, until(r.Ends, now), orDash(r.Why)})
		}
		return (&table{out: cmd.OutOrStdout()}).print(rows)
	}
	conn.flags(cmd)
	return cmd
}
