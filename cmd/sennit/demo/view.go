package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// A view prints what happens, and below it the table of who calls whom, which on a terminal stays in place.
type view struct {
	out      io.Writer
	terminal bool
	width    func() int // columns of the terminal
	lines    int        // of the table that stands at the cursor
}

var (
	head = lipgloss.NewStyle().Bold(true)
	bad  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("9"))
	good = lipgloss.NewStyle().Foreground(lipgloss.Color("10"))
)

// say prints a message above the table.
func (v *view) say(format string, args ...any) {
	v.clear()
	fmt.Fprintf(v.out, format+"\n", args...)
}

// draw puts the table in the place of the one before.
func (v *view) draw(edges []telemetry.GraphEdge, total, failed int64) {
	v.clear()
	rows := [][]string{{"caller", "callee", "answered by", "rate/s", "success", "p50 ms", "p99 ms"}}
	for _, e := range edges {
		answered := strings.TrimSpace(short(e.Backend) + " " + e.Version)
		rows = append(rows, []string{short(e.Caller), short(e.Callee), answered, fmt.Sprintf("%.1f", e.Rate), fmt.Sprintf("%.2f %%", 100*e.Success),
			fmt.Sprintf("%.1f", 1000*e.P50), fmt.Sprintf("%.1f", 1000*e.P99)})
	}
	var b strings.Builder
	for r, line := range columns(rows, 3) {
		b.WriteString(v.style(v.fit(line), r == 0, r > 0 && edges[r-1].Success < 1))
		b.WriteByte('\n')
	}
	b.WriteString(v.fit(fmt.Sprintf("  requests: %d, failed: %d", total, failed)) + "\n")
	io.WriteString(v.out, b.String())
	v.lines = strings.Count(b.String(), "\n")
}

// columns are rows as lines in which cells stand below each other. From column numbers on, they end together.
func columns(rows [][]string, numbers int) (lines []string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			width := -widths[i]
			if i >= numbers {
				width = widths[i]
			}
			fmt.Fprintf(&line, "  %*s", width, cell)
		}
		lines = append(lines, line.String())
	}
	return lines
}

// short is a service without the namespace that all of the shop have: with it, the table is wider than most terminals.
func short(service string) string { return strings.TrimPrefix(service, "shop/") }

// fit cuts a line off that would take two on the terminal: the table could not be drawn over then.
func (v *view) fit(line string) string {
	if most := v.columns(); v.terminal && len(line) > most {
		return line[:most]
	}
	return line
}

func (v *view) columns() int {
	if v.width == nil {
		return 80
	}
	return max(1, v.width())
}

func (v *view) style(line string, title, failing bool) string {
	switch {
	case !v.terminal:
		return line
	case title:
		return head.Render(line)
	case failing:
		return bad.Render(line)
	}
	return good.Render(line)
}

// clear takes the table away.
func (v *view) clear() {
	if v.terminal && v.lines > 0 {
		fmt.Fprintf(v.out, "\x1b[%dA\x1b[J", v.lines)
	}
	v.lines = 0
}

// settle leaves the table where it is.
func (v *view) settle() { v.lines = 0 }

// pauseFor waits, or returns when ctx ends.
func pauseFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
