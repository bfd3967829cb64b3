package sim

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"
)

// A Result is what one size of mesh gave.
type Result struct {
	Nodes    int
	Join     Joining
	Idle     Spent
	Verified Pass // every node verifies every signature
	Shared   Pass // one node verifies, the others believe it
	Cut      Recovery
	Restart  Recovery
	Load     []float64 // the machine's load average before and after
}

// Spent is what the processes used over a while.
type Spent struct {
	Seconds          float64 `json:"seconds"`
	ControllerCPU    float64 `json:"controller_cpu_seconds"`
	NodesCPU         float64 `json:"nodes_cpu_seconds"`
	ControllerMB     float64 `json:"controller_rss_mb"`      // at the end
	ControllerPeakMB float64 `json:"controller_rss_peak_mb"` // since it started
	NodesMB          float64 `json:"nodes_rss_mb"`           // all of them together
}

// spent adds what was used between two moments.
func (s *Spent) spent(before, after usage) {
	s.Seconds += after.at.Sub(before.at).Seconds()
	s.ControllerCPU += (after.controller - before.controller).Seconds()
	s.NodesCPU += (after.nodes - before.nodes).Seconds()
	s.ControllerMB, s.ControllerPeakMB, s.NodesMB = after.controllerMB, after.controllerPeakMB, after.nodesMB
}

// Joining is how the nodes came to be.
type Joining struct {
	Spent
	Joined    float64 `json:"joined_seconds"` // until the last had its certificates
	Again     int64   `json:"again"`          // requests to join that nobody answered in time, and were repeated
	PerSecond float64 `json:"per_second"`
	Converged float64 `json:"converged_seconds"` // until the last had applied all that it follows
}

// Recovery is how they came back.
type Recovery struct {
	Spent
	Failed    float64 `json:"failed_seconds"`    // until the connections were cut, or the controller answers again
	Converged float64 `json:"converged_seconds"` // until the last node has a new beat and the last change
}

