package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// A rollback is one run of `sennit rollback`.
type rollback struct {
	connection
	scope
	changing
	to  string
	out *format
}

func rollbackCommand() *cobra.Command {
	r := &rollback{}
	cmd := &cobra.Command{
		Use:   "rollback --to REVISION|TIME [KIND [NAME...]]",
		Short: "Make documents what they were",
		Long: `Rollback makes all documents but operators' roles, those of a kind or namespace, or those that are named, what they were at a revision or a
time: what was changed is changed back, what was deleted is made again, and what was made since is deleted (but
namespaces, which stay). It shows what will change, and asks on a terminal. All is checked before anything changes; a
document that somebody changes meanwhile is left alone, with an error. A rollback is a change like any other: it can be
rolled back.`,
		Example: `  sennit rollback --to 41 --dry-run
  sennit rollback --to 30m httproute payments
  sennit rollback --to 2026-01-02T15:04:05Z -n shop --yes --wait`,
		GroupID: groupDocuments,
		RunE:    func(cmd *cobra.Command, args []string) error { return r.run(cmd, args) },
	}
	cmd.ValidArgsFunction = completeTargets(&r.connection, &r.namespace)
	r.scope.flags(cmd)
	cmd.Flags().StringVar(&r.to, "to", "", "a revision's number, as `sennit audit log` shows it, or a time: 2026-01-02T15:04:05Z, or how long ago, as 90m")
	r.changing.flags(cmd)
	r.out = outputFlag(cmd)
	r.connection.flags(cmd)
	return cmd
}

// A step is what is done to one document.
type step struct {
	Document string `json:"document"`
	Result   string `json:"result"` // "changed back", "made again" or deleted
	target   client.Target
	version  string // of the document now
}

const deleted = "deleted"

func (r *rollback) run(cmd *cobra.Command, args []string) error {
	if r.to == "" {
		return misused(cmd, "say with --to which revision, or what time, to go back to")
	}
	if err := r.checkTimeout(cmd); err != nil {
		return err
	}
	if err := r.read(cmd, args); err != nil {
		return err
	}
	c, err := r.open(cmd)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	to, err := revisionOf(cmd, c, "--to", r.to)
	if err != nil {
		return err
	}
	then, err := r.state(ctx, c, to)
	if err != nil {
		return err
	}
	now, err := r.state(ctx, c, 0)
	if err != nil {
		return err
	}
	changes, err := between(stateName(0), now, stateName(to), then)
	if err != nil {
		return err
	}
	changes = slices.DeleteFunc(changes, func(one revised) bool { return one.After == nil && one.was.Kind == api.Namespace })
	steps := plan(changes)
	if len(steps) == 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "nothing differs from revision %d\n", to)
		return r.show(cmd, steps)
	}
	if !r.out.structured() {
		if err := printRevised(cmd.OutOrStdout(), changes); err != nil {
			return err
		}
	}
	if err := perform(ctx, c, steps, to, true); err != nil {
		return refused(err)
	}
	if r.dryRun {
		for i := range steps {
			steps[i].Result += " (dry run)"
		}
		return r.show(cmd, steps)
	}
	if err := r.confirm(cmd, fmt.Sprintf("change %d documents as shown?", len(steps))); err != nil {
		return err
	}
	if err := perform(ctx, c, steps, to, false); err != nil {
		return fmt.Errorf("%w (roll back again to do the rest)", err)
	}
	if err := r.show(cmd, steps); err != nil {
		return err
	}
	return r.await(cmd, c)
}

// plan is what to do, in order: what others refer to is made before them, and deleted behind them.
func plan(changes []revised) []step {
	var steps, deletions []step
	for _, one := range changes {
		switch {
		case one.After == nil:
			deletions = append(deletions, step{one.Document, deleted, one.was.Target, one.was.document.GetResourceVersion()})
		case one.Before == nil:
			steps = append(steps, step{one.Document, "made again", one.is.Target, ""})
		default:
			steps = append(steps, step{one.Document, "changed back", one.was.Target, one.was.document.GetResourceVersion()})
		}
	}
	slices.Reverse(deletions)
	return append(steps, deletions...)
}

// perform does all steps, or asks whether each could be done.
func perform(ctx context.Context, c *client.Client, steps []step, to uint64, dryRun bool) error {
	var errs []error
	for i, s := range steps {
		var err error
		if s.Result == deleted {
			err = c.Delete(ctx, s.target, dryRun)
		} else {
			_, err = c.Rollback(ctx, s.target, to, s.version, dryRun)
		}
		if err == nil || s.Result == deleted && apierrors.IsNotFound(err) {
			continue
		}
		err = fmt.Errorf("%s: %w", s.Document, err)
		if !dryRun {
			return fmt.Errorf("%w\n%d of %d documents were rolled back", err, i, len(steps))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *rollback) show(cmd *cobra.Command, steps []step) error {
	if r.out.structured() {
		return r.out.write(cmd.OutOrStdout(), append([]step{}, steps...))
	}
	for _, s := range steps {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", s.Document, s.Result)
	}
	return nil
}
