package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
	cmd.AddCommand(authzCheckCommand(), authzDenialsCommand(), authzPlaintextCommand())
	return cmd
}

// errNotAllowed has a script tell by the exit code what people read.
var errNotAllowed = errors.New("the call is not allowed")

func authzCheckCommand() *cobra.Command {
	var (
		conn                connection
		namespace, from, to string
		q                   authz.Question
		headers             []string
		token               string
		out                 *format
	)
	cmd := &cobra.Command{
		Use:   "check --from SERVICE --to SERVICE [--method METHOD] [--path PATH]",
		Short: "Say whether a service may call another, and why",
		Long: `Check sends nothing to the service. It says what the AuthorizationPolicies of a service decide, from the code that nodes
decide with and what the controller compiled last. The path is what the service gets, after its caller's routes. What comes
through a Gateway is from the service of the Gateway's name. It fails where the call is not allowed.`,
		Example: `  sennit authz check --from shop/cart --to shop/orders --method POST --path /orders
  sennit authz check --from shop/cart --to shop/ledger --tcp --port 5432
  sennit authz check --from shop/cart --to shop/orders --jwt token.jwt`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []struct {
				flag, given string
				into        *exchange.ServiceName
			}{{"from", from, &q.From}, {"to", to, &q.To}} {
				given := name.given
				if q.Plaintext && name.flag == "from" {
					if given != "" {
						return misused(cmd, "give --from or --plaintext, not both: who shows no identity is nobody")
					}
					continue
				}
				if !strings.Contains(given, "/") {
					given = namespace + "/" + given
				}
				var err error
				if *name.into, err = exchange.ParseServiceName(given); err != nil {
					return misused(cmd, "--%s: %w", name.flag, err)
				}
			}
			if q.Plaintext {
				q.From = q.To // it is not looked at
			}
			if q.TCP {
				q.Method, q.Path, q.Host = "", "", ""
			} else if q.Host == "" {
				q.Host = q.To.Name
			}
			var err error
			if q.Fields, err = fieldsOf(headers); err != nil {
				return misused(cmd, "%w", err)
			}
			if q.Token, q.Claims, err = claimsOf(cmd, token); err != nil {
				return err
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
	f.StringVar(&q.Host, "host", "", "host that the request is for (default: the name of the service)")
	f.StringArrayVarP(&headers, "header", "H", nil, "'NAME: VALUE' of the request (may be repeated)")
	f.StringVar(&q.Node, "node", "", "where the caller runs; without it nobody knows, which counts against it")
	f.StringVar(&q.TrustDomain, "trust-domain", "", "of the caller (default: the cluster's)")
	f.StringVar(&token, "jwt", "", "file with a token of the end user (-: standard input); it is verified where an AuthenticationPolicy is for the service, and believed else")
	f.BoolVar(&q.Plaintext, "plaintext", false, "the caller shows no identity; --from is then not needed")
	f.BoolVar(&q.TCP, "tcp", false, "a connection that nobody looks into, and no request")
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// maxToken bounds what is read of a token, in bytes.
const maxToken = 64 << 10

// claimsOf reads a token in a file, and its claims; "": there is none.
func claimsOf(cmd *cobra.Command, file string) (string, json.RawMessage, error) {
	if file == "" {
		return "", nil, nil
	}
	in := cmd.InOrStdin()
	if file != "-" {
		if strings.Count(file, ".") == 2 && strings.HasPrefix(file, "ey") {
			return "", nil, misused(cmd, "--jwt is a file with the token, or - for standard input: other users of this host see what is given to a command")
		}
		opened, err := os.Open(file)
		if err != nil {
			return "", nil, fmt.Errorf("read the token: %w", err)
		}
		defer opened.Close()
		in = opened
	}
	token, err := io.ReadAll(io.LimitReader(in, maxToken+1))
	if err != nil {
		return "", nil, fmt.Errorf("read the token: %w", err)
	}
	if len(token) > maxToken {
		return "", nil, fmt.Errorf("read the token: it has more than %d bytes", maxToken)
	}
	text := strings.TrimSpace(string(token))
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return "", nil, errors.New("read the token: it has not the three parts of a JWT")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !json.Valid(claims) {
		return "", nil, errors.New("read the token: its second part is no JSON in base64url")
	}
	return text, claims, nil
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
