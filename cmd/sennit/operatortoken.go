package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

func operatorTokenCommand() *cobra.Command {
	var (
		conn    connection
		expires time.Duration
		groups  []string
		file    string
	)
	cmd := &cobra.Command{
		Use:   "token NAME [--expires 12h]",
		Short: "Make a token for an operator",
		Long: `Token makes a bearer token by which the API recognises an operator until it expires or is taken back, and prints it alone, this
once: the controllers keep its hash. With --file it writes a kubeconfig with the token, which nobody else can read. What the operator
may do, roles say ('sennit operator add'); who may make tokens may do whatever any operator may.`,
		Example: `  sennit operator token alice --expires 8h --file alice.kubeconfig
  sennit operator token deploy --expires 720h > token     # for --token-file`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	f := cmd.Flags()
	f.DurationVar(&expires, "expires", 12*time.Hour, "how long the token is good, at most 8760h")
	f.StringArrayVar(&groups, "group", nil, "group that the operator is of (may be repeated)")
	f.StringVar(&file, "file", "", "write a kubeconfig with the token to this file, with mode 0600, and print nothing")
	_ = cmd.MarkFlagFilename("file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case expires <= 0:
			return misused(cmd, "--expires must be more than 0, is %s", expires)
		case file != "" && out.structured():
			return misused(cmd, "--file writes a kubeconfig: leave --output out, or the file")
		}
		u, err := api.From(api.OperatorTokens, &api.OperatorToken{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "operator-"},
			Spec:       api.OperatorTokenSpec{Operator: args[0], Groups: groups, TTL: &metav1.Duration{Duration: expires}},
		})
		if err != nil {
			return err
		}
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		made, err := c.Create(cmd.Context(), api.OperatorTokens, u)
		if err != nil {
			return err
		}
		if out.structured() {
			return out.write(cmd.OutOrStdout(), unmanaged(made).Object)
		}
		var got api.OperatorToken
		if err := api.As(made, &got); err != nil {
			return err
		}
		switch {
		case got.Status.Token == "":
			return errors.New("the controller made a token and did not say it; its log tells why")
		case file == "":
			_, err = fmt.Fprintln(cmd.OutOrStdout(), got.Status.Token)
			return err
		case got.Status.Kubeconfig == "":
			err = errors.New("the controller has no API over TLS (start it with --api ADDRESS:PORT)")
		default:
			err = writeSecret(file, []byte(got.Status.Kubeconfig))
		}
		if err != nil { // nobody has seen it
			return errors.Join(err, c.Delete(cmd.Context(), client.Of(api.OperatorTokens, made), false))
		}
		return nil
	}
	conn.flags(cmd)
	return cmd
}

func operatorRevokeCommand() *cobra.Command {
	var (
		conn     connection
		operator string
	)
	cmd := &cobra.Command{
		Use:   "revoke (TOKEN... | --operator NAME)",
		Short: "Take tokens back",
		Long: `Revoke takes tokens back, those that are named or all of an operator. Who shows one is refused at once, on every controller, and what
is being answered to him ends: watches, taps. The names are those of 'sennit get operatortokens', which the audit shows too.`,
		Example: `  sennit operator revoke 5f3a9c125f3a9c12
  sennit operator revoke --operator alice`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			c, err := conn.open(cmd)
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			c.Warn = nil
			return names(c, client.Target{Kind: api.OperatorTokens}), cobra.ShellCompDirectiveNoFileComp
		},
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&operator, "operator", "", "take back all tokens of this operator")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 0) == (operator == "") {
			return misused(cmd, "name tokens, or an operator with --operator")
		}
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		done := &doneTo{cmd: cmd, out: out}
		if operator != "" {
			return done.end(done.revokeAll(c, operator))
		}
		for _, name := range args {
			if err := done.revoke(c, name); err != nil {
				return done.end(err)
			}
		}
		return done.end(nil)
	}
	conn.flags(cmd)
	return cmd
}

// A doneTo says what was done to documents: line by line, or all together where programs read it.
type doneTo struct {
	cmd *cobra.Command
	out *format
	all []map[string]string
}

