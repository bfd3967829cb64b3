package api

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AdaptiveConcurrency bounds the requests that one node has under way to the service by the latency that it measures.
type AdaptiveConcurrency struct {
	Interval       metav1.Duration `json:"interval,omitempty"`
	MinRequests    int32           `json:"minRequests,omitempty"`
	MinConcurrency int64           `json:"minConcurrency,omitempty"`
	MaxConcurrency int64           `json:"maxConcurrency,omitempty"`
	Tolerance      float64         `json:"tolerance,omitempty"`
	ProbeInterval  metav1.Duration `json:"probeInterval,omitempty"`
}

func (w *walker) adaptiveConcurrency(path string, a map[string]any) {
	w.span(path, a, "interval", 100*time.Millisecond, time.Minute)
	w.number(path, a, "minRequests", 1, 100_000)
	w.number(path, a, "minConcurrency", 1, maxUnderWay)
	w.number(path, a, "maxConcurrency", 1, maxUnderWay)
	if least, most := num(a, "minConcurrency"), num(a, "maxConcurrency"); most < least {
		w.add(field(path, "maxConcurrency"), Invalid, "must be no less than minConcurrency, which is %d, is %d", least, most)
	}
	w.factor(path, a, "tolerance", 1, 100)
	w.span(path, a, "probeInterval", time.Second, time.Hour)
}

// SwaggerDoc says what the fields mean.
func (AdaptiveConcurrency) SwaggerDoc() map[string]string {
	return map[string]string{
		"":               "AdaptiveConcurrency bounds the requests that one node has under way to the service by the latency that it measures.",
		"interval":       "After each the bound is set anew, by the mean time to the head of a response.",
		"minRequests":    "That an interval must have had. One with fewer goes on.",
		"minConcurrency": "So many are always let through.",
		"maxConcurrency": "So many at most.",
		"tolerance":      "Up to so many times the least latency the service is not taken for slow. Three digits after the point count.",
		"probeInterval":  "How often the bound is halved for one interval, so that the latency without a queue is seen again.",
	}
}
