package report

import "fmt"

// Whose figures are divided by whose.
const (
	ours      = "sennit"
	oursOnTCP = "sennit-tcp" // with lanes over TCP
	oursQuiet = "sennit-quiet"
)

var others = []string{"envoy", "haproxy", "ztunnel", oursQuiet}

// The loads of the open loop.
const (
	LoadHalf    = "50%"          // of the system's own saturation
	LoadHigh    = "80%"          // of the system's own saturation
	LoadOfEnvoy = "80% of envoy" // Sennit at the rate that is LoadHigh for Envoy
)

// SetRatios divides Sennit's figures by those of the others, wherever both were measured under the same load.
// Beside Envoy they are called "<workload>/<concurrency>[/<load>]/<figure>", beside others there is "/<system>"
// behind. Two more cross from one load to another:
//
//	latency/64/80% of envoy/p99  Sennit's at the rate that is 80 % of Envoy's saturation, by Envoy's there
//	bulk-http1/1/cpu_per_gb/l4   Sennit's for HTTP/1.1 bodies by Envoy's for raw TCP
//
// Those of Sennit with lanes over TCP have "sennit-tcp/" before them. "telemetry/64/cpu/sennit-quiet" is what all
// telemetry costs, by none.
func (r *Result) SetRatios() {
	r.Ratios = map[string]float64{}
	for _, row := range r.Runs {
		if row.System != ours && row.System != oursOnTCP {
			continue
		}
		for _, other := range others {
			suffix := ""
			if other != "envoy" {
				suffix = "/" + other
			}
			load := row.Load
			if load == LoadOfEnvoy && other == "envoy" {
				load = LoadHigh
			}
			if theirs, ok := r.Find(row.Workload, row.Concurrency, load, other); ok {
				r.divide(row, theirs, suffix)
			}
			if theirs, ok := r.Find(BulkTCP, row.Concurrency, "", other); ok && row.Workload == BulkHTTP {
				r.divide(row, theirs, "/l4"+suffix)
			}
		}
	}
}

// The two workloads of large bodies.
const (
	BulkHTTP = "bulk-http1"
	BulkTCP  = "bulk-tcp"
)

func (r *Result) divide(row, theirs Row, suffix string) {
	prefix := row.ratios() + "/"
	for _, f := range Figures {
		mine, ok1 := row.Figures[f.Name]
		other, ok2 := theirs.Figures[f.Name]
		// What is too little to be measured has no ratio.
		if f.Name != Offered && ok1 && ok2 && mine.Median > 0 && other.Median > 0 {
			r.Ratios[prefix+f.Short+suffix] = rounded(mine.Median / other.Median)
		}
	}
}

// ratios is how the names of a row's ratios begin.
func (r Row) ratios() string {
	name := fmt.Sprintf("%s/%d", r.Workload, r.Concurrency)
	if r.Load != "" {
		name += "/" + r.Load
	}
	if r.System != ours {
		name = r.System + "/" + name
	}
	return name
}
