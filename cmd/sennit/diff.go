package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

func diffCommand() *cobra.Command {
	var (
		conn    connection
		files   []string
		moments []string
		past    scope
		force   bool
		out     *format
	)
	cmd := &cobra.Command{
		Use:   "diff (-f FILE|DIRECTORY|- | --at REVISION|TIME [--at REVISION|TIME] [KIND [NAME...]])",
		Short: "Show what applying documents would change, or what was changed",
		Long: `Diff asks the controller what documents would be if they were applied, and shows how that differs from what they are.
With --at, it shows how documents differ between then and now, or between two such moments: all of them but operators' roles, those of a
kind, or those that are named. Nothing is changed. The exit code is 1 where there are differences.`,
		Example: `  sennit diff -f orders.yaml
  sennit diff -f routes/ && echo "nothing to apply"
  sennit diff --at 30m                          # what has changed in the last half hour
  sennit diff --at 41 --at 42 httproute orders`,
		GroupID: groupDocuments,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(files) == 0 && len(moments) == 0:
				return misused(cmd, "say what to compare with -f FILE, -f DIRECTORY, or -f -, or with --at a revision or time")
			case len(files) > 0 && len(moments) > 0:
				return misused(cmd, "give -f or --at, not both")
			case len(files) > 0 && (len(args) > 0 || past.all):
				return misused(cmd, "what -f compares stands in the files: leave out kinds, names and -A")
			case len(moments) > 2:
				return misused(cmd, "two moments can be compared, not %d", len(moments))
			case len(moments) > 0:
				if err := past.read(cmd, args); err != nil {
					return err
				}
				c, err := conn.open(cmd)
				if err != nil {
					return err
				}
				return diffRevisions(cmd, c, &past, moments, out)
			}
			docs, err := readDocuments(cmd.InOrStdin(), files, past.namespace)
			if err == nil {
				err = applicable(docs)
			}
			if err != nil {
				return refused(err)
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			found, err := differences(cmd, c, docs, force)
			if err != nil {
				return err
			}
			if err := showDifferences(cmd.OutOrStdout(), out, found); err != nil {
				return err
			}
			if len(found) > 0 {
				return errDifferent
			}
			return nil
		},
	}
	filesFlag(cmd, &files, "file, directory, or - for standard input (may be repeated)")
	past.flags(cmd)
	cmd.Flags().Lookup("namespace").Usage = "namespace of documents that name none, or with --at of those to compare"
	cmd.ValidArgsFunction = completeTargets(&conn, &past.namespace)
	cmd.Flags().StringArrayVar(&moments, "at", nil, "a revision's number, as `sennit audit log` shows it, or a time: 2026-01-02T15:04:05Z, or how long ago, as 90m (may be given twice)")
	cmd.Flags().BoolVar(&force, "force-conflicts", false, "as apply would with this flag")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// A difference is a document that applying would change.
type difference struct {
	Document string         `json:"document"`
	Live     map[string]any `json:"live"` // null: there is none
	Applied  map[string]any `json:"applied"`
	diff     []byte
}

// differences compares every document with what applying it would make of it.
func differences(cmd *cobra.Command, c *client.Client, docs []document, force bool) ([]difference, error) {
	ctx := cmd.Context()
	var found []difference
	var errs []error
	for _, d := range docs {
		live, err := c.Get(ctx, d.target())
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
		would, _, err := c.Apply(ctx, d.Kind, d.Written, client.ApplyOptions{DryRun: true, Force: force})
		if err != nil && !client.Answered(err) {
			return nil, err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.at(), remedied(err)))
			continue
		}
		one := difference{Document: d.reference(), Live: compared(live), Applied: compared(would)}
		was, err := text(one.Live)
		if err != nil {
			return nil, err
		}
		is, err := text(one.Applied)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(d.Written.GetNamespace()+"/"+d.reference(), "/")
		if one.diff = diff.Diff("live/"+name, was, "applied/"+name, is); one.diff != nil {
			found = append(found, one)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, refused(err)
	}
	return found, nil
}

// compared is what of a document is compared: what operators write, and not what the server keeps beside it.
func compared(u *unstructured.Unstructured) map[string]any {
	if u == nil {
		return nil
	}
	c := unmanaged(u).Object
	delete(c, "status")
	for _, field := range []string{"uid", "creationTimestamp", "generation", "resourceVersion"} {
		unstructured.RemoveNestedField(c, "metadata", field)
	}
	return c
}

func text(m map[string]any) ([]byte, error) {
	if m == nil {
		return nil, nil
	}
	data, err := yaml.Marshal(masked(m))
	if err != nil {
		return nil, fmt.Errorf("encode a document: %w", err)
	}
	return data, nil
}

func showDifferences(w io.Writer, out *format, found []difference) error {
	if out.structured() {
		return out.write(w, append([]difference{}, found...))
	}
	for _, d := range found {
		if err := printDiff(w, d.diff); err != nil {
			return err
		}
	}
	return nil
}

// coloured gives a line of a diff its usual colour.
func coloured(line string) string {
	code := ""
	switch {
	case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
		code = "1"
	case strings.HasPrefix(line, "@@"):
		code = "36"
	case strings.HasPrefix(line, "-"):
		code = "31"
	case strings.HasPrefix(line, "+"):
		code = "32"
	default:
		return line
	}
	return "\x1b[" + code + "m" + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
}
