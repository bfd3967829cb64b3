package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	code    = regexp.MustCompile("`[^`]*`")
	dropped = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
)

// TestLinksLeadSomewhere follows every relative link, to its heading where it names one.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	followed := 0
	for _, page := range pages(t) {
		_, prose := read(t, page)
		for i, line := range prose {
			for _, found := range link.FindAllStringSubmatch(code.ReplaceAllString(line, ""), -1) {
				target := found[1]
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				followed++
				path, fragment, _ := strings.Cut(target, "#")
				file := page
				if path != "" {
					file = filepath.Join(filepath.Dir(page), filepath.FromSlash(path))
				}
				if _, err := os.Stat(file); err != nil {
					t.Errorf("%s:%d: %s leads nowhere", page, i+1, target)
					continue
				}
				if fragment != "" && !anchors(t, file)[fragment] {
					t.Errorf("%s:%d: %s has no heading #%s", page, i+1, file, fragment)
				}
			}
		}
	}
	if followed < 50 {
		t.Errorf("only %d links were found", followed)
	}
}

// TestEveryPageIsLinked finds pages that nobody can reach by reading on.
func TestEveryPageIsLinked(t *testing.T) {
	t.Parallel()
	fromRoot := func(elements ...string) string { return filepath.Join(append([]string{"docs"}, elements...)...) }
	linked := map[string]bool{"README.md": true}
	all := pages(t)
	for _, page := range all {
		_, prose := read(t, page)
		for _, found := range link.FindAllStringSubmatch(strings.Join(prose, "\n"), -1) {
			path, _, _ := strings.Cut(found[1], "#")
			if strings.HasSuffix(path, "/") {
				path += "README.md"
			}
			linked[fromRoot(filepath.Dir(page), filepath.FromSlash(path))] = true
		}
	}
	for _, page := range all {
		if !linked[fromRoot(page)] {
			t.Errorf("%s is linked from nowhere", page)
		}
	}
}

// anchors are the names of a page's headings, as they are made where repositories are shown: lower case, punctuation
// dropped, spaces as hyphens.
func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	_, prose := read(t, page)
	all := map[string]bool{}
	for _, found := range heading.FindAllStringSubmatch(strings.Join(prose, "\n"), -1) {
		text := dropped.ReplaceAllString(strings.ToLower(found[1]), "")
		all[strings.ReplaceAll(text, " ", "-")] = true
	}
	return all
}
