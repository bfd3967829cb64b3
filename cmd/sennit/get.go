package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
)

// A get is one run of `sennit get`.
type get struct {
	connection
	namespace, labels string
	at                string
	all, watch        bool
	out               *format
	client            *client.Client
	cmd               *cobra.Command
	rows              *table
}

func getCommand() *cobra.Command {
	g := &get{}
	cmd := &cobra.Command{
		Use:   "get KIND [NAME...]",
		Short: "Show documents",
		Long: `Get shows all documents of a kind in a namespace, or those that are named. What -o yaml prints can be changed and
applied again.

Kinds: ` + kindNames() + ".",
		Example: `  sennit get httproutes
  sennit get services -A -o wide
  sennit get httproute orders -o yaml
  sennit get httproutes --at 30m           # as they were half an hour ago, without status
  sennit get nodes -w                      # and every change from now on, until Ctrl-C`,
		GroupID: groupDocuments, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return g.run(cmd, args) },
	}
	cmd.ValidArgsFunction = completeTargets(&g.connection, &g.namespace)
	namespaceFlag(cmd, &g.namespace, "namespace to look in")
	f := cmd.Flags()
	f.BoolVarP(&g.all, "all-namespaces", "A", false, "look in all namespaces")
	f.StringVarP(&g.labels, "selector", "l", "", "only documents with these labels, as app=orders,tier!=test")
	f.StringVar(&g.at, "at", "", "as it was at a revision, whose number `sennit audit log` shows, or at a time: 2026-01-02T15:04:05Z, or how long ago, as 90m")
	f.BoolVarP(&g.watch, "watch", "w", false, "go on with every change")
	g.out = outputFlag(cmd, "wide")
	g.flags(cmd)
	return cmd
}

func (g *get) run(cmd *cobra.Command, args []string) error {
	kind, names, err := parseTargets(cmd, args)
	switch {
	case err != nil:
		return err
	case g.all && len(names) > 0:
		return misused(cmd, "a name is one namespace's: leave out -A, or say which with -n")
	case g.labels != "" && len(names) > 0:
		return misused(cmd, "give names or labels, not both")
	case g.watch && len(names) > 1:
		return misused(cmd, "-w follows all documents of a kind, or one")
	case g.watch && g.at != "":
		return misused(cmd, "what was does not change: leave out -w or --at")
	}
	if g.at != "" {
		if err := hasHistory(cmd, kind); err != nil {
			return err
		}
	}
	if g.client, err = g.open(cmd); err != nil {
		return err
	}
	g.cmd, g.rows = cmd, &table{out: cmd.OutOrStdout()}
	t := client.Target{Kind: kind, Labels: g.labels}
	if kind.Namespaced && !g.all {
		t.Namespace = g.namespace
	}
	if g.at != "" {
		if t.At, err = revisionOf(cmd, g.client, "--at", g.at); err != nil {
			return err
		}
	}
	version := ""
	if g.out.structured() {
		version, err = g.documents(t, names)
	} else {
		version, err = g.table(t, names)
	}
	if err != nil || !g.watch {
		return err
	}
	if len(names) > 0 {
		t.Name = names[0]
	}
	return g.follow(t, version)
}

// documents prints whole documents, and returns the version that they stand for.
func (g *get) documents(t client.Target, names []string) (string, error) {
	ctx, out := g.cmd.Context(), g.cmd.OutOrStdout()
	if len(names) == 0 {
		all, version, err := g.client.List(ctx, t)
		if err != nil {
			return "", err
		}
		return version, g.out.write(out, wholeList(all))
	}
	var all []*unstructured.Unstructured
	for _, t.Name = range names {
		u, err := g.one(ctx, t)
		if err != nil {
			return "", err
		}
		all = append(all, u)
	}
	return all[0].GetResourceVersion(), g.out.write(out, asList(all))
}

// one returns one document, as it is or as it was.
func (g *get) one(ctx context.Context, t client.Target) (*unstructured.Unstructured, error) {
	if t.At == 0 {
		return g.client.Get(ctx, t)
	}
	found, _, err := g.client.List(ctx, t)
	if err == nil && len(found) == 0 {
		err = wasNotThere(t)
	}
	if err != nil {
		return nil, err
	}
	return found[0], nil
}

// wasNotThere says that a document did not exist at a revision.
func wasNotThere(t client.Target) error {
	return fmt.Errorf("%s was not there at revision %d (`sennit audit log --kind %s --name %s` shows when it was)", placed(t.Kind, t.Namespace, t.Name), t.At, t.Kind.Singular, t.Name)
}

