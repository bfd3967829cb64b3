package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// awaitNodes waits until all nodes that use what changed have applied it, and shows how many have: on a terminal in
// one line that changes, elsewhere in a line for each step.
func awaitNodes(ctx context.Context, cmd *cobra.Command, c *client.Client, version uint64, timeout time.Duration) error {
	out := cmd.ErrOrStderr()
	onTerminal := isTerminal(out)
	shown := ""
	last, err := c.Wait(ctx, version, timeout, func(p report.Progress) {
		if text := progress(p); text != shown {
			shown = text
			if onTerminal {
				fmt.Fprintf(out, "\r\x1b[2K%s", cut(text, columns(out)-1)) // a line that wraps could not be replaced
			} else {
				fmt.Fprintln(out, text)
			}
		}
	})
	if onTerminal && shown != "" {
		fmt.Fprintln(out)
	}
	switch {
	case ctx.Err() != nil && last.Interested == 0:
		return errors.New("interrupted before it was known which nodes use it; what was applied stays")
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted while %d of %d nodes had not applied it; what was applied stays", last.Interested-last.Applied, last.Interested)
	case err != nil:
		return fmt.Errorf("wait for the nodes: %w", err)
	case !last.Done:
		return fmt.Errorf("%d of %d nodes have not applied it within %s: %s (what was applied stays, and they get it as soon as they can; `sennit status` shows how they are)",
			last.Interested-last.Applied, last.Interested, timeout, listed(last.Waiting))
	}
	return nil
}

// progress is one line about how far a change has come.
func progress(p report.Progress) string {
	switch {
	case p.Done && p.Interested == 0:
		return "no node uses it"
	case p.Done:
		return fmt.Sprintf("applied by %s", counted(p.Interested, "node"))
	case len(p.Waiting) == 0: // nobody uses what is there, or all have applied what was there before
		return "waiting for the controller to compile it"
	}
	return fmt.Sprintf("applied by %d of %s, waiting for %s", p.Applied, counted(p.Interested, "node"), listed(p.Waiting))
}

// cut shortens text to at most n columns.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n && n > 0 {
		return string(r[:n-1]) + "…"
	}
	return text
}

// listed names the first few.
func listed(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
