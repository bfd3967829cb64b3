package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Groups of the commands in `sennit --help`.
const (
	groupDocuments = "documents"
	groupHosts     = "hosts"
	groupRun       = "run"
)

// newRoot returns the command `sennit` with all that is below it.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sennit",
		Short: "A service mesh for hosts",
		Long: `Sennit is a service mesh for hosts: virtual machines, bare metal, and several clusters of them.

On the controller's host, commands reach it by its unix socket and need no token. Elsewhere, name it with --server,
--token-file and --ca-file (or SENNIT_SERVER, SENNIT_TOKEN_FILE and SENNIT_CA_FILE), or with --kubeconfig.

Exit codes: 0 done, 1 failed (for diff: there are differences; for analyze: there are errors), 2 the command was not understood.`,
		Example: `  sennit demo                              # a whole mesh on this machine, nothing to set up
  sennit apply -f routes/ --wait           # apply documents, return when every node has them
  sennit get httproutes                    # what there is
  sennit status                            # how the nodes are`,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddGroup(
		&cobra.Group{ID: groupDocuments, Title: "Documents:"},
		&cobra.Group{ID: groupHosts, Title: "Hosts and services:"},
		&cobra.Group{ID: groupRun, Title: "Daemons:"},
	)
	root.AddCommand(
		applyCommand(), getCommand(), deleteCommand(), diffCommand(), analyzeCommand(), splitCommand(), rollbackCommand(), auditCommand(),
		certsCommand(), revokeCommand(), statusCommand(), graphCommand(), tapCommand(), explainCommand(), authzCommand(), quotaCommand(), joinTokenCommand(), caCommand(), bundleCommand(), serviceCommand(), operatorCommand(), loginCommand(), kubeconfigCommand(),
		demoCommand(), controllerCommand(), nodeCommand(), versionCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// A usageError is a command that was not understood; nothing was done.
type usageError struct {
	err error
	cmd *cobra.Command
}

func (e *usageError) Error() string {
	return fmt.Sprintf("%v (see `%s --help`)", e.err, e.cmd.CommandPath())
}

func (e *usageError) Unwrap() error { return e.err }

// misused makes a usage error of cmd's.
func misused(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), cmd}
}

// strict makes usage errors of what cobra finds wrong with flags and arguments, in cmd and all below it. A command
// that only groups others asks for one of them.
func strict(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{err, cmd} })
	if cmd.HasSubCommands() && (cmd.Run == nil && cmd.RunE == nil || !cmd.HasParent()) {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				hint := ""
				if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
					hint = "; did you mean " + strings.Join(near, " or ") + "?"
				}
				return misused(cmd, "there is no command %q%s", cmd.CommandPath()+" "+args[0], hint)
			case cmd.HasParent():
				var names []string
				for _, c := range cmd.Commands() {
					if c.IsAvailableCommand() {
						names = append(names, c.Name())
					}
				}
				return misused(cmd, "say which: %s %s", cmd.CommandPath(), strings.Join(names, "|"))
			}
			return nil
		}
		if cmd.HasParent() {
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err, cmd}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
}

// errDifferent is diff's result where something is different: exit code 1, and nothing to say.
var errDifferent = errors.New("there are differences")

// errFound is analyze's result where it found an error, which it showed: exit code 1 likewise.
var errFound = errors.New("there are errors")

// exitCode tells people what was wrong, and is the process's exit code.
func exitCode(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errDifferent) || errors.Is(err, errFound) {
		return 1
	}
	var refused *refusal
	var misuse *usageError
	switch {
	case errors.As(err, &refused): // editors look for file:line at the beginning of a line
		fmt.Fprintln(stderr, err)
	case errors.As(err, &misuse):
		fmt.Fprintf(stderr, "sennit: %v\n", err)
		return 2
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "sennit: interrupted")
	default:
		fmt.Fprintf(stderr, "sennit: %v\n", err)
	}
	return 1
}
