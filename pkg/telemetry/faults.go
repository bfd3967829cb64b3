package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

var faultsDesc = prometheus.NewDesc("sennit_faults_total",
	"What faults of FaultPolicies did to requests of local callers, by fault (namespace/policy/fault) and action.", []string{"fault", "action"}, nil)

// maxFaultCounts bounds what is counted apart: policies come and go, and a counter stays.
const maxFaultCounts = 1024

// Faults counts what faults did. The zero value counts from 0. It is safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	counts map[injected]uint64
}

type injected struct{ fault, action string }

// Record counts one. What is beyond the 1,024 pairs that are told apart counts as fault "other". The strings are kept.
func (f *Faults) Record(fault, action string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := injected{fault, action}
	if _, known := f.counts[key]; !known && len(f.counts) >= maxFaultCounts {
		key.fault = "other"
	}
	if f.counts == nil {
		f.counts = map[injected]uint64{}
	}
	f.counts[key]++
}

// Describe names the metric (prometheus.Collector).
func (f *Faults) Describe(out chan<- *prometheus.Desc) { out <- faultsDesc }

// Collect gives what was counted (prometheus.Collector).
func (f *Faults) Collect(out chan<- prometheus.Metric) {
	var metrics []prometheus.Metric
	f.mu.Lock() // who reads the channel may be slow
	for key, n := range f.counts {
		metrics = append(metrics, prometheus.MustNewConstMetric(faultsDesc, prometheus.CounterValue, float64(n), key.fault, key.action))
	}
	f.mu.Unlock()
	for _, m := range metrics {
		out <- m
	}
}
