package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

func deleteCommand() *cobra.Command {
	var (
		conn           connection
		files          []string
		namespace      string
		dryRun, ignore bool
		out            *format
	)
	cmd := &cobra.Command{
		Use:   "delete (KIND NAME... | -f FILE)",
		Short: "Delete documents",
		Long: `Delete removes the documents that are named, or those that files hold. Nodes stop to use them as soon as they hear of
it. Deleting a namespace deletes all documents in it.`,
		Example: `  sennit delete httproute orders
  sennit delete -f routes/
  sennit delete service orders payments -n shop --dry-run`,
		GroupID: groupDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			targets, err := deletions(cmd, args, files, namespace)
			if err != nil {
				return err
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			var errs []error
			var gone []map[string]string
			for _, t := range targets {
				err := c.Delete(cmd.Context(), t, dryRun)
				if err != nil && !client.Answered(err) {
					return err
				}
				what := "deleted"
				switch {
				case apierrors.IsNotFound(err) && ignore:
					what = "not there"
				case err != nil:
					errs = append(errs, fmt.Errorf("%s: %w", placed(t.Kind, t.Namespace, t.Name), undeletable(t, err)))
					continue
				}
				if dryRun {
					what += " (dry run)"
				}
				if out.structured() {
					gone = append(gone, map[string]string{"kind": t.Kind.Name, "namespace": t.Namespace, "name": t.Name, "result": what})
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", reference(t.Kind, t.Name), what)
			}
			if out.structured() {
				errs = append(errs, out.write(cmd.OutOrStdout(), gone))
			}
			return errors.Join(errs...)
		},
	}
	cmd.ValidArgsFunction = completeTargets(&conn, &namespace)
	filesFlag(cmd, &files, "file or directory with the documents to delete, or - (may be repeated)")
	namespaceFlag(cmd, &namespace, "namespace of the documents")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would happen, change nothing")
	cmd.Flags().BoolVar(&ignore, "ignore-not-found", false, "a document that is not there is no error")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// deletions lists what is to be deleted, what refers to others first.
func deletions(cmd *cobra.Command, args, files []string, namespace string) ([]client.Target, error) {
	var targets []client.Target
	switch {
	case len(files) > 0 && len(args) > 0:
		return nil, misused(cmd, "name documents, or give -f, not both")
	case len(files) > 0:
		docs, err := readDocuments(cmd.InOrStdin(), files, namespace)
		if err != nil {
			return nil, refused(err)
		}
		for _, d := range docs {
			targets = append(targets, d.target())
		}
		slices.Reverse(targets)
		return targets, nil
	case len(args) == 0:
		return nil, misused(cmd, "say what to delete: KIND NAME, or -f FILE")
	}
	kind, names, err := parseTargets(cmd, args)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, misused(cmd, "say which %s to delete", kind.Singular)
	}
	for _, name := range names {
		t := client.Target{Kind: kind, Name: name}
		if kind.Namespaced {
			t.Namespace = namespace
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// undeletable adds what to do to an error of the server's.
func undeletable(t client.Target, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w (`sennit get %s` lists what there is)", err, t.Kind.Plural)
	case apierrors.IsMethodNotSupported(err):
		return fmt.Errorf("%w (the controller derives it from what hosts register)", err)
	}
	return err
}
