package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set when releases are built: -ldflags "-X main.version=v1.2.3".
var version string

// programVersion is the version of this program: a release's, or what the build knows of where it came from.
func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

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
			v := map[string]string{"version": programVersion(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
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
