package main

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/routing"
)

// An explaining is what `sennit explain` was told.
type explaining struct {
	conn                  connection
	namespace             string
	from, gateway, socket string
	headers               []string
	node                  bool
	out                   *format
}

func explainCommand() *cobra.Command {
	x := &explaining{}
	cmd := &cobra.Command{
		Use:   "explain (--from SERVICE | --gateway GATEWAY) [METHOD] URL",
		Short: "Say what becomes of a request, and why",
		Long: `Explain sends nothing. It says which rule a request matches, why the others do not, which policies it is subject to,
and which instances may get it with which share, from the code that routes requests. The URL's host is the called service:
orders, or orders.shop of namespace shop; its port is 80 where it names none. With --gateway, the request comes from
outside, and the URL is what the client asks for.

The controller answers from what it compiled last, for a node that reaches every instance; it says too whether the service of
each backend lets the caller have the request, with the path as it was asked for and of nobody's token ('sennit authz check'
asks more closely). A node keeps to 32 nodes of a
service that runs on more, and knows what it cannot reach: --node asks the node of this host, which answers from its own
table, for what is called from there.`,
		Example: `  sennit explain --from storefront http://orders/api
  sennit explain --from storefront POST http://orders/api -H x-user:beta
  sennit explain --gateway edge GET https://shop.example.com/cart
  sennit explain --node --from storefront http://orders/api -o json`,
		GroupID: groupHosts, Args: cobra.RangeArgs(1, 2), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: x.run,
	}
	namespaceFlag(cmd, &x.namespace, "namespace of the caller or the gateway, where it names none")
	f := cmd.Flags()
	f.StringVar(&x.from, "from", "", "the service that calls")
	f.StringVar(&x.gateway, "gateway", "", "the Gateway that those outside call")
	f.StringArrayVarP(&x.headers, "header", "H", nil, "'NAME: VALUE' of the request (may be repeated)")
	f.BoolVar(&x.node, "node", false, "ask this host's node, and no controller")
	nodeSocketFlag(cmd, &x.socket)
	x.out = outputFlag(cmd)
	x.conn.flags(cmd)
	return cmd
}

func (x *explaining) run(cmd *cobra.Command, args []string) error {
	q, err := x.question(args)
	if err != nil {
		return misused(cmd, "%w", err)
	}
	var e *routing.Explanation
	if x.node || x.socket != "" {
		e, err = openNode(x.socket).Explain(cmd.Context(), q)
	} else {
		c, openErr := x.conn.open(cmd)
		if openErr != nil {
			return openErr
		}
		e, err = c.Explain(cmd.Context(), q)
	}
	if err != nil {
		return err
	}
	if x.out.structured() {
		return x.out.write(cmd.OutOrStdout(), e)
	}
	return showExplanation(cmd.OutOrStdout(), e)
}

// question reads what is asked.
func (x *explaining) question(args []string) (*routing.Question, error) {
	q := &routing.Question{Method: "GET", Gateway: x.gateway != ""}
	if len(args) == 2 {
		q.Method, args = args[0], args[1:]
	}
	u, err := url.Parse(args[0])
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "tcp" || u.Host == "":
		return nil, fmt.Errorf("a URL is http://SERVICE[:PORT]/PATH, and tcp://SERVICE:PORT of a connection, is %q", args[0])
	case (x.from == "") == (x.gateway == ""):
		return nil, fmt.Errorf("say with --from which service calls, or with --gateway where it comes in")
	}
	q.Scheme, q.Authority, q.Path = u.Scheme, u.Host, u.RequestURI()
	if q.Port = 80; u.Scheme == "https" {
		q.Port = 443
	}
	if u.Port() != "" {
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("the port is a number from 1 to 65535, is %q", u.Port())
		}
		q.Port = uint16(port)
	}
	if q.Fields, err = fieldsOf(x.headers); err != nil {
		return nil, err
	}
	if host, given := q.Fields.Get("host"); given {
		q.Authority = host
		q.Fields.Del("host")
	}
	if q.From, err = x.service(x.from + x.gateway); err != nil {
		return nil, err
	}
	if q.To = q.From; !q.Gateway {
		q.To, err = calledService(u.Hostname(), q.From.Namespace)
	}
	return q, err
}

