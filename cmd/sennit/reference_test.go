package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

//go:generate go test -run TestReference . -args -write-reference

var writeReference = flag.Bool("write-reference", false, "write docs/reference/commands.md anew")

const referenceFile = "../../docs/reference/commands.md"

// TestReference keeps docs/reference/commands.md what the commands say of themselves.
func TestReference(t *testing.T) {
	got := commandsReference()
	if *writeReference {
		if err := os.WriteFile(referenceFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	written, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(written) != got {
		t.Errorf("docs/reference/commands.md is not what the commands say: run `go generate ./cmd/sennit`")
	}
}

// commandsReference describes every command.
func commandsReference() string {
	var b strings.Builder
	b.WriteString(`<!-- Made by go generate ./cmd/sennit from what the commands say of themselves. Do not edit. -->

# Commands

Defaults of paths are those of root. For other users state is below ` + "`~/.local/state/sennit`" + `, services.d is
` + "`~/.config/sennit/services.d`" + `, and sockets are in ` + "`$XDG_RUNTIME_DIR/sennit`" + `, or ` + "`~/.local/state/sennit`" + `
where that is not set.
`)
	describe(&b, newRoot())
	return b.String()
}

func describe(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.IsAvailableCommand() && cmd.HasParent() || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n", cmd.CommandPath(), strings.TrimSpace(long))
	if cmd.Runnable() && cmd.HasParent() {
		fmt.Fprintf(b, "\n    %s\n", cmd.UseLine())
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", dedent(cmd.Example))
	}
	var rows []string
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |\n", name, cell(hostless(f.Usage)), cell(shownDefault(cmd, f))))
	})
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| flag | meaning | default |\n|---|---|---|\n%s", strings.Join(rows, ""))
	}
	for _, c := range cmd.Commands() {
		describe(b, c)
	}
}

// dedent takes the two spaces away that help shows in front of examples.
func dedent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

var angled = regexp.MustCompile(`<([^>]*)>`)

// cell escapes what tables of Markdown would take for their own.
func cell(text string) string {
	return angled.ReplaceAllString(strings.NewReplacer("|", `\|`, "\n", " ").Replace(text), "&lt;$1&gt;")
}

// hostless replaces this user's paths by those of root.
func hostless(text string) string {
	for _, daemon := range []string{"controller", "node"} {
		text = strings.ReplaceAll(text, report.SocketPath(daemon), "/run/sennit/"+daemon+".sock")
	}
	return text
}

// shownDefault is a flag's default, the same on every machine.
func shownDefault(cmd *cobra.Command, f *pflag.Flag) string {
	switch cmd.Name() + " " + f.Name {
	case "controller state-dir", "node state-dir":
		return "`/var/lib/sennit/" + cmd.Name() + "`"
	case "node services-dir":
		return "`/etc/sennit/services.d`"
	case "controller name":
		return "the host's name"
	}
	switch f.DefValue {
	case "", "[]", "false":
		return ""
	}
	return "`" + hostless(f.DefValue) + "`"
}
