package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// caCommand holds what operators do to the authority.
func caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "Show and rotate what signs certificates", GroupID: groupHosts,
		Long: `The authority of a cluster is a root, which hosts pin when they join, and the controller's intermediate, which signs the
certificates of nodes and services. Both can be replaced while everything runs.`,
		Example: `  sennit ca status
  sennit ca rotate --root`,
	}
	cmd.AddCommand(caStatusCommand(), caRotateCommand(), caWithdrawCommand(), caCancelCommand(),
		caInitCommand(), caRequestCommand(), caSignCommand(), caAcceptCommand(), caSealCommand())
	return cmd
}

func caStatusCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use: "status", Short: "Show the root and the intermediate, and how far a rotation has come",
		Example: `  sennit ca status
  sennit ca status -o json | jq .nodes.waiting`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		a, err := c.Authority(cmd.Context())
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), a)
		}
		return showAuthority(cmd.OutOrStdout(), a, time.Now())
	}
	conn.flags(cmd)
	return cmd
}

func showAuthority(w io.Writer, a *report.Authority, now time.Time) error {
	rows := [][]string{
		{"", "KEY", "NAME", "ENDS IN"},
		{"root", a.Root.Key, a.Root.Name, until(a.Root.Ends, now)},
		{"intermediate", a.Intermediate.Key, a.Intermediate.Name, until(a.Intermediate.Ends, now)},
	}
	if u := a.Upstream; u != nil {
		for _, root := range u.Roots {
			rows = append(rows, []string{"root outside", root.Key, root.Name, until(root.Ends, now)})
		}
		rows = append(rows, []string{"intermediate outside", u.Key, u.Name, until(u.Ends, now)})
	}
	rows = append(rows, []string{"signing key", a.SigningKey, "", ""}, []string{"bus operator", a.BusOperator, "", ""})
	err := (&table{out: w}).print(rows)
	fmt.Fprintf(w, "\ncertificates live %s\n", a.TTL)
	switch u := a.Upstream; {
	case u != nil && a.UpstreamCA == "":
		fmt.Fprintf(w, "%s certified the intermediate of nodes, and the controller is not set to ask it again: `sennit ca rotate --intermediate` goes back to the mesh's own root\n", u.Authority)
	case u != nil:
		fmt.Fprintf(w, "%s certifies the intermediate of nodes; the root signs rosters and the controllers' certificates\n", u.Authority)
	case a.UpstreamCA != "":
		fmt.Fprintf(w, "%s certifies the intermediate of nodes after the next `sennit ca rotate --intermediate`\n", a.UpstreamCA)
	}
	if a.Failure != "" {
		fmt.Fprintf(w, "it could not be asked the last time: %s\n", a.Failure)
	}
	if a.Offline {
		fmt.Fprintln(w, "the root's key is kept elsewhere: before the intermediate ends, ask for another with `sennit ca request`")
	}
	if a.BackupNeeded {
		fmt.Fprintln(w, "take a backup (`sennit controller backup`): no node believes a controller that is restored from one of before this root")
	}
	if a.Next != nil {
		fmt.Fprintln(w, awaited(a.Next))
	}
	if a.NextSigning != "" {
		fmt.Fprintf(w, "signing key %s is to follow when the root has signed (`sennit ca cancel` takes it back)\n", a.NextSigning)
	}
	if r := a.Rotation; r != nil {
		fmt.Fprintf(w, "the %s is being rotated, from %s to %s: %s\n", r.Of, r.From, r.To, rotationProgress(a))
		if !r.Withdraw.IsZero() {
			fmt.Fprintf(w, "the old one is withdrawn in %s, when nothing hangs on it any more (sooner: `sennit ca withdraw --force`)\n", until(r.Withdraw, now))
		}
	}
	return err
}

// rotationProgress is one line about how far nodes have come.
func rotationProgress(a *report.Authority) string {
	done := "renewed"
	if a.Rotation.Of == "bus operator" && a.Rotation.Phase == report.Announced {
		return a.Rotation.Phase + ", the controller starts again"
	}
	if a.Rotation.Phase == report.Announced {
		done = "know of the new one"
	}
	text := fmt.Sprintf("%s, %d of %s %s", a.Rotation.Phase, a.Nodes.Done, counted(a.Nodes.Total, "node"), done)
	if len(a.Nodes.Waiting) > 0 {
		text += ", waiting for " + listed(a.Nodes.Waiting)
	}
	if len(a.Nodes.Away) > 0 {
		text += ", away: " + listed(a.Nodes.Away)
	}
	return text
}

