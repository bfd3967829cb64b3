package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sennit-mesh/sennit/cmd/sennit/client"
	"github.com/sennit-mesh/sennit/pkg/api"
)

// A changing command shows what it would change, asks, and may wait until nodes have applied it.
type changing struct {
	dryRun, yes, wait bool
	timeout           time.Duration
}

func (c *changing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&c.dryRun, "dry-run", false, "show what would change, change nothing")
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&c.wait, "wait", false, "return when every node that uses what changed has applied it")
	f.DurationVar(&c.timeout, "timeout", time.Minute, "how long --wait waits")
}

func (c *changing) checkTimeout(cmd *cobra.Command) error {
	if c.timeout <= 0 {
		return misused(cmd, "--timeout must be more than 0, is %s", c.timeout)
	}
	return nil
}

// confirm asks on a terminal; elsewhere --yes is needed.
func (c *changing) confirm(cmd *cobra.Command, question string) error {
	if c.yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return misused(cmd, "nobody can be asked here: say --yes to change what is shown, or --dry-run to see it only")
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, _ := bufio.NewReader(in).ReadString('\n') // none is no
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// await waits, with --wait, until every node has applied what is newest now.
func (c *changing) await(cmd *cobra.Command, of *client.Client) error {
	if !c.wait {
		return nil
	}
	_, newest, err := of.List(cmd.Context(), client.Target{Kind: api.Namespace}) // a deletion answers no version
	if err != nil {
		return err
	}
	version, err := strconv.ParseUint(newest, 10, 64)
	if err != nil {
		return fmt.Errorf("the controller answers what is no version: %w", err)
	}
	return awaitNodes(cmd.Context(), cmd, of, version, c.timeout)
}
