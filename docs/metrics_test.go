package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	metricMade   = regexp.MustCompile(`prometheus\.NewDesc\(\s*"([^"]+)"`)
	metricListed = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
)

// TestEveryMetricIsDescribed compares what is made with the page that operators read.
func TestEveryMetricIsDescribed(t *testing.T) {
	t.Parallel()
	made := map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range metricMade.FindAllStringSubmatch(content(t, "../"+file), -1) {
			made[m[1]] = true
		}
	}
	if len(made) < 20 {
		t.Fatalf("only %d metrics were found", len(made))
	}
	var listed []string
	for _, m := range metricListed.FindAllStringSubmatch(content(t, "reference/metrics.md"), -1) {
		listed = append(listed, m[1])
		if !made[m[1]] {
			t.Errorf("docs/reference/metrics.md describes %s, which nothing makes", m[1])
		}
	}
	for name := range made {
		if !strings.HasPrefix(name, "sennit_") {
			t.Errorf("%s does not begin with sennit_", name)
		}
		if !slices.Contains(listed, name) {
			t.Errorf("docs/reference/metrics.md does not describe %s", name)
		}
	}
}
