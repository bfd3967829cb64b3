package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

func graphCommand() *cobra.Command {
	var (
		conn connection
		by   = &format{is: report.ByVersion, allowed: []string{report.ByService, report.ByVersion, report.ByNode}}
		out  *format
	)
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Show who calls whom: rate, failures and latencies",
		Long: `Graph shows who called whom within the last ten seconds, as the callers' nodes saw it: how often, what share failed
(an answer of 500 or more, or none of the service's), and how long half, nine of ten and 99 of 100 took at most. Of a
connection that is not looked into, that is how long it was open.

-o dot is for Graphviz, -o mermaid for Markdown.`,
		Example: `  sennit graph
  sennit graph --by node                   # an edge for each host that answers
  sennit graph --by service -o dot | dot -Tsvg > mesh.svg
  sennit graph -o json | jq '.[] | select(.success < 0.99)'`,
		GroupID: groupHosts, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := conn.open(cmd)
			if err != nil {
				return err
			}
			edges, err := c.Edges(cmd.Context(), by.is)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			switch out.is {
			case "dot":
				return writeDot(w, edges)
			case "mermaid":
				return writeMermaid(w, edges)
			case "table":
				return showGraph(w, edges, by.is)
			}
			return out.write(w, edges)
		},
	}
	by.flag(cmd, "by", "", "what is told apart: services, versions of what answered, or also the nodes that it runs on")
	out = outputFlag(cmd, "dot", "mermaid")
	conn.flags(cmd)
	return cmd
}

// showGraph prints the edges for people.
func showGraph(w io.Writer, edges []telemetry.GraphEdge, by string) error {
	if len(edges) == 0 {
		_, err := fmt.Fprintln(w, "nobody called anybody within the last ten seconds")
		return err
	}
	header := []string{"CALLER", "CALLEE"}
	if by != report.ByService {
		header = append(header, "ANSWERED BY")
	}
	if by == report.ByNode {
		header = append(header, "NODE")
	}
	rows := [][]string{append(header, "RATE/S", "FAILED", "P50", "P90", "P99")}
	for _, e := range edges {
		row := []string{orDash(e.Caller), e.Callee}
		if by != report.ByService {
			row = append(row, orDash(answered(e)))
		}
		if by == report.ByNode {
			row = append(row, orDash(e.Node))
		}
		rows = append(rows, append(row, fmt.Sprintf("%.1f", e.Rate), failedShare(e), seconds(e.P50), seconds(e.P90), seconds(e.P99)))
	}
	return (&table{out: w}).print(rows)
}

// answered is the service that routing chose, where it is another than the one that was called, and the version.
func answered(e telemetry.GraphEdge) string {
	if e.Backend == e.Callee && e.Version != "" {
		return e.Version
	}
	return strings.TrimSpace(e.Backend + " " + e.Version)
}

func failedShare(e telemetry.GraphEdge) string { return fmt.Sprintf("%.2f %%", 100*(1-e.Success)) }

// seconds is a latency with three digits, which is all that it is good for.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	step := 100 * time.Nanosecond
	for step < time.Second && d >= 1000*step {
		step *= 10
	}
	return d.Round(step).String()
}

// edgeText is what stands beside an arrow.
func edgeText(e telemetry.GraphEdge) string {
	text := fmt.Sprintf("%.1f/s, %s failed, p99 %s", e.Rate, failedShare(e), seconds(e.P99))
	for _, more := range []string{e.Node, answered(e)} {
		if more != "" {
			text = more + ": " + text
		}
	}
	return text
}

// caller is how the graph names who calls; the edge of all that nodes cannot tell apart has none.
func caller(e telemetry.GraphEdge) string { return firstOf(e.Caller, "(others)") }

// dotString is s as a string of the DOT language, in which a backslash begins an escape of Graphviz's own.
var dotString = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ")

// writeDot draws the graph in Graphviz's language.
func writeDot(w io.Writer, edges []telemetry.GraphEdge) error {
	var b strings.Builder
	b.WriteString("digraph mesh {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n")
	for _, e := range edges {
		colour := ""
		if e.Failed > 0 {
			colour = ", color=red, fontcolor=red"
		}
		fmt.Fprintf(&b, "  \"%s\" -> \"%s\" [label=\"%s\"%s];\n", dotString.Replace(caller(e)), dotString.Replace(e.Callee), dotString.Replace(edgeText(e)), colour)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// mermaidString is s inside of quotes in Mermaid, which takes entities there and no backslashes.
var mermaidString = strings.NewReplacer(`"`, "#quot;", "#", "#35;", "\n", " ")

// writeMermaid draws the graph as a Mermaid flowchart.
func writeMermaid(w io.Writer, edges []telemetry.GraphEdge) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	ids := map[string]int{}
	id := func(service string) int {
		n, known := ids[service]
		if !known {
			n = len(ids)
			ids[service] = n
			fmt.Fprintf(&b, "  s%d[\"%s\"]\n", n, mermaidString.Replace(service))
		}
		return n
	}
	for i, e := range edges {
		from, to := id(caller(e)), id(e.Callee)
		fmt.Fprintf(&b, "  s%d -->|\"%s\"| s%d\n", from, mermaidString.Replace(edgeText(e)), to)
		if e.Failed > 0 {
			fmt.Fprintf(&b, "  linkStyle %d stroke:red\n", i)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
