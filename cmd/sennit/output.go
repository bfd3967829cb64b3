package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// A format is the value of -o.
type format struct {
	is      string
	allowed []string
}

// String, Set and Type make a format the value of a flag.
func (f *format) String() string { return f.is }

// Set takes one of the allowed forms.
func (f *format) Set(v string) error {
	if !slices.Contains(f.allowed, v) {
		return fmt.Errorf("must be %s", strings.Join(f.allowed, ", "))
	}
	f.is = v
	return nil
}

// Type is shown in the help.
func (f *format) Type() string { return strings.Join(f.allowed, "|") }

// outputFlag adds -o to a command, with table, yaml and json and more where given.
func outputFlag(cmd *cobra.Command, more ...string) *format {
	f := &format{is: "table", allowed: append(append([]string{"table"}, more...), "yaml", "json")}
	f.flag(cmd, "output", "o", "form of the output")
	return f
}

// flag adds the format to a command's flags; short may be empty.
func (f *format) flag(cmd *cobra.Command, name, short, usage string) {
	cmd.Flags().VarP(f, name, short, usage)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(f.allowed, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that is not there
}

// structured tells whether programs read the output.
func (f *format) structured() bool { return f.is == "json" || f.is == "yaml" }

// write encodes v as the format says, which must be a structured one.
func (f *format) write(w io.Writer, v any) error {
	if f.is == "yaml" {
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode the output: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}

// A table prints rows with aligned columns, and goes on aligned when more rows come later.
type table struct {
	out    io.Writer
	widths []int
}

const gap = 3 // spaces between columns

// print prints rows below those printed before.
func (t *table) print(rows [][]string) error {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", t.widths[i]-len([]rune(cell))+gap))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(t.out, b.String())
	return err
}

// isTerminal tells whether people look at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// columns is how wide the terminal w is.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 80
}

// warner prints each warning once.
func warner(w io.Writer) func(string) {
	said := map[string]bool{}
	return func(text string) {
		if !said[text] {
			said[text] = true
			fmt.Fprintf(w, "warning: %s\n", text)
		}
	}
}