func caRotateCommand() *cobra.Command {
	var conn connection
	var root, intermediate, signing, busKeys, ownRoot, dryRun, noWait bool
	var timeout time.Duration
	var to string
	cmd := &cobra.Command{
		Use: "rotate --root|--intermediate|--signing|--bus", Short: "Replace the root, the intermediate, the signing key or the keys of the bus while everything runs",
		Long: `Rotate replaces the root, with the intermediate under it, or the intermediate alone. The controller takes the steps, also
when this command is interrupted or the controller is restarted meanwhile:

1. A new root is made, and every node is told to trust it beside the old one.
2. When all nodes that are alive know of it, it signs, and nodes renew their certificates, spread over a while.
3. When the last certificate that hangs on the old one has ended, it is withdrawn.

With --signing it is the key that signs configuration, receipts, the audit and answers to nodes, in the same steps. Where the
root's key is kept elsewhere, the root agrees first: the command writes what ` + "`sennit ca sign`" + ` is to sign there, and the rotation
begins with ` + "`sennit ca accept`" + `.

With --bus it is all keys of the bus: of its operator and its accounts, which make the users with which controllers and nodes
connect. The controller starts again with the new ones, which takes it some seconds, and nodes renew. Users of nodes of before
may do what they might until the third step, and then ask to renew, so that who was away for long comes back by himself.
Where a key is in wrong hands, end that with ` + "`sennit ca withdraw --force`" + `.

Where the controller is set to an authority outside of the mesh (--upstream-ca), --intermediate asks it for the new one, and
nodes are told to trust its roots in the first step. With --own-root, or where the controller is set to none any more, the
mesh's own root certifies again.

The command returns after the second step. Nothing that runs is ended: certificates, join tokens and kubeconfigs of before
are good until the third. Where the root's key is kept elsewhere, or the next one's is to be, begin with ` + "`sennit ca request --next-root`" + `
or ` + "`--online-root`" + `, and the rest goes on by itself. A backup of before the second step is worth nothing after it: make a new one.`,
		Example: `  sennit ca rotate --root --dry-run        # what would happen
  sennit ca rotate --root
  sennit ca rotate --intermediate
  sennit ca rotate --signing
  sennit ca rotate --bus
  sennit ca status                         # how far it has come`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var chosen []string
		for of, is := range map[string]bool{"root": root, "intermediate": intermediate, "signing key": signing, "bus operator": busKeys} {
			if is {
				chosen = append(chosen, of)
			}
		}
		if len(chosen) != 1 {
			return misused(cmd, "say which with --root, --intermediate, --signing or --bus")
		}
		of := chosen[0]
		if ownRoot && !intermediate {
			return misused(cmd, "--own-root goes with --intermediate")
		}
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		a, err := c.Authority(cmd.Context())
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		if out.structured() {
			w = cmd.ErrOrStderr()
		}
		if a.Rotation == nil {
			previewRotation(w, a, of)
		}
		if signing && a.Offline && !dryRun {
			if err := mustBeNew(to); err != nil {
				return err
			}
			file, err := c.RootRequest(cmd.Context(), report.RootRequest{Signing: true})
			if err != nil {
				return err
			}
			return writeRequest(cmd, out, to, file, nil)
		}
		if !dryRun {
			if err := c.Rotate(cmd.Context(), report.Rotate{Of: of, OwnRoot: ownRoot}); err != nil {
				return err
			}
		}
		if !dryRun && !noWait {
			if err := followRotation(cmd.Context(), w, timeout, c.Authority); err != nil {
				return err
			}
		}
		return authorityResult(cmd, out, c, "")
	}
	cmd.Flags().BoolVar(&root, "root", false, "replace the root, and the intermediate with it")
	cmd.Flags().BoolVar(&intermediate, "intermediate", false, "replace the intermediate alone")
	cmd.Flags().BoolVar(&signing, "signing", false, "replace the key that signs configuration")
	cmd.Flags().BoolVar(&busKeys, "bus", false, "replace the keys of the bus's operator and accounts")
	cmd.Flags().BoolVar(&ownRoot, "own-root", false, "have the mesh's own root certify the intermediate, also where the controller is set to an authority outside")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would happen, and change nothing")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once it has begun")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for nodes")
	cmd.Flags().StringVar(&to, "to", "request.pem", "with --signing, where the root's key is kept elsewhere: file that is made")
	conn.flags(cmd)
	return cmd
}