// table prints rows, and returns the version that they stand for.
func (g *get) table(t client.Target, names []string) (string, error) {
	var columns []metav1.TableColumnDefinition
	var rows []metav1.TableRow
	version := ""
	if len(names) == 0 {
		names = []string{""}
	}
	for _, t.Name = range names {
		found, err := g.client.Table(g.cmd.Context(), t)
		if err != nil {
			return "", err
		}
		if t.At > 0 && t.Name != "" && len(found.Rows) == 0 {
			return "", wasNotThere(t)
		}
		columns, rows, version = found.ColumnDefinitions, append(rows, found.Rows...), found.ResourceVersion
	}
	if len(rows) == 0 && !g.watch {
		where := ""
		if t.Namespace != "" {
			where = fmt.Sprintf(" in namespace %s (-A looks in all)", t.Namespace)
		}
		fmt.Fprintf(g.cmd.ErrOrStderr(), "no %s%s\n", t.Kind.Plural, where)
		return version, nil
	}
	lines, err := g.cells(t, columns, rows)
	if err != nil {
		return "", err
	}
	return version, g.rows.print(append([][]string{g.header(t, columns)}, lines...))
}

// follow prints every change behind a version until the user has seen enough.
func (g *get) follow(t client.Target, version string) error {
	ctx := g.cmd.Context()
	var columns []metav1.TableColumnDefinition // the first event brings them
	for {
		err := g.client.Watch(ctx, t, version, !g.out.structured(), func(e client.Event) error {
			if g.out.structured() {
				u := &unstructured.Unstructured{}
				if err := u.UnmarshalJSON(e.Object); err != nil {
					return fmt.Errorf("read an event: %w", err)
				}
				version = u.GetResourceVersion()
				if e.Type == watch.Bookmark {
					return nil
				}
				if g.out.is == "yaml" {
					fmt.Fprintln(g.cmd.OutOrStdout(), "---")
				}
				return g.out.write(g.cmd.OutOrStdout(), unmanaged(u).Object)
			}
			var part metav1.Table
			if err := json.Unmarshal(e.Object, &part); err != nil {
				return fmt.Errorf("read an event: %w", err)
			}
			if len(part.ColumnDefinitions) > 0 {
				columns = part.ColumnDefinitions
			}
			for _, row := range part.Rows {
				meta, err := rowMeta(row)
				if err != nil {
					return err
				}
				version = meta.ResourceVersion
			}
			if e.Type == watch.Bookmark {
				return nil
			}
			rows, err := g.cells(t, columns, part.Rows)
			if err != nil {
				return err
			}
			if e.Type == watch.Deleted {
				for i := range rows {
					rows[i] = append(rows[i], "(deleted)")
				}
			}
			return g.rows.print(rows)
		})
		if ctx.Err() != nil { // Ctrl-C is how a watch ends
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// header names the columns that are shown.
func (g *get) header(t client.Target, columns []metav1.TableColumnDefinition) []string {
	var out []string
	if g.namespaceShown(t) {
		out = append(out, "NAMESPACE")
	}
	for _, c := range columns {
		if g.shown(c) {
			out = append(out, strings.ToUpper(c.Name))
		}
	}
	return out
}

func (g *get) shown(c metav1.TableColumnDefinition) bool {
	return c.Priority == 0 || g.out.is == "wide"
}

func (g *get) namespaceShown(t client.Target) bool { return g.all && t.Kind.Namespaced }

// cells gives the rows' cells of the columns that are shown.
func (g *get) cells(t client.Target, columns []metav1.TableColumnDefinition, rows []metav1.TableRow) ([][]string, error) {
	var out [][]string
	for _, row := range rows {
		var line []string
		if g.namespaceShown(t) {
			meta, err := rowMeta(row)
			if err != nil {
				return nil, err
			}
			line = append(line, meta.Namespace)
		}
		for i, cell := range row.Cells {
			if i < len(columns) && g.shown(columns[i]) {
				line = append(line, fmt.Sprint(cell))
			}
		}
		out = append(out, line)
	}
	return out, nil
}

// rowMeta is the metadata of a row's document.
func rowMeta(row metav1.TableRow) (metav1.ObjectMeta, error) {
	var o metav1.PartialObjectMetadata
	if err := json.Unmarshal(row.Object.Raw, &o); err != nil {
		return o.ObjectMeta, fmt.Errorf("read a row of the table: %w", err)
	}
	return o.ObjectMeta, nil
}
