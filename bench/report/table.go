package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// A section is the rows of one workload, with the columns that any of them has.
type section struct {
	workload string
	columns  []Figure
	rows     []Row
	loads    bool // there is a column for Load
}

// sections returns the rows by workload, in the order in which they were measured.
func (r *Result) sections() []section {
	var all []section
	for _, row := range r.Runs {
		i := 0
		for i < len(all) && all[i].workload != row.Workload {
			i++
		}
		if i == len(all) {
			all = append(all, section{workload: row.Workload})
		}
		all[i].rows = append(all[i].rows, row)
		all[i].loads = all[i].loads || row.Load != ""
	}
	for i := range all {
		for _, f := range Figures {
			for _, row := range all[i].rows {
				if _, ok := row.Figures[f.Name]; ok {
					all[i].columns = append(all[i].columns, f)
					break
				}
			}
		}
	}
	return all
}

// header are the titles of a section's columns. The one before the figures counts what the workload has at once.
func (s section) header() []string {
	titles := []string{s.unit()}
	if s.loads {
		titles = append(titles, "load")
	}
	titles = append(titles, "system")
	for _, f := range s.columns {
		titles = append(titles, f.Title)
	}
	return append(titles, "errors")
}

func (s section) unit() string {
	switch s.workload {
	case BulkHTTP, BulkTCP:
		return "streams"
	case "lanes", "http2", "grpc":
		return "at a time"
	case "declared", "start":
		return "services"
	case "propagation":
		return "nodes"
	}
	return "connections"
}

func (s section) cells(row Row) []string {
	cells := []string{fmt.Sprint(row.Concurrency)}
	if s.loads {
		cells = append(cells, row.Load)
	}
	cells = append(cells, row.System)
	for _, f := range s.columns {
		if spread, ok := row.Figures[f.Name]; ok {
			cells = append(cells, f.showSpread(spread))
		} else {
			cells = append(cells, "")
		}
	}
	return append(cells, fmt.Sprint(row.Errors))
}

// Print writes the tables as text, each figure as its median and, in parentheses, the least and the greatest.
func (r *Result) Print(w io.Writer) {
	fmt.Fprintln(w, r.Machine)
	for _, s := range r.sections() {
		fmt.Fprintf(w, "\n%s\n", s.workload)
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, strings.Join(s.header(), "\t")+"\t")
		for _, row := range s.rows {
			fmt.Fprintln(table, strings.Join(s.cells(row), "\t")+"\t")
		}
		table.Flush()
	}
	if len(r.Ratios) > 0 {
		fmt.Fprintln(w, "\nsennit by the others (below 1: less)")
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, line := range r.comparisons() {
			fmt.Fprintln(table, strings.Join(line, "\t"))
		}
		table.Flush()
	}
	for _, note := range r.Machine.Notes {
		fmt.Fprintln(w, "\nnote:", note)
	}
}

// comparisons are the ratios of CPU, p50, p99 and rate, one line a load and other system, below a line of titles.
func (r *Result) comparisons() [][]string {
	suffixes := []struct{ name, title string }{{"", "envoy"}, {"/haproxy", "haproxy"}, {"/ztunnel", "ztunnel"},
		{"/l4", "envoy, raw TCP"}, {"/l4/haproxy", "haproxy, raw TCP"}, {"/l4/ztunnel", "ztunnel, raw TCP"},
		{"/" + oursQuiet, "sennit without telemetry"}}
	lines := [][]string{{"load", "beside"}}
	for _, f := range Figures {
		if f.Name != Offered {
			lines[0] = append(lines[0], f.Short)
		}
	}
	for _, row := range r.Runs {
		if row.System != ours && row.System != oursOnTCP {
			continue
		}
		name := row.ratios()
		for _, suffix := range suffixes {
			line, some := []string{name, suffix.title}, false
			for _, f := range Figures {
				if f.Name == Offered {
					continue
				}
				ratio, ok := r.Ratios[name+"/"+f.Short+suffix.name]
				cell := ""
				if some = some || ok; ok {
					cell = fmt.Sprintf("%.2f", ratio)
				}
				line = append(line, cell)
			}
			if some {
				lines = append(lines, line)
			}
		}
	}
	return dropEmptyColumns(lines)
}

// dropEmptyColumns removes the columns that have nothing below their title.
func dropEmptyColumns(lines [][]string) [][]string {
	var kept [][]string
	for range lines {
		kept = append(kept, nil)
	}
	for column := range lines[0] {
		used := false
		for _, line := range lines[1:] {
			used = used || line[column] != ""
		}
		for i, line := range lines {
			if used {
				kept[i] = append(kept[i], line[column])
			}
		}
	}
	return kept
}
