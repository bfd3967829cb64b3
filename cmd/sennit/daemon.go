package main

import (
	"flag"
	"os"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/controller"
	"github.com/sennit-mesh/sennit/pkg/node"
)

// controllerCommand runs the control plane, as cmd/controller does on its own.
func controllerCommand() *cobra.Command {
	var cfg controller.Config
	cmd := &cobra.Command{
		Use: "controller", Short: "Run a controller: bus, API, authority and compiler in one process", GroupID: groupRun,
		Long: `Run a controller until it is told to stop. All of its state is in one folder; the first start makes a new
cluster there, with a root certificate of its own.`,
		Example: `  sennit controller                                  # on every address of this host, with the usual ports
  sennit controller --advertise mesh.example.org     # the name by which nodes and operators reach it
  sennit controller --state-dir ./state --bus 127.0.0.1:4222 --api 127.0.0.1:6443 --socket ./controller.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return controller.Serve(cmd.Context(), cfg)
		},
	}
	addFlags(cmd, cfg.Flags)
	cmd.AddCommand(backupCommand(), restoreCommand())
	return cmd
}

// nodeCommand runs this host's node, as cmd/node does on its own; below it is what operators say about nodes.
func nodeCommand() *cobra.Command {
	var cfg node.Config
	cmd := &cobra.Command{
		Use: "node", Short: "Run this host's node, or say what a node may do", GroupID: groupRun,
		Long: `Run the node proxy of this host until it is told to stop. A host that has not joined needs a join token, once;
after that its own key is what it is, across restarts and reboots.`,
		Example: `  sennit node --join @/run/token           # join with the token in this file, and run
  sennit node --join sjt1.…                # the same; other users of this host see the command line until it is used
  sennit node                              # from the second start on
  sennit node allow web1 default/billing   # let a node run one more service`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.Complete(os.Environ()); err != nil {
				return err
			}
			n, err := node.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return n.Run(cmd.Context())
		},
	}
	addFlags(cmd, cfg.Flags)
	cmd.AddCommand(nodeAdminCommands()...)
	return cmd
}

// addFlags gives a command the flags that a daemon declares.
func addFlags(cmd *cobra.Command, declare func(*flag.FlagSet)) {
	flags := flag.NewFlagSet(cmd.Name(), flag.ContinueOnError)
	declare(flags)
	cmd.Flags().AddGoFlagSet(flags)
}
