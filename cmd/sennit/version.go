package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/internal/release"
)

func versionCommand() *cobra.Command {
	var out *format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Long:  "Version prints the version of this program. `sennit status` shows those of the controller and of every node.",
		Example: `  sennit version
  sennit version -o json`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := map[string]string{"version": release.Version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "sennit %s (%s, %s)\n", v["version"], v["go"], v["platform"])
			return err
		},
	}
	out = outputFlag(cmd)
	return cmd
}
