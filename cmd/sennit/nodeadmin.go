package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// nodeAdminCommands returns what operators say of nodes: the commands below `sennit node`, which is the daemon.
func nodeAdminCommands() []*cobra.Command {
	return []*cobra.Command{nodeAllowCommand(), nodeAcceptCommand(), nodeRemoveCommand(), nodeRevokeCommand()}
}

func nodeAllowCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "allow NODE SERVICE",
		Short: "Let a node that joined run one more service",
		Example: `  sennit node allow web1 default/billing
  sennit get nodes -o wide                 # what each may run`,
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeNodes(&conn),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		namespace, name := splitService(args[1])
		service := namespace + "/" + name
		if err := c.Allow(cmd.Context(), args[0], service); err != nil {
			return err
		}
		return nodeResult(cmd, out, args[0], "may run "+service)
	}
	conn.flags(cmd)
	return cmd
}

func nodeAcceptCommand() *cobra.Command {
	var conn connection
	var key string
	cmd := &cobra.Command{
		Use:   "accept NODE",
		Short: "Let a node go on whose identity was frozen",
		Long: `Accept lets a node renew its certificates again after two hosts showed one identity, as they do where a disk was
copied. Stop the copy and remove its state first. The host that goes on is the one whose key the registry has, or the
one with the key that is named.`,
		Example: `  sennit node accept web1
  sennit node accept web1 --key 5f3a9c…    # as the node's log and the warning in sennit status show it`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes(&conn),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		if err := c.Accept(cmd.Context(), args[0], key); err != nil {
			return err
		}
		return nodeResult(cmd, out, args[0], "accepted")
	}
	cmd.Flags().StringVar(&key, "key", "", "fingerprint of the key of the host that goes on")
	conn.flags(cmd)
	return cmd
}

func nodeRemoveCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "End a node: it renews nothing more, and its name is free for another host",
		Long: `Remove ends a node. It can renew nothing from then on; certificates that it has stay valid until they end:
a host that is not to be trusted is revoked instead. Its name can be given to another host with a new join token.`,
		Example: `  sennit node remove web1
  sennit join-token create --node web1 --service default/orders    # the same name for a new host`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeNodes(&conn),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		if err := c.Remove(cmd.Context(), args[0]); err != nil {
			return err
		}
		return nodeResult(cmd, out, args[0], "removed")
	}
	conn.flags(cmd)
	return cmd
}

func nodeResult(cmd *cobra.Command, out *format, node, result string) error {
	if out.structured() {
		return out.write(cmd.OutOrStdout(), map[string]string{"node": node, "result": result})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "node/%s %s\n", node, result)
	return err
}

// completeNodes completes the names of nodes as first argument.
func completeNodes(conn *connection) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := conn.open(cmd)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c.Warn = nil
		return names(c, client.Target{Kind: api.Nodes}), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeServices completes the services that this host runs.
func completeServices(socket *string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), namesTimeout)
		defer cancel()
		all, err := openNode(*socket).Services(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, s := range all {
			switch {
			case len(args) == 0:
				out = append(out, s.Service)
			case len(args) == 1 && s.Service == args[0]:
				out = append(out, s.Instance)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// namesTimeout is how long completion may keep a shell waiting.
const namesTimeout = 2 * time.Second

// names lists the documents that there are, for completion.
func names(c *client.Client, t client.Target) []string {
	ctx, cancel := context.WithTimeout(context.Background(), namesTimeout)
	defer cancel()
	items, _, err := c.List(ctx, t)
	if err != nil {
		return nil
	}
	var out []string
	for _, u := range items {
		out = append(out, u.GetName())
	}
	return out
}
