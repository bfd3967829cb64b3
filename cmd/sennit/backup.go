package main

import (
	"fmt"
	"log/slog"
	"os/user"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/controller"
)

// backupCommand takes a copy of what a running controller keeps.
func backupCommand() *cobra.Command {
	var to string
	var conn connection
	cmd := &cobra.Command{
		Use: "backup --to FILE", Short: "Copy all that the controller on this host keeps into one file, while it runs",
		Long: `Backup asks the controller on this host for a copy of what it keeps: documents with every revision, the registry of
nodes and join tokens, instances, the audit, and the authority's keys, sealed as they are on its disk. The file has mode
0600, and documents and the audit in it can be read. The key that seals the authority's keys is not in it: keep a copy
of that file, once, at another place. Nothing can be restored without it.`,
		Example: `  sennit controller backup --to /var/backups/sennit.backup
  cp /var/lib/sennit/controller/ca/ca.key /media/safe/     # once: it never changes`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if to == "" {
			return misused(cmd, "say where to with --to FILE")
		}
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		b, err := c.Backup(cmd.Context(), to)
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]any{"file": b.File, "bytes": b.Bytes, "manifest": b.Manifest, "sealingKey": b.SealingKey})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: cluster %s, epoch %d, %d bytes\n", b.File, b.Cluster, b.Epoch, b.Bytes)
		fmt.Fprintf(cmd.OutOrStdout(), "a restore needs %s (%s) beside it, which is not in it: keep a copy of that elsewhere\n", b.SealingKey, b.Key)
		return nil
	}
	cmd.Flags().StringVar(&to, "to", "", "the file that is made; it must not be there yet")
	cmd.Flags().StringVar(&conn.socket, "socket", "", "the controller's unix socket (SENNIT_SOCKET; default "+report.SocketPath("controller")+")")
	_ = cmd.MarkFlagFilename("socket")
	return cmd
}

// restoreCommand makes a controller's state from a backup.
func restoreCommand() *cobra.Command {
	var cfg controller.RestoreConfig
	var passphrase string
	cmd := &cobra.Command{
		Use: "restore --from FILE --state-dir DIR", Short: "Make a controller's state from a backup, before it is started",
		Long: `Restore makes the state of a controller from a backup in a folder that is empty or missing. The controller goes on in
a new epoch: nodes follow it, and never again a controller of an older one, whatever that one still does. Start it then
with the flags that it had before, at the address that nodes know.

What was changed after the backup was taken is lost, but for what nodes prove: a node that joined or renewed shows its
receipt, and is believed.

A backup does not know which tokens were taken back or used since. So all operators' tokens, and the join tokens that were
not used, are taken back, and listed; make others. Those that you know to be good are kept with --keep-token.`,
		Example: `  sennit controller restore --from sennit.backup --state-dir /var/lib/sennit/controller --key /media/safe/ca.key
  sennit controller --state-dir /var/lib/sennit/controller
  sennit kubeconfig > mesh.kubeconfig      # a new token, on the controller's host`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case cfg.From == "":
			return misused(cmd, "say what to restore with --from FILE")
		case cfg.StateDir == "":
			return misused(cmd, "say where to with --state-dir DIR")
		}
		cfg.Passphrase = ca.PassphraseFrom(passphrase, false)
		cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
		if u, err := user.Current(); err == nil {
			cfg.Actor = u.Username
		}
		r, err := controller.Restore(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), map[string]any{"stateDir": cfg.StateDir, "manifest": r.Manifest, "epoch": r.NewEpoch, "tokens": restoredTokens(r.Tokens)})
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: cluster %s as it was at %s, now epoch %d\n", cfg.StateDir, r.Cluster, r.Made.Format("2006-01-02 15:04:05Z"), r.NewEpoch)
		for _, t := range restoredTokens(r.Tokens) {
			fmt.Fprintf(cmd.OutOrStdout(), "%s for %s %s, ends %s\n", t.Document, t.For, t.Result, t.Expires.Format(time.RFC3339))
		}
		if slices.ContainsFunc(r.Tokens, func(t controller.RestoredToken) bool { return !t.Kept }) {
			fmt.Fprintln(cmd.OutOrStdout(), "make others when it runs: sennit kubeconfig, sennit operator token NAME, sennit join-token create --node NAME")
		}
		fmt.Fprintln(cmd.OutOrStdout(), "nodes, services and roles that were revoked or removed after the backup are back: revoke or remove them again")
		fmt.Fprintf(cmd.OutOrStdout(), "start it: sennit controller --state-dir %s --name %s --cluster %s --trust-domain %s\n", cfg.StateDir, r.Controller, r.Cluster, r.TrustDomain)
		return nil
	}
	cmd.Flags().StringVar(&cfg.From, "from", "", "the file that `sennit controller backup` made")
	cmd.Flags().StringVar(&cfg.StateDir, "state-dir", "", "folder that becomes the controller's state; empty or missing")
	cmd.Flags().StringVar(&passphrase, "passphrase-file", "", "file with the passphrase that this copy is sealed under; - asks at the terminal")
	cmd.Flags().StringArrayVar(&cfg.KeepTokens, "keep-token", nil, "name of an operator's or a join token that stays good (may be repeated; all keeps every one, for when none was taken back)")
	cmd.Flags().StringVar(&cfg.Key, "key", "", "copy of ca.key of the controller that was backed up (default: systemd's credential sennit-ca-key)")
	return cmd
}

// A restoredToken is what became of a token that was good when the backup was made.
type restoredToken struct {
	Document string    `json:"document"`
	For      string    `json:"for"` // the operator, or the node
	Result   string    `json:"result"`
	Expires  time.Time `json:"expires"`
}

func restoredTokens(all []controller.RestoredToken) []restoredToken {
	shown := make([]restoredToken, 0, len(all))
	for _, t := range all {
		result := "taken back"
		if t.Kept {
			result = "kept"
		}
		shown = append(shown, restoredToken{documentName(t.Kind, "", t.ID), t.For, result, t.Expires.UTC()})
	}
	return shown
}