// Quantiles are in microseconds.
type Quantiles struct {
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

// A Spread tells, of a figure that each change has, how it was when the machine did the least besides.
type Spread struct {
	Least  float64 `json:"least_us"`
	Median float64 `json:"median_us"`
}

// A Pass is a number of changes.
type Pass struct {
	Changes       int
	Nodes         Quantiles // from the API's acknowledgement until a node has applied it, over nodes and changes; less where this process read it late
	FromSent      Quantiles // the same from sending the request
	Last          Quantiles // from the acknowledgement until the last node, over changes
	Each          Spread    // the p99 over the nodes of each single change, from sending it
	Acknowledged  Quantiles // from sending to the acknowledgement
	Verifications int64     // of signatures, by all nodes, while the changes were under way
	VerifyCost    float64   // of one, in µs
	VerifyShare   float64   // of the nodes' CPU time while a change is under way

	ControllerMS, NodesMS float64 // CPU time a change, in ms, until it is reported and its status is written

	during, whole                                        Spent
	acknowledged, last, each, fromAcknowledged, fromSent []time.Duration
}

func (p *Pass) summarize() {
	p.Nodes, p.FromSent = quantiles(p.fromAcknowledged), quantiles(p.fromSent)
	p.Last, p.Acknowledged = quantiles(p.last), quantiles(p.acknowledged)
	if len(p.each) > 0 {
		p.Each = Spread{Least: micros(slices.Min(p.each)), Median: quantiles(p.each).P50}
	}
	if p.Changes == 0 || p.during.NodesCPU == 0 {
		return
	}
	p.VerifyShare = float64(p.Verifications) * p.VerifyCost / 1e6 / p.during.NodesCPU
	p.ControllerMS = 1000 * p.whole.ControllerCPU / float64(p.Changes)
	p.NodesMS = 1000 * p.whole.NodesCPU / float64(p.Changes)
}

func quantiles(of []time.Duration) Quantiles {
	if len(of) == 0 {
		return Quantiles{}
	}
	slices.Sort(of)
	at := func(q float64) float64 {
		return micros(of[min(len(of)-1, int(math.Ceil(q*float64(len(of))))-1)])
	}
	return Quantiles{at(0.5), at(0.99), at(1)}
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// A Row is a result as it stands among the others of a run. P50 and P99 are from the API's acknowledgement of a
// change until a node has applied it.
type Row struct {
	Workload    string  `json:"workload"`
	Concurrency int     `json:"concurrency"` // nodes
	System      string  `json:"system"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
	Max         float64 `json:"max_us"`
	Errors      int64   `json:"errors"`
	RSS         float64 `json:"rss_mb"` // the idle controller's

	FromSent      Quantiles `json:"from_sent"`
	Last          Quantiles `json:"last_node"`
	Each          Spread    `json:"p99_of_each_change_from_sending"`
	Acknowledged  Quantiles `json:"acknowledged"`
	Shared        Quantiles `json:"without_verification"`
	SharedEach    Spread    `json:"p99_of_each_change_from_sending_without_verification"`
	Changes       int       `json:"changes"`
	Verifications float64   `json:"verifications_per_change"`
	VerifyCost    float64   `json:"verification_us"`
	VerifyShare   float64   `json:"verification_share"` // of the nodes' CPU time
	ControllerMS  float64   `json:"controller_cpu_ms_per_change"`
	NodesMS       float64   `json:"nodes_cpu_ms_per_change"`
	Join          Joining   `json:"join"`
	Idle          Spent     `json:"idle"`
	Cut           Recovery  `json:"cut"`
	Restart       Recovery  `json:"restart"`
	LoadAverage   []float64 `json:"load_average"`
}

// Row returns the result as one of a run.
func (r *Result) Row() Row {
	v := &r.Verified
	return Row{
		Workload: "propagation", Concurrency: r.Nodes, System: "sennit",
		P50: v.Nodes.P50, P99: v.Nodes.P99, Max: v.Nodes.Max, RSS: r.Idle.ControllerMB,
		FromSent: v.FromSent, Last: v.Last, Acknowledged: v.Acknowledged, Shared: r.Shared.Nodes, Each: v.Each, SharedEach: r.Shared.Each, Changes: v.Changes,
		Verifications: float64(v.Verifications) / float64(max(v.Changes, 1)), VerifyCost: v.VerifyCost, VerifyShare: v.VerifyShare,
		ControllerMS: v.ControllerMS, NodesMS: v.NodesMS,
		Join: r.Join, Idle: r.Idle, Cut: r.Cut, Restart: r.Restart, LoadAverage: r.Load,
	}
}

// Print writes rows as a table for people; times are in ms.
func Print(w io.Writer, rows []Row) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "propagation\tnodes\tp50 ms\tp99 ms\tmax ms\tfrom sending: p99\tof one change: least\tmedian\tp99 unverified\tleast\tmedian\tverifying\tCPU ms/change: controller\tnodes\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f %%\t%.1f\t%.1f\t\n", r.System, r.Concurrency, r.P50/1000, r.P99/1000, r.Max/1000,
			r.FromSent.P99/1000, r.Each.Least/1000, r.Each.Median/1000, r.Shared.P99/1000, r.SharedEach.Least/1000, r.SharedEach.Median/1000, 100*r.VerifyShare, r.ControllerMS, r.NodesMS)
	}
	table.Flush()
	for _, r := range rows {
		fmt.Fprintf(w, "%d nodes: joined at %.0f/s; idle, the controller takes %.1f %% of a processor and %.0f MB; "+
			"all cut: whole again after %.1f s (controller %.1f CPU-s, at most %.0f MB); controller killed: after %.1f s, of which it is away %.1f s (%.1f CPU-s, at most %.0f MB); "+
			"%d changes, %.0f verifications each at %.0f µs; load average %.1f\n",
			r.Concurrency, r.Join.PerSecond, percent(r.Idle), r.Idle.ControllerMB,
			r.Cut.Converged, r.Cut.ControllerCPU, r.Cut.ControllerPeakMB,
			r.Restart.Converged, r.Restart.Failed, r.Restart.ControllerCPU, r.Restart.ControllerPeakMB,
			r.Changes, r.Verifications, r.VerifyCost, r.LoadAverage)
	}
}

func percent(s Spent) float64 {
	if s.Seconds == 0 {
		return 0
	}
	return 100 * s.ControllerCPU / s.Seconds
}
