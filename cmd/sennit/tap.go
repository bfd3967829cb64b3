package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// A tapping is what `sennit tap` was told.
type tapping struct {
	conn         connection
	socket, node string
	local        bool
	wanted       map[string]*string // parts of the filter, by flag
	limit        int
	out          *format
}

func tapCommand() *cobra.Command {
	t := &tapping{wanted: map[string]*string{}, out: &format{is: "table", allowed: []string{"table", "json"}}}
	cmd := &cobra.Command{
		Use:   "tap [SERVICE]",
		Short: "Show requests as they happen",
		Long: `Tap shows each request, and each connection that is not looked into, when it has ended, as the caller's node saw it: who
called whom, what came of it and why, how long it took, and by which rule, instance and lane it went. SERVICE is the called
one, as with --to. Headers, bodies and queries are never shown. Until it is ended, or --limit or an hour is reached, the
nodes that call the service hand over up to 200 a second each; what is more is counted and not shown.

With --local or --node-socket it shows what the callers of this host do, which needs no controller.`,
		Example: `  sennit tap payments
  sennit tap --from orders --code 5xx
  sennit tap payments --method POST --path /charge --limit 1
  sennit tap --local
  sennit tap payments -o json | jq 'select(.duration > 0.1)'`,
		GroupID: groupHosts, Args: cobra.MaximumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: t.run,
	}
	f := cmd.Flags()
	for name, usage := range map[string]string{
		"from": "only calls of this service", "to": "only calls to this service, or that routing sends to it",
		"method": "only requests of this method", "path": "only requests whose path begins so",
		"code": "only answers of this status, as 404, or of a class, as 5xx",
	} {
		t.wanted[name] = f.String(name, "", usage)
	}
	f.StringVar(&t.node, "node", "", "only what this node's callers do")
	f.IntVar(&t.limit, "limit", 0, "end after so many (default: go on)")
	f.BoolVar(&t.local, "local", false, "ask this host's node, and no controller")
	nodeSocketFlag(cmd, &t.socket)
	t.out.flag(cmd, "output", "o", "form of the output; json is a line for each")
	t.conn.flags(cmd)
	return cmd
}

func (t *tapping) run(cmd *cobra.Command, args []string) error {
	filter, err := t.filter(cmd, args)
	if err != nil {
		return err
	}
	if t.limit < 0 {
		return misused(cmd, "--limit is a number from 1 on")
	}
	ctx := cmd.Context() // ends when the command is interrupted
	show := &tapOutput{table: table{out: cmd.OutOrStdout()}, json: t.out.is == "json", left: t.limit, of: wantedOf(filter), notes: cmd.ErrOrStderr()}
	if t.local || t.socket != "" {
		if t.node != "" {
			return misused(cmd, "--node is for a controller; --local asks this host's node")
		}
		err = openNode(t.socket).Tap(ctx, filter, show.line)
	} else {
		c, openErr := t.conn.open(cmd)
		if openErr != nil {
			return openErr
		}
		err = c.Tap(ctx, filter, t.node, show.line)
	}
	if errors.Is(err, errShown) || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // that is how a tap ends
	}
	return err
}

func (t *tapping) filter(cmd *cobra.Command, args []string) (*telemetry.TapFilter, error) {
	if len(args) == 1 {
		if *t.wanted["to"] != "" {
			return nil, misused(cmd, "give SERVICE or --to, which mean the same")
		}
		*t.wanted["to"] = args[0]
	}
	q := map[string][]string{}
	for name, value := range t.wanted {
		if *value != "" {
			q[name] = []string{*value}
		}
	}
	filter, err := telemetry.ParseFilter(q)
	if err != nil {
		return nil, misused(cmd, "%w", err)
	}
	return filter, nil
}

// errShown ends a tap that has shown as many as were wanted.
var errShown = errors.New("all are shown")

// A tapOutput shows lines of a tap.
type tapOutput struct {
	table table
	json  bool
	left  int    // 0: no limit
	of    string // what is wanted, for people
	notes io.Writer
	begun bool
}

func (o *tapOutput) line(l telemetry.TapLine) error {
	switch {
	case l.Dropped > 0:
		fmt.Fprintf(o.notes, "%d more on %s are not shown: there are too many (choose with --path, --code or --method)\n", l.Dropped, l.Node)
	case l.Nodes != nil && len(l.Nodes) == 0:
		fmt.Fprintln(o.notes, strings.TrimSpace("no node has callers "+o.of)+": waiting for one")
	case l.Nodes != nil:
		fmt.Fprintf(o.notes, "tapping %s\n", namesOf(l.Nodes))
	}
	if l.Exchange == nil {
		return nil
	}
	if err := o.exchange(l.Exchange); err != nil {
		return err
	}
	if o.left--; o.left == 0 {
		return errShown
	}
	return nil
}

func (o *tapOutput) exchange(e *telemetry.Tapped) error {
	if o.json {
		out := json.NewEncoder(o.table.out)
		out.SetEscapeHTML(false)
		return out.Encode(e)
	}
	var rows [][]string
	if !o.begun {
		o.begun = true
		rows = [][]string{{"TIME", "NODE", "CALLER", "CALLEE", "REQUEST", "RESULT", "TOOK", "SENT", "RECEIVED", "ANSWERED BY", "LANE", "RULE", "TRACE"}}
	}
	return o.table.print(append(rows, []string{
		e.Time.Local().Format("15:04:05.000"), e.Node, e.Caller, e.Callee, requestOf(e), resultOf(e), seconds(e.Duration),
		strconv.FormatUint(e.BytesSent, 10), strconv.FormatUint(e.BytesReceived, 10), orDash(answeredBy(e)), orDash(e.Lane), orDash(e.Rule), orDash(e.TraceID),
	}))
}

func requestOf(e *telemetry.Tapped) string {
	if e.Protocol != "http" {
		return e.Protocol
	}
	return strings.TrimSpace(e.Method + " " + e.Path)
}

// resultOf is the status that the caller saw, why no service gave it, and what faults did.
func resultOf(e *telemetry.Tapped) string {
	status := ""
	if e.Status > 0 {
		status = strconv.Itoa(e.Status)
	}
	if result := strings.Join(strings.Fields(status+" "+e.Reason+" "+e.Fault), " "); result != "" || e.Protocol == "http" {
		return orDash(result)
	}
	return "closed"
}

// answeredBy is the instance, its version, and where it runs; before them the service, where routing chose another one
// than was called.
func answeredBy(e *telemetry.Tapped) string {
	parts := []string{e.Instance, e.Version}
	if e.Backend != e.Callee {
		parts = []string{e.Backend, e.Instance, e.Version}
	}
	if e.ServedBy != "" {
		parts = append(parts, "on "+e.ServedBy)
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

// wantedOf says whose calls a filter wants, with the namespaces that were not written.
func wantedOf(f *telemetry.TapFilter) string {
	var parts []string
	if f.GetFrom() != "" {
		parts = append(parts, "from "+f.GetFrom())
	}
	if f.GetTo() != "" {
		parts = append(parts, "of "+f.GetTo())
	}
	return strings.Join(parts, " ")
}

// namesOf lists a few nodes.
func namesOf(nodes []string) string {
	const most = 8
	if len(nodes) <= most {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more nodes", strings.Join(nodes[:most], ", "), len(nodes)-most)
}
