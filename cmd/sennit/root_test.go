package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sennit-mesh/sennit/pkg/api/report"
)

// Every command says what it is for and shows examples that it understands, and prints what programs can read.
func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	root := newRoot()
	each(root, func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if ours := !strings.HasPrefix(path, "sennit completion") && path != "sennit help"; ours {
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("%s: the short help is %q", path, cmd.Short)
			}
			if cmd.Example == "" {
				t.Errorf("%s has no example", path)
			}
			daemon := path == "sennit node" || path == "sennit controller" || strings.HasPrefix(path, "sennit demo")
			if cmd.HasParent() && !cmd.HasSubCommands() && !daemon && cmd.Flags().Lookup("output") == nil {
				t.Errorf("%s has no -o", path)
			}
		}
		for line := range strings.Lines(cmd.Example) {
			example, _, _ := strings.Cut(line, " #")
			for part := range strings.SplitSeq(example, "|") {
				for command := range strings.SplitSeq(part, "&&") {
					understood(t, path, strings.Fields(command))
				}
			}
		}
	})
}

// understood checks that an example names a command that is there, with flags that it has.
func understood(t *testing.T, path string, words []string) {
	t.Helper()
	if len(words) == 0 || words[0] != "sennit" {
		return
	}
	cmd, rest, err := newRoot().Find(words[1:])
	if err != nil {
		t.Errorf("%s: example %q: %v", path, words, err)
		return
	}
	for i, word := range rest {
		if word == ">" {
			rest = rest[:i]
			break
		}
	}
	if err := cmd.ParseFlags(rest); err != nil {
		t.Errorf("%s: example %q: %v", path, words, err)
		return
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil && cmd.HasParent() {
		t.Errorf("%s: example %q: %v", path, words, err)
	}
}

func each(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		each(c, f)
	}
}

// Columns stay aligned when later rows are wider, and no line ends in spaces.
func TestTablesStayAligned(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	rows := &table{out: &b}
	for _, batch := range [][][]string{{{"NAME", "AGE"}, {"a", "1s"}}, {{"longer-name", "2s"}}, {{"ß", "3s"}}} {
		if err := rows.print(batch); err != nil {
			t.Fatal(err)
		}
	}
	want := "NAME   AGE\na      1s\nlonger-name   2s\nß             3s\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// What --wait says has a subject at every moment.
func TestProgressOfAChange(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		at   report.Progress
		want string
	}{
		{"nothing is known yet", report.Progress{}, "waiting for the controller to compile it"},
		{"all have what was there before it was compiled", report.Progress{Interested: 3, Applied: 3}, "waiting for the controller to compile it"},
		{"one is missing", report.Progress{Interested: 3, Applied: 2, Waiting: []string{"b"}}, "applied by 2 of 3 nodes, waiting for b"},
		{"nobody uses it", report.Progress{Done: true}, "no node uses it"},
		{"all have it", report.Progress{Interested: 1, Applied: 1, Done: true}, "applied by 1 node"},
	} {
		if got := progress(tt.at); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
