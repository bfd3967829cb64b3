package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

func operatorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Say who may do what with the mesh, and give out tokens",
		Example: `  sennit operator add alice --role operator --namespace shop
  sennit operator token alice --expires 12h --file alice.kubeconfig
  sennit operator list`,
		GroupID: groupHosts,
	}
	cmd.AddCommand(operatorAddCommand(), operatorListCommand(), operatorTokenCommand(), operatorRevokeCommand(), operatorRemoveCommand())
	return cmd
}

// roles are the names of what operators may do, and the ClusterRole that stands for each in a namespace and everywhere.
var roles = map[string]struct{ within, everywhere string }{
	"viewer":   {"view", "view"},
	"operator": {"edit", "edit"},
	"admin":    {"admin", "cluster-admin"},
}

func operatorAddCommand() *cobra.Command {
	var (
		conn       connection
		role       string
		namespaces []string
		group      bool
	)
	cmd := &cobra.Command{
		Use:   "add NAME --role viewer|operator|admin [--namespace NAMESPACE...]",
		Short: "Give an operator, or a group of them, a role",
		Long: `Add binds somebody to a role, in the namespaces that are named or everywhere. A viewer reads all but Secrets; an operator
writes too, reads Secrets and taps; an admin also gives roles, and everywhere may do everything: nodes, join tokens, tokens of
operators. It writes RoleBindings and ClusterRoleBindings to the ClusterRoles view, edit, admin and cluster-admin; other roles are
documents that 'kubectl create role' or 'sennit apply' makes. Nobody can give what he may not do himself.`,
		Example: `  sennit operator add alice --role operator --namespace shop --namespace bank
  sennit operator add oidc:sre --group --role admin      # a group that the identity provider names`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&role, "role", "", "viewer, operator or admin")
	cmd.Flags().StringArrayVarP(&namespaces, "namespace", "n", nil, "where the role is given (may be repeated; everywhere without)")
	cmd.Flags().BoolVar(&group, "group", false, "NAME is a group")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"viewer", "operator", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		of, known := roles[role]
		if !known {
			return misused(cmd, "--role must be viewer, operator or admin, is %q", role)
		}
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		subject := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: args[0]}
		if group {
			subject.Kind = rbacv1.GroupKind
		}
		meta := metav1.ObjectMeta{Name: bindingName(subject, role)}
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: api.ClusterRoles.Name, Name: of.within}
		if len(namespaces) == 0 {
			ref.Name = of.everywhere
			return bind(cmd, c, out, api.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: []rbacv1.Subject{subject}, RoleRef: ref})
		}
		for _, namespace := range namespaces {
			meta.Namespace = namespace
			if err := bind(cmd, c, out, api.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: []rbacv1.Subject{subject}, RoleRef: ref}); err != nil {
				return err
			}
		}
		return nil
	}
	conn.flags(cmd)
	return cmd
}

// bind stores a binding, whatever it was before, and says so.
func bind(cmd *cobra.Command, c *client.Client, out *format, k *api.Kind, o runtime.Object) error {
	u, err := api.From(k, o)
	if err != nil {
		return err
	}
	now, created, err := c.Apply(cmd.Context(), k, u, client.ApplyOptions{Force: true})
	if err != nil {
		return err
	}
	if out.structured() {
		return out.write(cmd.OutOrStdout(), unmanaged(now).Object)
	}
	what := "was there already"
	if created {
		what = "created"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", documentName(k, now.GetNamespace(), now.GetName()), what)
	return err
}

func documentName(k *api.Kind, namespace, name string) string {
	if namespace != "" {
		return namespace + "/" + k.Singular + "/" + name
	}
	return k.Singular + "/" + name
}

var notInNames = regexp.MustCompile(`[^a-z0-9.-]+`)

// bindingName is the name of the binding by which one subject gets one role. Two that would have the same have a part of
// their hash in it.
func bindingName(s rbacv1.Subject, role string) string {
	whole := strings.ToLower(s.Kind) + "-" + s.Name + "-" + role
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(whole), "-"), "-.")
	if name == whole && len(name) < 200 {
		return name
	}
	sum := sha256.Sum256([]byte(whole))
	return strings.Trim(name[:min(len(name), 200)], "-.") + "-" + hex.EncodeToString(sum[:4])
}

// A given is what one binding gives to one subject.
type given struct {
	Name      string `json:"name"`
	Group     bool   `json:"group,omitempty"`
	Role      string `json:"role"`                // the ClusterRole or Role
	Namespace string `json:"namespace,omitempty"` // "": everywhere
	Binding   string `json:"binding"`
	Tokens    int    `json:"tokens"` // of the operator, that have not expired
}

func operatorListCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List who has which role where, and how many tokens",
		Long: `List shows the bindings of operators and groups to roles, and how many tokens there are for each operator. Operators that have
tokens and no role are listed too, and what an identity provider says of groups is not known here. 'sennit get operatortokens' lists the
tokens themselves.`,
		Example: `  sennit operator list
  sennit get operatortokens -o wide`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		all, err := listOperators(cmd, c)
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), all)
		}
		rows := [][]string{{"OPERATOR", "ROLE", "WHERE", "TOKENS"}}
		for _, g := range all {
			name, where, role, tokens := g.Name, g.Namespace, g.Role, strconv.Itoa(g.Tokens)
			if g.Group {
				name, tokens = "group "+g.Name, "-"
			}
			if where == "" {
				where = "everywhere"
			}
			if role == "" {
				role, where = "none", "-"
			}
			rows = append(rows, []string{name, role, where, tokens})
		}
		return (&table{out: cmd.OutOrStdout()}).print(rows)
	}
	conn.flags(cmd)
	return cmd
}

// listOperators lists all bindings by who is bound.
func listOperators(cmd *cobra.Command, c *client.Client) ([]given, error) {
	tokens, err := tokensOf(cmd, c)
	if err != nil {
		return nil, err
	}
	var all []given
	bound := map[string]bool{}
	for _, k := range []*api.Kind{api.RoleBindings, api.ClusterRoleBindings} {
		items, _, err := c.List(cmd.Context(), client.Target{Kind: k})
		if err != nil {
			return nil, err
		}
		for _, u := range items {
			var b rbacv1.RoleBinding // both have their fields in the same places
			if err := api.As(u, &b); err != nil {
				return nil, err
			}
			for _, s := range b.Subjects {
				g := given{Name: s.Name, Group: s.Kind == rbacv1.GroupKind, Role: b.RoleRef.Name, Namespace: b.Namespace, Binding: b.Name}
				if !g.Group {
					g.Tokens = len(tokens[s.Name])
					bound[s.Name] = true
				}
				all = append(all, g)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		if !bound[name] {
			g := given{Name: name, Tokens: len(tokens[name])}
			if slices.ContainsFunc(tokens[name], func(t api.OperatorToken) bool { return slices.Contains(t.Spec.Groups, "system:masters") }) {
				g.Role = "system:masters" // of a kubeconfig: everything
			}
			all = append(all, g)
		}
	}
	slices.SortStableFunc(all, func(a, b given) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
