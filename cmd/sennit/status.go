package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

func statusCommand() *cobra.Command {
	var (
		conn   connection
		socket string
		local  bool
		out    *format
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the mesh is, or how this host's node is",
		Long: `Status shows what the controller knows: which nodes are alive, how far each has come with the configuration, what
Gateways nodes run, and what is wrong. Who may view some namespaces alone is shown what is of these. With --local or --node-socket it shows what the node of this host knows of itself, which needs no controller:
its connection to the bus, the services that it runs, its listeners, gateways, lanes and certificates.`,
		Example: `  sennit status
  sennit status --local                    # this host's node
  sennit status -o json | jq '.nodes[] | select(.state != "alive")'`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			if local || socket != "" {
				st, err := openNode(socket).Status(cmd.Context())
				if err != nil {
					return err
				}
				if out.structured() {
					return out.write(w, st)
				}
				return showNode(w, st, time.Now())
			}
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			st, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if out.structured() {
				return out.write(w, st)
			}
			return showCluster(w, st, time.Now())
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "show what this host's node knows of itself")
	nodeSocketFlag(cmd, &socket)
	out = outputFlag(cmd)
	conn.flags(cmd)
	return cmd
}

// showCluster prints the controller's view for people.
func showCluster(w io.Writer, st *report.Cluster, now time.Time) error {
	fmt.Fprintf(w, "cluster %s (%s), controller %s %s, epoch %d, revision %d\n", st.Cluster, st.TrustDomain, st.Controller, st.Version, st.Epoch, st.Revision)
	if len(st.Namespaces) > 0 {
		fmt.Fprintf(w, "what follows is of the namespaces that you may view: %s\n", strings.Join(st.Namespaces, ", "))
	}
	if len(st.Nodes) == 0 && len(st.Namespaces) > 0 {
		fmt.Fprintln(w, "no node may run a service of theirs")
	} else if len(st.Nodes) == 0 {
		fmt.Fprintln(w, "no node has joined (make a token for one with `sennit join-token create --node NAME --service NAMESPACE/NAME`)")
	} else {
		states := map[string]int{}
		rows := [][]string{{"NODE", "STATE", "SINCE", "APPLIED", "BEHIND", "SERVICES", "ADDRESS", "VERSION"}}
		for _, n := range st.Nodes {
			states[n.State]++
			rows = append(rows, []string{
				n.Name, n.State, since(n.Since, now), strconv.FormatUint(n.Applied, 10), strconv.Itoa(n.Behind),
				orDash(strings.Join(n.Services, ",")), orDash(n.Address), orDash(n.Version),
			})
		}
		var counts []string
		for _, state := range []string{report.Alive, report.Lost, report.Unknown} {
			if states[state] > 0 {
				counts = append(counts, fmt.Sprintf("%d %s", states[state], state))
			}
		}
		fmt.Fprintf(w, "%s: %s\n\n", counted(len(st.Nodes), "node"), strings.Join(counts, ", "))
		if err := (&table{out: w}).print(rows); err != nil {
			return err
		}
	}
	if len(st.Gateways) > 0 {
		rows := [][]string{{"GATEWAY", "CLASS", "ADDRESSES", "LISTENERS", "STATE", "WHY"}}
		for _, g := range st.Gateways {
			rows = append(rows, []string{g.Name, g.Class, orDash(strings.Join(g.Addresses, ",")), strings.Join(g.Listeners, ","), g.State, g.Problem})
		}
		fmt.Fprintln(w)
		if err := (&table{out: w}).print(rows); err != nil {
			return err
		}
	}
	return section(w, "warnings", st.Warnings)
}

// showNode prints a node's own view for people.
func showNode(w io.Writer, st *report.Node, now time.Time) error {
	bus := "connected to the bus"
	if !st.Bus.Connected {
		bus = "not connected to the bus; it goes on with what it has"
	}
	if !st.Bus.StaleSince.IsZero() {
		bus += ", configuration stale since " + since(st.Bus.StaleSince, now) + " ago"
	}
	fmt.Fprintf(w, "node %s: %s\n", st.Node, bus)
	var services, listeners, gateways, lanes, certificates [][]string
	for _, s := range st.Services {
		services = append(services, []string{s.Service, s.Instance, healthy(s.Healthy), s.Detail})
	}
	for _, l := range st.Listeners {
		address, state := l.Address, "listening"
		if f := l.Flows; f != nil {
			address += "/udp"
			state = fmt.Sprintf("listening: %d flows, %d datagrams refused, %d dropped", f.Open, f.Refused, f.Dropped)
		}
		listeners = append(listeners, []string{address, l.As, l.To, firstOf(l.Error, state)})
	}
	for _, g := range st.Gateways {
		gateways = append(gateways, []string{g.Gateway, g.Address, strconv.Itoa(g.Connections), strconv.FormatUint(g.Refused, 10), firstOf(g.Error, "listening")})
	}
	for _, l := range st.Lanes {
		lanes = append(lanes, []string{l.From, l.To, l.Node, l.State, orDash(l.Carrier), l.Why})
	}
	for _, c := range st.Certificates {
		certificates = append(certificates, []string{firstOf(c.Service, "(the node)"), until(c.NotAfter, now)})
	}
	for _, part := range []struct {
		header []string
		rows   [][]string
	}{
		{[]string{"SERVICE", "INSTANCE", "HEALTH", "DETAIL"}, services},
		{[]string{"LISTENER", "AS", "TO", "STATE"}, listeners},
		{[]string{"GATEWAY", "ADDRESS", "CONNECTIONS", "REFUSED", "STATE"}, gateways},
		{[]string{"LANE FROM", "TO", "NODE", "STATE", "CARRIER", "WHY"}, lanes},
		{[]string{"CERTIFICATE", "ENDS IN"}, certificates},
	} {
		if len(part.rows) == 0 {
			continue
		}
		fmt.Fprintln(w)
		if err := (&table{out: w}).print(append([][]string{part.header}, part.rows...)); err != nil {
			return err
		}
	}
	return section(w, "problems", st.Problems)
}

// section prints a list under its name, where there is anything.
func section(w io.Writer, name string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n%s:\n- %s\n", name, strings.Join(lines, "\n- "))
	return err
}

func healthy(ok bool) string {
	if ok {
		return "healthy"
	}
	return "unhealthy"
}

func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(0, now.Sub(t)))
}

func until(t, now time.Time) string {
	if !t.After(now) {
		return "ended"
	}
	return duration.HumanDuration(t.Sub(now))
}

func orDash(s string) string { return firstOf(s, "-") }
