package report

import "fmt"

// A target is what Sennit is to reach: a ratio to another's figure, or a figure of its own, at most so large.
type target struct {
	text  string
	most  float64
	found func(*Result) (float64, bool)
}

func ratio(name string) func(*Result) (float64, bool) {
	return func(r *Result) (float64, bool) {
		value, ok := r.Ratios[name]
		return value, ok
	}
}

func figure(workload string, concurrency int, name string) func(*Result) (float64, bool) {
	return func(r *Result) (float64, bool) {
		row, _ := r.Find(workload, concurrency, "", ours)
		spread, ok := row.Figures[name]
		return spread.Median, ok
	}
}

// noise is by how much a node's memory differs from one look to the next while nothing grows, in MB: its heap is as
// large as the moment of the last collection has it.
const noise = 2

var targets = []target{
	{"CPU per HTTP/1.1 request by Envoy's, 16 connections", 0.5, ratio("http1/16/cpu")},
	{"the same, 64 connections", 0.5, ratio("http1/64/cpu")},
	{"the same, 256 connections", 0.5, ratio("http1/256/cpu")},
	{"CPU per GET over HTTP/2 by Envoy's, 1 at a time", 0.6, ratio("http2/1/cpu")},
	{"the same, 16 at a time", 0.6, ratio("http2/16/cpu")},
	{"the same, 64 at a time", 0.6, ratio("http2/64/cpu")},
	{"the same, 256 at a time", 0.6, ratio("http2/256/cpu")},
	{"CPU per unary call of gRPC by Envoy's, 1 at a time", 0.6, ratio("grpc/1/cpu")},
	{"the same, 16 at a time", 0.6, ratio("grpc/16/cpu")},
	{"the same, 64 at a time", 0.6, ratio("grpc/64/cpu")},
	{"the same, 256 at a time", 0.6, ratio("grpc/256/cpu")},
	{"p50 by Envoy's, 1 connection", 1, ratio("http1/1/p50")},
	{"p99 by Envoy's, both at 80 % of Envoy's saturation", 1, ratio("latency/64/" + LoadOfEnvoy + "/p99")},
	{"CPU per GB of HTTP/1.1 bodies by Envoy's for raw TCP", 4, ratio("bulk-http1/1/cpu_per_gb/l4")},
	{"CPU per GB of raw TCP by Envoy's, lanes over TCP", 1.3, ratio(oursOnTCP + "/bulk-tcp/1/cpu_per_gb")},
	{"CPU per HTTP/1.1 request with all telemetry, by none, 64 connections", 1.08, ratio("telemetry/64/cpu/" + oursQuiet)},
	{"resident memory of an idle node, MB", 30, figure("memory", 0, RSSFront)},
	{"what an idle connection adds to a node, KB", 12, figure("memory", 1000, PerConnOne)},
	{"resident memory of a node that calls 10 of 1,000 services, MB", 60, figure("declared", 1000, RSSFront)},
	{"the same of 10,000 services, MB", 60, figure("declared", 10_000, RSSFront)},
	{"what the 9,000 services that it does not call add, MB", noise, figure("declared", 10_000, Grown)},
	{"start with the bus down to the first answer, ms", 1000, figure("start", 10, Start)},
	{"what an hour's exchanges add to the memory of both nodes, MB", 2 * noise, figure("soak", 64, Grown)},
	{"goroutines that they leave behind", 0, figure("soak", 64, GoroutinesGrown)},
	{"open files that they leave behind", 0, figure("soak", 64, FilesGrown)},
	{"p99 of a change to 1,000 nodes, µs", 75_000, figure("propagation", 1000, P99)},
	{"the same, without verifying signatures", 50_000, figure("propagation", 1000, P99Believed)},
}

// reached lists the targets that this run measured, below a line of titles.
func (r *Result) reached() [][]string {
	lines := [][]string{{"what", "at most", "measured", "reached"}}
	for _, t := range targets {
		if value, ok := t.found(r); ok {
			lines = append(lines, []string{t.text, fmt.Sprint(t.most), fmt.Sprintf("%.2f", value), yes(value <= t.most)})
		}
	}
	return lines
}
