package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/demo"
)

// demoCommand shows a whole mesh on this machine.
func demoCommand() *cobra.Command {
	cfg := demo.Config{}
	cmd := &cobra.Command{
		Use: "demo", Short: "Show a whole mesh on this machine, with nothing to set up", GroupID: groupRun,
		Long: `Start a controller, three nodes and a small shop as processes on this machine, without any privilege; move
payments from one version to the next under traffic, kill a node, let a client outside in, call a host outside, limit a
caller that wants too much, and show who calls whom all the while and the audit at the end. Ctrl-C ends all of it and leaves nothing behind.`,
		Example: `  sennit demo           # until Ctrl-C
  sennit demo --once    # once through, exit code 1 where a request failed, or a step did not do what it shows`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.Program, cfg.Out = self, cmd.OutOrStdout()
			cfg.Terminal = isTerminal(cmd.OutOrStdout())
			cfg.Width = func() int { return columns(cmd.OutOrStdout()) }
			return demo.Run(cmd.Context(), cfg)
		},
	}
	cmd.Flags().BoolVar(&cfg.Once, "once", false, "once through in under a minute, then end; fail where a request failed, or where graph, gateway, egress, quota or audit are not as they must be")
	cmd.Flags().StringVar(&cfg.Keep, "keep", "", "folder for state and logs, which is kept (default: a temporary one, removed at the end)")
	cmd.AddCommand(shopCommand())
	return cmd
}

// shopCommand runs one process of the demo's shop.
func shopCommand() *cobra.Command {
	var cfg demo.ShopConfig
	cmd := &cobra.Command{
		Use: "shop ROLE", Short: "Run one process of the demo's shop: storefront, orders, payments, or the bank outside",
		Example: `  sennit demo shop payments --listen 127.0.0.1:8081 --as-version v1
  sennit demo shop orders --listen 127.0.0.1:8080 --upstream 127.0.0.1:15001`,
		Args: cobra.ExactArgs(1), ValidArgs: []string{"storefront", "orders", "payments", "bank"},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Role = args[0]
			return demo.RunShop(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:8080", "address to serve on")
	cmd.Flags().StringVar(&cfg.Upstream, "upstream", "", "address at which the next service is called: a listener of this host's node")
	cmd.Flags().StringVar(&cfg.Certificate, "certificate", "", "of the bank: serve HTTPS, with a certificate for bank.example that is written to this file")
	cmd.Flags().StringVar(&cfg.Version, "as-version", "v1", "version to report in every answer")
	return cmd
}