func (d *doneTo) say(document, result string) error {
	if d.out.structured() {
		d.all = append(d.all, map[string]string{"document": document, "result": result})
		return nil
	}
	_, err := fmt.Fprintf(d.cmd.OutOrStdout(), "%s %s\n", document, result)
	return err
}

// end says the rest, also where something failed.
func (d *doneTo) end(err error) error {
	if d.out.structured() {
		err = errors.Join(err, d.out.write(d.cmd.OutOrStdout(), d.all))
	}
	return err
}

func (d *doneTo) revoke(c *client.Client, token string) error {
	if err := c.Delete(d.cmd.Context(), client.Target{Kind: api.OperatorTokens, Name: token}, false); err != nil {
		return err
	}
	return d.say("operatortoken/"+token, "taken back")
}

func (d *doneTo) revokeAll(c *client.Client, operator string) error {
	tokens, err := tokensOf(d.cmd, c)
	if err != nil {
		return err
	}
	for _, t := range tokens[operator] {
		if err := d.revoke(c, t.Name); err != nil {
			return err
		}
	}
	return nil
}

// tokensOf lists the tokens that have not expired, by operator.
func tokensOf(cmd *cobra.Command, c *client.Client) (map[string][]api.OperatorToken, error) {
	items, _, err := c.List(cmd.Context(), client.Target{Kind: api.OperatorTokens})
	if err != nil {
		return nil, err
	}
	tokens := map[string][]api.OperatorToken{}
	for _, u := range items {
		var t api.OperatorToken
		if err := api.As(u, &t); err != nil {
			return nil, err
		}
		if t.Status.Expires != nil && t.Status.Expires.After(time.Now()) {
			tokens[t.Spec.Operator] = append(tokens[t.Spec.Operator], t)
		}
	}
	return tokens, nil
}

func operatorRemoveCommand() *cobra.Command {
	var (
		conn  connection
		group bool
	)
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take all tokens and roles from an operator",
		Long: `Remove takes back all tokens of an operator, and takes him out of every binding to a role; a binding that is for nobody then is
deleted. Whom an identity provider lets in keeps the roles of his groups. With --group, a group is taken out of bindings.`,
		Example: `  sennit operator remove alice
  sennit operator remove oidc:interns --group`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.Flags().BoolVar(&group, "group", false, "NAME is a group")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := conn.open(cmd)
		if err != nil {
			return err
		}
		kind, done := rbacv1.UserKind, &doneTo{cmd: cmd, out: out}
		if group {
			kind = rbacv1.GroupKind
		} else if err := done.revokeAll(c, args[0]); err != nil {
			return done.end(err)
		}
		for _, k := range []*api.Kind{api.RoleBindings, api.ClusterRoleBindings} {
			if err := done.unbind(c, k, kind, args[0]); err != nil {
				return done.end(err)
			}
		}
		return done.end(nil)
	}
	conn.flags(cmd)
	return cmd
}

// unbind takes a subject out of all bindings of a kind.
func (d *doneTo) unbind(c *client.Client, k *api.Kind, kind, name string) error {
	items, _, err := c.List(d.cmd.Context(), client.Target{Kind: k})
	if err != nil {
		return err
	}
	for _, u := range items {
		subjects, _ := u.Object["subjects"].([]any)
		var rest []any
		for _, s := range subjects {
			if m, _ := s.(map[string]any); m["kind"] != kind || m["name"] != name {
				rest = append(rest, s)
			}
		}
		what := "deleted"
		switch {
		case len(rest) == len(subjects):
			continue
		case len(rest) > 0:
			u.Object["subjects"] = rest
			_, err = c.Replace(d.cmd.Context(), k, u)
			what = "changed"
		default:
			err = c.Delete(d.cmd.Context(), client.Of(k, u), false)
		}
		if err != nil {
			return err
		}
		if err := d.say(documentName(k, u.GetNamespace(), u.GetName()), what); err != nil {
			return err
		}
	}
	return nil
}
