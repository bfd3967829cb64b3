package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/authz"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

func authzCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "authz",
		Short:   "Ask who may call what",
		Example: `  sennit authz check --from shop/cart --to shop/orders`,
		GroupID: groupHosts, Args: cobra.NoArgs,
	}
	cmd.AddCommand(authzCheckCommand())
	return cmd
}

// errNotAllowed has a script tell by the exit code what people read.
var errNotAllowed = errors.New("the call is not allowed")

func authzCheckCommand() *cobra.Command {
	var (
		conn                connection
		namespace, from, to string
		q                   authz.Question
		out                 *format
	)
	cmd := &cobra.Command{
		Use:   "check --from SERVICE --to SERVICE [--method METHOD] [--path PATH]",
		Short: "Say whether a service may call another, and why",
		Long: `Check sends nothing to the service. It says what the AuthorizationPolicies of a service decide, from the code that nodes
decide with and what the controller compiled last. The path is what the service gets, after its caller's routes. What comes
through a Gateway is from the service of the Gateway's name. It fails where the call is not allowed.`,
		Example: `  sennit authz check --from shop/cart --to shop/orders --method POST --path /orders
  sennit authz check --from shop/cart --to shop/ledger --tcp --port 5432`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []struct {
				flag, given string
				into        *exchange.ServiceName
			}{{"from", from, &q.From}, {"to", to, &q.To}} {
				given := name.given
				if !strings.Contains(given, "/") {
					given = namespace + "/" + given
				}
				var err error
				if *name.into, err = exchange.ParseServiceName(given); err != nil {
					return misused(cmd, "--%s: %w", name.flag, err)
				}
			}
			if q.TCP {
				q.Method, q.Path = "", ""
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			access, err := c.CheckAccess(cmd.Context(), &q)
			if err != nil {
				return err
			}
			if out.structured() {
				err = out.write(cmd.OutOrStdout(), access)
			} else {
				err = showAccess(cmd.OutOrStdout(), access)
			}
			if err == nil && !access.Allowed {
				err = errNotAllowed
			}
			return err
		},
	}
	namespaceFlag(cmd, &namespace, "namespace of the services that name none")
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the service that calls")
	f.StringVar(&to, "to", "", "the service that is called")
	f.StringVar(&q.Method, "method", "GET", "method of the request")
	f.StringVar(&q.Path, "path", "/", "path of the request; /SERVICE/METHOD of a call of gRPC")
	f.Uint16Var(&q.Port, "port", 80, "port of the service")
	f.BoolVar(&q.TCP, "tcp", false, "a connection that nobody looks into, and no request")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// showAccess prints a decision for people.
func showAccess(w io.Writer, a *authz.Answer) error {
	verdict := "allowed"
	switch {
	case !a.Allowed:
		verdict = "denied"
	case a.WouldBeDenied:
		verdict = "allowed, and denied once every dry run is over"
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n", verdict, a.Why); err != nil || len(a.Policies) == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "policies of the service: %s\n", strings.Join(a.Policies, ", "))
	return err
}
