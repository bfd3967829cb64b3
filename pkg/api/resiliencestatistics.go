package api

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An OutlierRate makes outliers of instances by their share of successes in an interval.
type OutlierRate struct {
	MinInstances int32   `json:"minInstances,omitempty"`
	MinRequests  int32   `json:"minRequests,omitempty"`
	Factor       float64 `json:"factor,omitempty"`
}

// An OutlierLatency makes outliers of instances by how long they took in an interval.
type OutlierLatency struct {
	MinInstances  int32           `json:"minInstances,omitempty"`
	MinRequests   int32           `json:"minRequests,omitempty"`
	Factor        float64         `json:"factor,omitempty"`
	MinDifference metav1.Duration `json:"minDifference,omitempty"`
}

const (
	maxOutlierInterval  = time.Hour
	maxOutlierInstances = 1000
	maxOutlierRequests  = 1_000_000
)

func (w *walker) outlierStatistics(path string, o map[string]any) {
	w.span(path, o, "interval", 100*time.Millisecond, maxOutlierInterval)
	if r := part(o, "successRate"); r != nil {
		at := field(path, "successRate")
		w.number(at, r, "minInstances", 3, maxOutlierInstances)
		w.number(at, r, "minRequests", 1, maxOutlierRequests)
		w.factor(at, r, "factor", 0.1, 100)
	}
	if l := part(o, "latency"); l != nil {
		at := field(path, "latency")
		w.number(at, l, "minInstances", 2, maxOutlierInstances)
		w.number(at, l, "minRequests", 1, maxOutlierRequests)
		w.factor(at, l, "factor", 1, 1000)
		w.span(at, l, "minDifference", 0, time.Hour)
	}
}

// factor checks a number that may have a fraction, of which three digits count.
func (w *walker) factor(path string, m map[string]any, name string, least, most float64) {
	var f float64
	switch v := at(m, name).(type) {
	case int64:
		f = float64(v)
	case float64:
		f = v
	}
	if !(f >= least && f <= most) {
		w.add(field(path, name), Invalid, "must be from %v to %v, is %v", least, most, f)
	}
}

// SwaggerDoc says what the fields mean.
func (OutlierRate) SwaggerDoc() map[string]string {
	return map[string]string{
		"":             "OutlierRate ejects the instances whose share of successes in an interval is more than factor standard deviations below the mean of all.",
		"minInstances": "Instances that must have had minRequests; with fewer nobody is judged.",
		"minRequests":  "Attempts in the interval; an instance with fewer is not judged and not compared with.",
		"factor":       "Of the standard deviation. Three digits after the point count.",
	}
}

// SwaggerDoc says what the fields mean.
func (OutlierLatency) SwaggerDoc() map[string]string {
	return map[string]string{
		"":              "OutlierLatency ejects the instances whose mean time to the head of a response is more than factor times the median of all.",
		"minInstances":  "Instances that must have had minRequests; with fewer nobody is judged.",
		"minRequests":   "Attempts in the interval; an instance with fewer is not judged and not compared with.",
		"factor":        "Of the median. Three digits after the point count.",
		"minDifference": "How much slower than the median it must be, too.",
	}
}
