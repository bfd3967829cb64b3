package main

import (
	"bytes"
	"fmt"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

func bundleCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Print the bundle with which others verify SVIDs of this trust domain",
		Long: `Bundle prints the trust domain's bundle as JSON, in SPIFFE's format: its roots, and the keys that sign JWT-SVIDs. Give it to the
operators of another trust domain by a way that they trust, for the beginning of a federation. It holds no secret, and
who changes it on its way is believed in the place of this mesh.`,
		Example: `  sennit bundle > sennit.local.json`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := &format{is: "json", allowed: []string{"json", "yaml"}}
	out.flag(cmd, "output", "o", "form of the output")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		data, err := c.Bundle(cmd.Context())
		if err != nil {
			return err
		}
		if out.is == "yaml" {
			if data, err = yaml.JSONToYAML(data); err != nil {
				return fmt.Errorf("read the controller's answer: %w", err)
			}
		}
		_, err = cmd.OutOrStdout().Write(append(bytes.TrimSpace(data), '\n'))
		return err
	}
	conn.flags(cmd)
	return cmd
}
