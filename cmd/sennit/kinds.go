package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// findKind returns the kind that people name: httproutes, httproute, HTTPRoute, svc, or with its group.
func findKind(name string) (*api.Kind, bool) {
	lower := strings.ToLower(name)
	for _, k := range api.Kinds() {
		for _, n := range append([]string{k.Plural, k.Singular}, k.Short...) {
			if lower == n || lower == n+"."+k.Group {
				return k, true
			}
		}
	}
	return nil, false
}

// kindNames lists all kinds as people may name them.
func kindNames() string {
	var names []string
	for _, k := range api.Kinds() {
		n := k.Plural
		if len(k.Short) > 0 {
			n += " (" + strings.Join(k.Short, ", ") + ")"
		}
		names = append(names, n)
	}
	return strings.Join(names, ", ")
}

// parseTargets reads `KIND [NAME...]` or `KIND/NAME...`.
func parseTargets(cmd *cobra.Command, args []string) (*api.Kind, []string, error) {
	kindName, names := args[0], args[1:]
	if k, name, ok := strings.Cut(args[0], "/"); ok {
		kindName, names = k, []string{name}
		for _, arg := range args[1:] {
			other, name, ok := strings.Cut(arg, "/")
			if !ok || other != k {
				return nil, nil, misused(cmd, "%q is not of the form %s/NAME, as the one before it is", arg, k)
			}
			names = append(names, name)
		}
	}
	k, ok := findKind(kindName)
	if !ok {
		return nil, nil, misused(cmd, "there is no kind %q; the kinds are: %s", kindName, kindNames())
	}
	if slices.Contains(names, "") {
		return nil, nil, misused(cmd, "a %s's name must not be empty", k.Singular)
	}
	return k, names, nil
}

// reference is how a document is called in what is printed: httproute/orders.
func reference(k *api.Kind, name string) string { return k.Singular + "/" + name }

// placed is a reference with the namespace where that is not the default one.
func placed(k *api.Kind, namespace, name string) string {
	if !k.Namespaced || namespace == defaultNamespace {
		return reference(k, name)
	}
	return fmt.Sprintf("%s in namespace %s", reference(k, name), namespace)
}

const defaultNamespace = "default"

func namespaceFlag(cmd *cobra.Command, to *string, use string) {
	cmd.Flags().StringVarP(to, "namespace", "n", defaultNamespace, use)
}

// completeTargets completes kinds, and then the names that there are.
func completeTargets(conn *connection, namespace *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var out []string
		if len(args) == 0 {
			for _, k := range api.Kinds() {
				out = append(out, k.Plural)
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		}
		k, ok := findKind(args[0])
		c, err := conn.open(cmd)
		if !ok || err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c.Warn = nil
		for _, name := range names(c, client.Target{Kind: k, Namespace: *namespace}) {
			if !slices.Contains(args[1:], name) {
				out = append(out, name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
