package report

import (
	"fmt"
	"math"
	"strings"
)

// A chart shows one figure of all systems, in groups of loads: bars from zero, with a line from the least to the
// greatest of the rounds; or, where it is logarithmic, a span from the lower of two figures to the upper.
type chart struct {
	name, title, unit string
	axis              string // what the groups are
	log               bool
	systems           []string
	groups            []group
}

type group struct {
	label string
	marks map[string]mark // by system; one that was not measured is not there
}

// A mark is a bar of height value, or a span from low to value.
type mark struct{ low, value, high float64 }

// shown are the systems that charts have, in this order. The direct connection would dwarf the others.
var shown = append([]string{ours}, others...)

// charts are all pictures of the page; those without groups were not measured.
func (r *Result) charts() []chart {
	bars := func(figure string) func(Row) (mark, bool) {
		return func(row Row) (mark, bool) {
			s, ok := row.Figures[figure]
			return mark{s.Min, s.Median, s.Max}, ok
		}
	}
	span := func(row Row) (mark, bool) {
		p50, ok1 := row.Figures[P50]
		p99, ok2 := row.Figures[P99]
		return mark{low: p50.Median, value: p99.Median}, ok1 && ok2
	}
	all := []chart{
		{name: "rate", title: "Requests a second, HTTP/1.1, closed loop", axis: "connections"},
		{name: "cpu", title: "CPU per request, HTTP/1.1, both proxies together", unit: "µs", axis: "connections"},
		{name: "latency", title: "Latency at a fixed rate, HTTP/1.1: median to 99th percentile", unit: "µs", axis: "share of what each did at its fastest", log: true},
	}
	all[0].fill(r, "http1", bars(RPS))
	all[1].fill(r, "http1", bars(CPU))
	all[2].fill(r, "latency", span)
	return all
}

// fill takes the chart's groups from a workload's rows.
func (c *chart) fill(r *Result, workload string, take func(Row) (mark, bool)) {
	seen := map[string]bool{}
	for _, row := range r.Runs {
		label := row.Load
		if label == "" {
			label = fmt.Sprint(row.Concurrency)
		}
		m, ok := take(row)
		if row.Workload != workload || !ok {
			continue
		}
		i := 0
		for i < len(c.groups) && c.groups[i].label != label {
			i++
		}
		if i == len(c.groups) {
			c.groups = append(c.groups, group{label, map[string]mark{}})
		}
		c.groups[i].marks[row.System] = m
		seen[row.System] = true
	}
	for i, g := range c.groups { // at Envoy's rate Sennit stands beside Envoy
		if envoy, ok := r.Find(workload, saturatedAt, LoadHigh, "envoy"); ok && g.label == LoadOfEnvoy {
			c.groups[i].marks["envoy"], _ = take(envoy)
		}
	}
	for _, system := range shown {
		if seen[system] {
			c.systems = append(c.systems, system)
		}
	}
	if len(c.systems) == 0 {
		c.groups = nil
	}
}

// saturatedAt is the number of connections of the open loop.
const saturatedAt = 64

// The picture's measures, in pixels.
const (
	width, height = 760, 352
	left, right   = 64, 16
	top, bottom   = 76, 48
	plotW         = width - left - right
	plotH         = height - top - bottom
)

// svg draws the chart. Colours follow the reader's light or dark scheme, background included, so that the picture
// can be read on any page.
func (c *chart) svg() string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n", width, height, width, height, escape(c.title))
	b.WriteString(style)
	fmt.Fprintf(&b, `<rect class="page" width="%d" height="%d" rx="8"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text class="title" x="16" y="24">%s</text>`+"\n", escape(c.title))
	x := 16.0
	for _, system := range c.systems {
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="36" width="10" height="10" rx="2"/><text x="%.1f" y="45">%s</text>`+"\n", system, x, x+15, system)
		x += 40 + 7*float64(len(system))
	}
	scale := c.scale()
	for _, tick := range scale.ticks {
		y := scale.y(tick)
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, width-right, y, y, left-6, y+4, short(tick))
	}
	if c.unit != "" {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-6, top-14, c.unit)
	}
	slot := float64(plotW) / float64(len(c.groups))
	bar := min(44, slot*0.8/float64(len(c.systems)))
	for i, g := range c.groups {
		middle := left + slot*(float64(i)+0.5)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", middle, height-bottom+18, escape(g.label))
		at := middle - bar*float64(len(c.systems))/2
		for _, system := range c.systems {
			if m, ok := g.marks[system]; ok {
				c.draw(&b, scale, system, m, at+bar/2, bar-4)
			}
			at += bar
		}
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n</svg>\n", left+plotW/2, height-10, escape(c.axis))
	return b.String()
}

func (c *chart) draw(b *strings.Builder, s scale, system string, m mark, x, w float64) {
	y := s.y(m.value)
	above := y
	if c.log {
		low := s.y(m.low)
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="3"/>`+"\n", system, x-w/4, y, w/2, max(2, low-y))
		fmt.Fprintf(b, `<text class="value" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x, low+11, short(m.low))
	} else {
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2"/>`+"\n", system, x-w/2, y, w, max(0, s.y(0)-y))
		if m.high > m.low {
			fmt.Fprintf(b, `<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`+"\n", x, x, s.y(m.low), s.y(m.high))
		}
		above = s.y(max(m.value, m.high))
	}
	fmt.Fprintf(b, `<text class="value" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", x, above-4, short(m.value))
}

// A scale maps values to heights.
type scale struct {
	log       bool
	low, high float64
	ticks     []float64
}

func (s scale) y(value float64) float64 {
	share := (value - s.low) / (s.high - s.low)
	if s.log {
		share = math.Log(max(value, s.low)/s.low) / math.Log(s.high/s.low)
	}
	return top + plotH*(1-share)
}

// scale covers all marks: from zero in steps of 1, 2 or 5 times a power of ten, or by whole powers of ten.
func (c *chart) scale() scale {
	low, high := math.Inf(1), 0.0
	for _, g := range c.groups {
		for _, system := range c.systems {
			if m, ok := g.marks[system]; ok {
				low, high = min(low, m.low), max(high, m.value, m.high)
			}
		}
	}
	if c.log {
		s := scale{log: true, low: math.Pow(10, math.Floor(math.Log10(max(low, 1)*0.8))), high: math.Pow(10, math.Ceil(math.Log10(max(high, 10)*1.2)))}
		for tick := s.low; tick <= s.high*1.001; tick *= 10 {
			s.ticks = append(s.ticks, tick)
		}
		return s
	}
	step := math.Pow(10, math.Floor(math.Log10(max(high, 1e-9)/4)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if high/(step*factor) <= 6 {
			step *= factor
			break
		}
	}
	s := scale{high: step * math.Ceil(high*1.02/step)}
	for tick := 0.0; tick <= s.high*1.001; tick += step {
		s.ticks = append(s.ticks, tick)
	}
	return s
}
