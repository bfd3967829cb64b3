// Package docs holds no code: its tests keep the documentation true. Links lead somewhere, what must be named is
// named, and every command of the tutorial and the how-to pages is run against a real mesh, in the order in which a
// reader would type it.
//
// How a block is run stands behind its language, where it does not show: `console` runs what follows "$ " and compares
// the lines below it, `background` leaves the command running, `eventually` repeats it until it says what is shown,
// `fails` wants an exit code that is not 0, `file=NAME` writes the block to a file, `on=HOST` types it on a host of its
// own (hosts_test.go), and `not-run` says that it cannot be run here; the line above the block then tells readers why.
//
// Start reading at commands_test.go.
package docs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A block is one fenced block of a page.
type block struct {
	page   string
	line   int // of the fence
	lang   string
	words  []string // behind the language
	text   string
	before string // the last line of text above it
}

func (b block) has(word string) bool { return slices.Contains(b.words, word) }

// value returns what a word "name=value" says.
func (b block) value(name string) (string, bool) {
	for _, w := range b.words {
		if v, ok := strings.CutPrefix(w, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// pages are all pages of the documentation, as paths from this folder.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	if len(all) < 30 {
		t.Fatalf("only %d pages were found", len(all))
	}
	return all
}

// read splits a page into its blocks and the rest, with the blocks' lines left empty.
func read(t *testing.T, page string) (blocks []block, prose []string) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	before := ""
	for i, line := range strings.Split(string(data), "\n") {
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &block{page: page, line: i + 1, words: strings.Fields(fence), before: before}
			if len(open.words) > 0 {
				open.lang, open.words = open.words[0], open.words[1:]
			}
		case isFence:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.text += line + "\n"
		case strings.TrimSpace(line) != "":
			before = line
		}
		if open != nil || isFence {
			line = ""
		}
		prose = append(prose, line)
	}
	if open != nil {
		t.Fatalf("%s:%d: the block is not closed", page, open.line)
	}
	return blocks, prose
}
