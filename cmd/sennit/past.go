package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// A scope is which documents a command is about: all that have a history, of a namespace, of a kind, or some by name.
type scope struct {
	namespace string
	all       bool
	kinds     []*api.Kind // given by read
	names     []string
}

func (s *scope) flags(cmd *cobra.Command) {
	namespaceFlag(cmd, &s.namespace, "namespace of the documents")
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "documents of all namespaces")
}

// read takes the arguments [KIND [NAME...]]. Without a kind, all but roles and their bindings are meant; without -n too,
// documents of all namespaces.
func (s *scope) read(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		s.all = s.all || !cmd.Flags().Changed("namespace")
		s.kinds = slices.DeleteFunc(slices.Clone(api.Kinds()), func(k *api.Kind) bool {
			return k.Derived || k.Group == api.Roles.Group // to undo a change of the mesh must give nobody his rights back
		})
		return nil
	}
	kind, names, err := parseTargets(cmd, args)
	switch {
	case err != nil:
		return err
	case s.all && len(names) > 0:
		return misused(cmd, "a name is one namespace's: leave out -A, or say which with -n")
	}
	s.kinds, s.names = []*api.Kind{kind}, names
	return hasHistory(cmd, kind)
}

// hasHistory refuses kinds of which only the present is kept.
func hasHistory(cmd *cobra.Command, k *api.Kind) error {
	if k.Derived {
		return misused(cmd, "there is no history of %s: they are made from what hosts register; `sennit audit log --kind %s` shows what was done to them", k.Plural, k.Singular)
	}
	return nil
}

// state returns the documents of a scope as they were at a revision, or are now (0), by what they are called.
func (s *scope) state(ctx context.Context, c *client.Client, at uint64) (map[string]found, error) {
	all := map[string]found{}
	for order, k := range s.kinds {
		t := client.Target{Kind: k, At: at}
		if k.Namespaced && !s.all {
			t.Namespace = s.namespace
		}
		items, _, err := c.List(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, u := range items {
			if len(s.names) > 0 && !slices.Contains(s.names, u.GetName()) {
				continue
			}
			if k == api.Namespace && len(s.kinds) > 1 && !s.all && u.GetName() != s.namespace { // of all in one namespace
				continue
			}
			name := strings.TrimPrefix(u.GetNamespace()+"/"+reference(k, u.GetName()), "/")
			all[name] = found{client.Of(k, u), order, u}
		}
	}
	return all, nil
}

// found is a document, and its kind's place among all.
type found struct {
	client.Target
	order    int
	document *unstructured.Unstructured
}

// A revised document differs between two revisions.
type revised struct {
	Document string         `json:"document"` // default/service/orders
	Before   map[string]any `json:"before"`   // null: it was not there
	After    map[string]any `json:"after"`    // null: it is not there
	diff     []byte

	was, is found
}

// between compares two states, in the order in which documents may refer to each other.
func between(beforeName string, before map[string]found, afterName string, after map[string]found) ([]revised, error) {
	names := slices.Sorted(maps.Keys(before))
	for name := range after {
		if _, both := before[name]; !both {
			names = append(names, name)
		}
	}
	var out []revised
	for _, name := range names {
		one := revised{Document: name, was: before[name], is: after[name]}
		one.Before, one.After = compared(one.was.document), compared(one.is.document)
		was, err := text(one.Before)
		if err != nil {
			return nil, err
		}
		is, err := text(one.After)
		if err != nil {
			return nil, err
		}
		if one.diff = diff.Diff(beforeName+"/"+name, was, afterName+"/"+name, is); one.diff != nil {
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b revised) int {
		if n := max(a.was.order, a.is.order) - max(b.was.order, b.is.order); n != 0 {
			return n
		}
		return strings.Compare(a.Document, b.Document)
	})
	return out, nil
}

// stateName is how a state is called in a diff.
func stateName(at uint64) string {
	if at == 0 {
		return "now"
	}
	return fmt.Sprintf("revision-%d", at)
}

// diffRevisions shows how documents differ between two revisions, or one and now.
func diffRevisions(cmd *cobra.Command, c *client.Client, s *scope, moments []string, out *format) error {
	var states []map[string]found
	var names []string
	for _, moment := range moments {
		at, err := revisionOf(cmd, c, "--at", moment)
		if err != nil {
			return err
		}
		state, err := s.state(cmd.Context(), c, at)
		if err != nil {
			return err
		}
		states, names = append(states, state), append(names, stateName(at))
	}
	if len(states) == 1 {
		state, err := s.state(cmd.Context(), c, 0)
		if err != nil {
			return err
		}
		states, names = append(states, state), append(names, stateName(0))
	}
	all, err := between(names[0], states[0], names[1], states[1])
	if err != nil {
		return err
	}
	if out.structured() {
		err = out.write(cmd.OutOrStdout(), append([]revised{}, all...))
	} else {
		err = printRevised(cmd.OutOrStdout(), all)
	}
	if err == nil && len(all) > 0 {
		err = errDifferent
	}
	return err
}

func printRevised(w io.Writer, all []revised) error {
	for _, one := range all {
		if err := printDiff(w, one.diff); err != nil {
			return err
		}
	}
	return nil
}

// printDiff prints a diff, in colours on a terminal.
func printDiff(w io.Writer, d []byte) error {
	colours := isTerminal(w) && os.Getenv("NO_COLOR") == ""
	_, text, _ := bytes.Cut(d, []byte("\n")) // the first line names what the next two do
	for line := range strings.Lines(string(text)) {
		if colours {
			line = coloured(line)
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	return nil
}
