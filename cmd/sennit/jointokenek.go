package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/attest"
	"github.com/sennit-mesh/sennit/pkg/tpm"
)

// endorsementKey is a TPM for programs.
type endorsementKey struct {
	SHA256    string `json:"sha256"`
	Certified bool   `json:"certified"` // who made the TPM left a certificate in it
}

// joinTokenEKCommand says on a host what its TPM is known by.
func joinTokenEKCommand() *cobra.Command {
	var (
		device string
		out    *format
	)
	cmd := &cobra.Command{
		Use:   "ek",
		Short: "Say by which endorsement key this host's TPM is known",
		Long: `Ek asks the TPM 2.0 of the host that it runs on for its endorsement key, and prints the SHA-256 of the public part, which
is no secret: --tpm-ek of "sennit join-token create". It speaks with no controller. Usually only root may open the TPM.`,
		Example: `  sudo sennit join-token ek`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			endorsement, err := tpm.New(device).Endorsement()
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), endorsementKey{attest.EndorsementHash(endorsement.Key), len(endorsement.Certificate) > 0})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), attest.EndorsementHash(endorsement.Key))
			return err
		},
	}
	cmd.Flags().StringVar(&device, "tpm", tpm.DefaultDevice, "device file of the TPM, or the unix socket of an emulator")
	out = outputFlag(cmd)
	return cmd
}