func previewRotation(w io.Writer, a *report.Authority, of string) {
	if of == "signing key" {
		if a.Offline {
			fmt.Fprintln(w, "the root, whose key is kept elsewhere, is asked to agree")
		}
		fmt.Fprintf(w, "a new signing key is believed beside %s by %s, and then signs everything that is stored again\n", a.SigningKey, counted(a.Nodes.Total, "node"))
		fmt.Fprintf(w, "%s renew, so that their receipts are signed by it\n", counted(a.Nodes.Total, "node"))
		fmt.Fprintf(w, "%s is withdrawn at most %s later\n", a.SigningKey, a.TTL)
		return
	}
	if of == "bus operator" {
		fmt.Fprintf(w, "the controller starts again with new keys of the bus in the place of those of %s, and %s renew\n", a.BusOperator, counted(a.Nodes.Total, "node"))
		fmt.Fprintf(w, "users of nodes that the old ones made may only renew at most %s later\n", a.TTL)
		return
	}
	old := a.Intermediate
	if a.Upstream != nil {
		old = a.Upstream.Issuer
	}
	if of == "root" {
		old = a.Root
		fmt.Fprintf(w, "a new root is trusted beside %s (%s) by %s\n", old.Key, old.Name, counted(a.Nodes.Total, "node"))
	}
	fmt.Fprintf(w, "a new %s signs, and %s renew\n", of, counted(a.Nodes.Total, "node"))
	fmt.Fprintf(w, "%s %s is withdrawn when the last certificate that hangs on it has ended, at most %s later\n", of, old.Key, a.TTL)
}

// followRotation shows how far a rotation comes, until all nodes that are alive have renewed.
func followRotation(ctx context.Context, w io.Writer, timeout time.Duration, ask func(context.Context) (*report.Authority, error)) error {
	const every, restart = 300 * time.Millisecond, 30 * time.Second
	end, shown := time.Now().Add(timeout), ""
	heard := time.Now()
	for {
		a, err := ask(ctx)
		switch {
		case err == nil:
			heard = time.Now()
		case ctx.Err() == nil && time.Since(heard) < restart: // the controller may be starting again
			time.Sleep(every)
			continue
		default:
			return err
		}
		if a.Rotation == nil {
			fmt.Fprintln(w, "done: the old one is withdrawn")
			return nil
		}
		if text := rotationProgress(a); text != shown {
			shown = text
			fmt.Fprintln(w, text)
		}
		if a.Rotation.Phase == report.Renewing && len(a.Nodes.Waiting) == 0 {
			fmt.Fprintf(w, "the old one is withdrawn at %s\n", a.Rotation.Withdraw.Local().Format(time.DateTime))
			if a.BackupNeeded {
				fmt.Fprintln(w, "take a backup now: those of before this cannot be restored any more")
			}
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("nodes have not come so far within %s: %s (the controller goes on; `sennit ca status` shows how far it is)", timeout, listed(a.Nodes.Waiting))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (the controller goes on; `sennit ca status` shows how far it is)", ctx.Err())
		case <-time.After(every):
		}
	}
}

func caWithdrawCommand() *cobra.Command {
	var conn connection
	var force bool
	cmd := &cobra.Command{
		Use: "withdraw", Short: "End the trust in what a rotation replaced",
		Long: `Withdraw ends the trust in what a rotation replaced. The controller does it by itself when the last certificate that hangs
on it has ended. With --force it is done at once: where the key of the old one is in wrong hands. Nodes that have not
renewed then can neither call nor be called until they have, and connections of before are closed.`,
		Example: `  sennit ca withdraw --force`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		if err := c.Withdraw(cmd.Context(), force); err != nil {
			return err
		}
		return authorityResult(cmd, out, c, "withdrawn")
	}
	cmd.Flags().BoolVar(&force, "force", false, "also where certificates hang on it that have not ended")
	conn.flags(cmd)
	return cmd
}

// authorityResult says what was done, or how the authority is then.
func authorityResult(cmd *cobra.Command, out *format, c *client.Client, done string) error {
	if out.structured() {
		a, err := c.Authority(cmd.Context())
		if err != nil {
			return err
		}
		return out.write(cmd.OutOrStdout(), a)
	}
	if done != "" {
		fmt.Fprintln(cmd.OutOrStdout(), done)
	}
	return nil
}

func caCancelCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use: "cancel", Short: "Take back what was asked for or announced, and signs nothing yet",
		Example: `  sennit ca cancel`,
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		if err := c.CancelRotation(cmd.Context()); err != nil {
			return err
		}
		return authorityResult(cmd, out, c, "cancelled")
	}
	conn.flags(cmd)
	return cmd
}