// fieldsOf reads headers as flags give them.
func fieldsOf(headers []string) (exchange.Fields, error) {
	var fields exchange.Fields
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if name, value = strings.TrimSpace(name), strings.TrimSpace(value); !ok || name == "" {
			return nil, fmt.Errorf("--header must be 'NAME: VALUE', is %q", h)
		}
		fields = append(fields, exchange.Field{Name: name, Value: value})
	}
	return fields, nil
}

func (x *explaining) service(name string) (exchange.ServiceName, error) {
	if !strings.Contains(name, "/") {
		name = x.namespace + "/" + name
	}
	return exchange.ParseServiceName(name)
}

// calledService is whom a host names: orders, orders.shop, or orders.shop.mesh.internal.
func calledService(host, namespace string) (exchange.ServiceName, error) {
	name, rest, _ := strings.Cut(strings.ToLower(host), ".")
	if rest = strings.TrimSuffix(rest, ".mesh.internal"); rest != "" {
		namespace = rest
	}
	return exchange.ParseServiceName(namespace + "/" + name)
}

func showExplanation(w io.Writer, e *routing.Explanation) error {
	switch {
	case e.Rule == "" || e.Status != 0:
		fmt.Fprintf(w, "answered with %d", e.Status)
		if e.Rule != "" {
			fmt.Fprintf(w, " by rule %s", e.Rule)
		}
		if e.Detail != "" {
			fmt.Fprintf(w, ": %s", e.Detail)
		}
		fmt.Fprintln(w)
	default:
		fmt.Fprintf(w, "routed by rule %s\n", e.Rule)
	}
	if e.Timeout > 0 || e.BackendTimeout > 0 {
		fmt.Fprintf(w, "timeouts: %s for all, %s for one attempt\n", orNone(e.Timeout.String()), orNone(e.BackendTimeout.String()))
	}
	for _, p := range e.Policies {
		fmt.Fprintf(w, "%s %s %s\n", p.Kind, p.Name, p.Detail)
	}
	rows := [][]string{{"RULE", "HOSTNAME", "MATCHES", "WHY"}}
	for _, r := range e.Rules {
		matches, why := "no", r.Why
		if r.Matches {
			matches = "yes"
		}
		if r.Decides {
			why = "it decides"
		}
		rows = append(rows, []string{r.Rule, orDash(r.Hostname), matches, why})
	}
	if len(e.Rules) > 0 {
		fmt.Fprintln(w)
		if err := (&table{out: w}).print(rows); err != nil {
			return err
		}
	}
	rows = [][]string{{"BACKEND", "SHARE", "INSTANCE", "NODE", "LABELS"}}
	for _, b := range e.Backends {
		backend := fmt.Sprintf("%s:%d", b.Service, b.Port)
		if b.Status != 0 {
			rows = append(rows, []string{backend, percent(b.Share), fmt.Sprintf("answered with %d: %s", b.Status, b.Detail), "-", "-"})
		}
		for _, i := range b.Instances {
			var labels []string
			for _, name := range slices.Sorted(maps.Keys(i.Labels)) {
				labels = append(labels, name+"="+i.Labels[name])
			}
			rows = append(rows, []string{backend, percent(i.Share), i.Instance, i.Node, orDash(strings.Join(labels, ","))})
		}
	}
	if len(e.Backends) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return (&table{out: w}).print(rows)
}

func orNone(duration string) string {
	if duration == "0s" {
		return "none"
	}
	return duration
}

// percent is a share for people; what was drawn is not more exact.
func percent(share float64) string { return strconv.FormatFloat(share*100, 'f', 1, 64) + " %" }
