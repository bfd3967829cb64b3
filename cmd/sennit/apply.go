package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

// An apply is one run of `sennit apply`.
type apply struct {
	connection
	files                  []string
	namespace              string
	wait, dryRun           bool
	force, serverSide      bool
	timeout                time.Duration
	out                    *format
	client                 *client.Client
	cmd                    *cobra.Command
	docs                   []document
	results                []*unstructured.Unstructured // one for each of docs
	highestResourceVersion uint64
}

func applyCommand() *cobra.Command {
	a := &apply{}
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIRECTORY|-",
		Short: "Apply documents",
		Long: `Apply makes the fields that documents give those of the cluster, and leaves fields that others manage alone.

All documents are checked whole before anything changes: where any is bad, nothing is applied, and everything that is
wrong is named with its file and line. With --wait, the command returns when every node that uses what changed has
applied it, and names those that have not when the time is over; what was applied stays.`,
		Example: `  sennit apply -f orders.yaml
  sennit apply -f routes/ --wait --timeout 30s
  sennit apply -f orders.yaml --dry-run        # what would happen
  sennit get httproute orders -o yaml | sed s/v1/v2/ | sennit apply -f -`,
		GroupID: groupDocuments, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.run(cmd) },
	}
	filesFlag(cmd, &a.files, "file, directory, or - for standard input (may be repeated)")
	namespaceFlag(cmd, &a.namespace, "namespace of documents that name none")
	f := cmd.Flags()
	f.BoolVar(&a.wait, "wait", false, "return when every node that uses what changed has applied it")
	f.DurationVar(&a.timeout, "timeout", time.Minute, "how long --wait waits")
	f.BoolVar(&a.dryRun, "dry-run", false, "say what would happen, change nothing")
	f.BoolVar(&a.force, "force-conflicts", false, "take over fields that others manage")
	f.BoolVar(&a.serverSide, "server-side", true, "apply on the server, the only way that there is")
	a.out = outputFlag(cmd)
	a.flags(cmd)
	return cmd
}

func (a *apply) run(cmd *cobra.Command) error {
	switch {
	case len(a.files) == 0:
		return misused(cmd, "say what to apply with -f FILE, -f DIRECTORY, or -f -")
	case !a.serverSide:
		return misused(cmd, "documents are always applied on the server; leave --server-side=false out")
	case a.timeout <= 0:
		return misused(cmd, "--timeout must be more than 0, is %s", a.timeout)
	}
	var err error
	a.cmd = cmd
	if a.docs, err = readDocuments(cmd.InOrStdin(), a.files, a.namespace); err != nil {
		return refused(err)
	}
	if err := applicable(a.docs); err != nil {
		return refused(err)
	}
	if a.client, err = a.open(cmd); err != nil {
		return err
	}
	ctx := cmd.Context()
	if err := a.rehearse(ctx); err != nil {
		return err
	}
	if !a.dryRun {
		if err := a.perform(ctx); err != nil {
			return err
		}
	}
	if a.out.structured() {
		if err := a.out.write(cmd.OutOrStdout(), asList(a.results)); err != nil {
			return err
		}
	}
	if a.dryRun {
		return nil
	}
	a.warnOfStatus(ctx)
	if a.wait {
		return awaitNodes(ctx, cmd, a.client, a.highestResourceVersion, a.timeout)
	}
	return nil
}

// A refusal is what is wrong with documents, each line with its file and line. Nothing was changed.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() + "\nnothing was changed" }

func (r *refusal) Unwrap() error { return r.err }

func refused(err error) error { return &refusal{err} }

// applicable finds documents of kinds that are made in other ways.
func applicable(docs []document) error {
	var errs []error
	for _, d := range docs {
		if !slices.Contains(d.Kind.Verbs, "patch") {
			errs = append(errs, fmt.Errorf("%s: a %s cannot be applied (%s)", d.at(), d.Kind.Name, insteadOfApply(d)))
		}
	}
	return errors.Join(errs...)
}

func insteadOfApply(d document) string {
	if slices.Contains(d.Kind.Verbs, "create") {
		return "make one with `sennit join-token create`"
	}
	return "the controller derives it from what hosts register"
}

// rehearse asks for every document whether it would be applied, so that all are or none is. In a dry run its
// answers are the result.
func (a *apply) rehearse(ctx context.Context) error {
	c := *a.client
	if !a.dryRun {
		c.Warn = nil // warnings are those of what is done
	}
	var errs []error
	for _, d := range a.docs {
		would, created, err := c.Apply(ctx, d.Kind, d.Written, client.ApplyOptions{DryRun: true, Force: a.force})
		if err != nil && !client.Answered(err) {
			return err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.at(), remedied(err)))
			continue
		}
		a.results = append(a.results, would)
		if !a.dryRun || len(errs) > 0 {
			continue
		}
		verb := "created"
		if !created {
			live, err := c.Get(ctx, d.target())
			if err != nil {
				return err
			}
			if verb = "configured"; sameDocument(live, would) {
				verb = "unchanged"
			}
		}
		a.say(d, verb+" (dry run)")
	}
	if err := errors.Join(errs...); err != nil {
		return refused(err)
	}
	return nil
}

// perform applies every document, behind the rehearsal.
func (a *apply) perform(ctx context.Context) error {
	for i, d := range a.docs {
		now, created, err := a.client.Apply(ctx, d.Kind, d.Written, client.ApplyOptions{Force: a.force})
		if err != nil {
			err = fmt.Errorf("%s: %w", d.at(), remedied(err))
			if left := len(a.docs) - i - 1; left > 0 {
				err = fmt.Errorf("%w\n%d documents were applied, this one and %d more were not; apply again", err, i, left)
			}
			return err
		}
		verb := "configured"
		switch {
		case created:
			verb = "created"
		case now.GetResourceVersion() == a.results[i].GetResourceVersion(): // a dry run answers the version that there is
			verb = "unchanged"
		}
		a.results[i] = now
		if n, err := strconv.ParseUint(now.GetResourceVersion(), 10, 64); err == nil {
			a.highestResourceVersion = max(a.highestResourceVersion, n)
		}
		a.say(d, verb)
	}
	return nil
}

// say prints what became of a document, for people.
func (a *apply) say(d document, what string) {
	if !a.out.structured() {
		fmt.Fprintf(a.cmd.OutOrStdout(), "%s %s\n", d.reference(), what)
	}
}

// remedied adds what to do to an error of the server's.
func remedied(err error) error {
	for _, cause := range causes(err) {
		if cause.Type == "FieldManagerConflict" {
			return fmt.Errorf("%w (leave those fields to who manages them, or take them over with --force-conflicts)", err)
		}
	}
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%w (documents that were read from the cluster carry metadata.resourceVersion; read them again, or remove it)", err)
	}
	return err
}
