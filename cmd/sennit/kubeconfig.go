package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"
)

func kubeconfigCommand() *cobra.Command {
	var (
		conn    connection
		file    string
		expires time.Duration
	)
	cmd := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a configuration with which kubectl and others reach the controller",
		Long: `Kubeconfig prints where the controller's API is, what its certificate must chain to, and a token: what kubectl, Helm and
this command need on other hosts. The token may do everything until it expires or is taken back ('sennit operator token' makes those that
may less). It is a secret, so that only the controller's unix socket answers this; --file writes it to a file that nobody else can read.`,
		Example: `  sennit kubeconfig --file ~/.kube/sennit && kubectl --kubeconfig ~/.kube/sennit get httproutes
  ssh controller sudo sennit kubeconfig > sennit.kubeconfig`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := &format{is: "yaml", allowed: []string{"yaml", "json"}}
	out.flag(cmd, "output", "o", "form of the output")
	cmd.Flags().StringVar(&file, "file", "", "write to this file, with mode 0600, and not to standard output")
	cmd.Flags().DurationVar(&expires, "expires", 30*24*time.Hour, "how long the token is good, at most 8760h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		data, err := c.Kubeconfig(cmd.Context(), expires)
		if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
			return fmt.Errorf("%w (only the controller's unix socket answers this: run it on the controller's host, without --server)", err)
		}
		if err != nil {
			return err
		}
		if out.is == "json" {
			if data, err = yaml.YAMLToJSON(data); err != nil {
				return errors.New("the controller's answer is no YAML") // the error would quote it
			}
			data = append(data, '\n')
		}
		if file != "" {
			return writeSecret(file, data)
		}
		_, err = cmd.OutOrStdout().Write(data)
		return err
	}
	conn.flags(cmd)
	return cmd
}

// writeSecret replaces a file by one that only its owner can read.
func writeSecret(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		os.Remove(path + ".new")
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
