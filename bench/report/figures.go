package report

import (
	"math"
	"strconv"
)

// The names of figures, as they stand in JSON.
const (
	RPS        = "rps"                // requests, messages or connections a second
	P50        = "p50_us"             // latency, microseconds
	P99        = "p99_us"             // latency, microseconds
	CPU        = "cpu_us_per_request" // of all proxies together, microseconds
	Offered    = "offered_rps"        // the rate of an open loop
	Gbit       = "gbit_s"             // of bodies
	CPUPerGB   = "cpu_s_per_gb"       // of all proxies together, for 10^9 bytes of bodies
	RSS        = "rss_mb"             // resident memory of all proxies together, MiB
	RSSFront   = "rss_front_mb"       // of the one that applications connect to, MiB
	PerConn    = "kb_per_connection"  // what an idle connection adds to all proxies together, KiB
	PerConnOne = "kb_front"           // what it adds to the one that it is made to, KiB
	Start      = "start_ms"           // from starting a process until a request is answered through it, milliseconds

	Grown           = "grown_mb" // what was added to resident memory, MiB
	Goroutines      = "goroutines"
	GoroutinesGrown = "goroutines_grown"
	Files           = "open_files"
	FilesGrown      = "open_files_grown"

	PerRead  = "datagrams_per_read"  // of the node that bodies come to, UDP datagrams in one system call
	PerWrite = "datagrams_per_write" // of the node that bodies come from

	P99Believed = "p99_unverified_us" // latency where nodes believe what one of them verified, microseconds
	Verifying   = "verifying_percent" // of the nodes' CPU time
)

// A Figure is how one is shown.
type Figure struct {
	Name   string // in JSON
	Short  string // in the names of ratios
	Title  string // of a column
	Digits int    // behind the point
}

// Figures are all that there are, in the order of columns.
var Figures = []Figure{
	{Offered, "offered", "offered/s", 0},
	{RPS, "rps", "rate/s", 0},
	{P50, "p50", "p50 µs", 0},
	{P99, "p99", "p99 µs", 0},
	{CPU, "cpu", "CPU µs each", 1},
	{Gbit, "gbit_s", "Gbit/s", 2},
	{CPUPerGB, "cpu_per_gb", "CPU s/GB", 2},
	{RSS, "rss", "MB", 1},
	{RSSFront, "rss_front", "MB, front", 1},
	{PerConn, "kb", "KB/connection", 1},
	{PerConnOne, "kb_front", "KB/connection, front", 1},
	{Start, "start", "ms to the first answer", 0},
	{Grown, "grown", "MB more", 1},
	{Goroutines, "goroutines", "goroutines", 0},
	{GoroutinesGrown, "goroutines_grown", "goroutines more", 0},
	{Files, "open_files", "open files", 0},
	{FilesGrown, "open_files_grown", "open files more", 0},
	{PerRead, "datagrams_per_read", "datagrams/read", 1},
	{PerWrite, "datagrams_per_write", "datagrams/write", 1},
	{P99Believed, "p99_unverified", "p99 µs, unverified", 0},
	{Verifying, "verifying", "% verifying", 0},
}

// show returns a value with the figure's digits.
func (f Figure) show(value float64) string { return strconv.FormatFloat(value, 'f', f.Digits, 64) }

// showSpread returns "median (min–max)", or the median alone where all rounds gave the same.
func (f Figure) showSpread(s Spread) string {
	median, least, greatest := f.show(s.Median), f.show(s.Min), f.show(s.Max)
	if least == greatest {
		return median
	}
	return median + " (" + least + "–" + greatest + ")"
}

// rounded keeps five significant digits: more of them are noise.
func rounded(value float64) float64 {
	if value == 0 || math.IsNaN(value) || math.IsInf(value, 0) {
		return value
	}
	scale := math.Pow(10, 4-math.Floor(math.Log10(math.Abs(value))))
	return math.Round(value*scale) / scale
}
