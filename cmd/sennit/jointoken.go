package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/pkg/api"
)

func joinTokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "join-token",
		Short: "Let hosts join the mesh",
		Example: `  sennit join-token create --node web1 --service default/orders
  sennit get jointokens                    # which there are, and which were used`,
		GroupID: groupHosts,
	}
	cmd.AddCommand(joinTokenCreateCommand(), joinTokenEKCommand())
	return cmd
}

func joinTokenCreateCommand() *cobra.Command {
	var (
		conn     connection
		node     string
		services []string
		expires  time.Duration
		attest   api.JoinTokenAttest
		makers   string
		file     string
		out      *format
	)
	cmd := &cobra.Command{
		Use:   "create --node NAME [--service NAMESPACE/NAME...]",
		Short: "Make a token with which one host can join, once",
		Long: `Create makes a token that lets one host join as a node that may run the given services, and prints it alone, so that it
can be piped, or writes it into a new file that nobody else can read. The token is a secret until it is used; it works once, and
not after it has expired.

With --attest, the token can go into a machine image: every machine of the accounts that are named joins with it by itself, as a
node that is named for the machine (aws-i-0abc). Each has to show its cloud's word on which machine it is, so that the token
alone lets nobody in; the controller needs the cloud's keys (--attest-aws and so on).

With --attest tpm, it is the host's TPM 2.0 that proves which machine it is, and the node's key is made there. Say which TPMs:
each by its endorsement key, or all that have a certificate of one authority.`,
		Example: `  sennit join-token create --node web1 --service default/orders --out web1.token   # then, on web1: sennit node --join @web1.token
  sennit join-token create --node web1 --service default/orders --service default/stock --expires 10m
  sennit join-token create --node web --attest aws --account 123456789012 --service default/orders --expires 2160h
  sennit join-token create --node racks --attest tpm --tpm-ca maker.pem --service default/orders`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case node == "":
				return misused(cmd, "say with --node which name the host gets")
			case expires <= 0:
				return misused(cmd, "--expires must be more than 0, is %s", expires)
			case file != "" && out.structured():
				return misused(cmd, "--out writes the token alone: leave --output out, or the file")
			}
			doc := &api.JoinToken{
				ObjectMeta: metav1.ObjectMeta{GenerateName: node + "-"},
				Spec:       api.JoinTokenSpec{Node: node, TTL: &metav1.Duration{Duration: expires}},
			}
			switch {
			case attest.Provider != "":
				if makers != "" {
					file, err := os.ReadFile(makers)
					if err != nil {
						return fmt.Errorf("--tpm-ca: %w", err)
					}
					attest.Authorities = string(file)
				}
				doc.Spec.Attest = &attest
			case len(attest.Accounts)+len(attest.Places)+len(attest.EndorsementKeys) > 0 || makers != "":
				return misused(cmd, "--account, --place, --tpm-ek and --tpm-ca are for --attest")
			}
			for _, s := range services {
				namespace, name := splitService(s)
				doc.Spec.Services = append(doc.Spec.Services, namespace+"/"+name)
			}
			u, err := api.From(api.JoinTokens, doc)
			if err != nil {
				return err
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			to := cmd.OutOrStdout()
			if file != "" { // before a token is made that would have no place
				secret, failed := newSecretFile(file)
				if failed != nil {
					return failed
				}
				defer func() { err = secret.close(err) }()
				to = secret
			}
			made, err := c.Create(cmd.Context(), api.JoinTokens, u)
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(cmd.OutOrStdout(), unmanaged(made).Object)
			}
			var got api.JoinToken
			if err := api.As(made, &got); err != nil {
				return err
			}
			if got.Status.Token == "" {
				return errors.New("the controller made a join token and did not say it; its log tells why")
			}
			_, err = fmt.Fprintln(to, got.Status.Token)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&node, "node", "", "name that the host will have in the cluster")
	f.StringArrayVar(&services, "service", nil, "service that the host may run, NAMESPACE/NAME (may be repeated)")
	f.DurationVar(&expires, "expires", time.Hour, "how long the token can be used")
	f.StringVar(&attest.Provider, "attest", "", "cloud whose machines may join with the token, each under a name of its own: aws, gcp or azure; or tpm, for hosts with a TPM 2.0")
	f.StringArrayVar(&attest.Accounts, "account", nil, "with --attest: AWS account, Google project or Azure subscription of the machines (may be repeated)")
	f.StringArrayVar(&attest.Places, "place", nil, "with --attest: AWS region or Google zone of the machines (may be repeated)")
	f.StringArrayVar(&attest.EndorsementKeys, "tpm-ek", nil, "with --attest tpm: SHA-256 of the endorsement key of a host's TPM, as \"sennit join-token ek\" says there (may be repeated)")
	f.StringVar(&makers, "tpm-ca", "", "with --attest tpm: PEM file with the authorities that certified the endorsement keys; every TPM of theirs may join")
	_ = cmd.MarkFlagFilename("tpm-ca")
	f.StringVar(&file, "out", "", "file that is made with mode 0600 and holds the token; it must not be there yet")
	_ = cmd.MarkFlagFilename("out")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// A secretFile holds a secret that nobody else could read at any moment.
type secretFile struct{ *os.File }

// newSecretFile makes a file, and refuses one that is there: it may be another's, or hold what is still needed.
func newSecretFile(name string) (secretFile, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return secretFile{}, fmt.Errorf("%s is there already; remove it, or give another name with --out", name)
	}
	return secretFile{f}, err
}

// close ends the file, and removes it where what it is for failed.
func (f secretFile) close(failed error) error {
	failed = errors.Join(failed, f.Close())
	if failed != nil {
		_ = os.Remove(f.Name()) // it is empty, or not whole
	}
	return failed
}
