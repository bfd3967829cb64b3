package telemetry

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestFaultsAreCounted wants counts by fault and action, of no more pairs than are told apart.
func TestFaultsAreCounted(t *testing.T) {
	var faults Faults
	for range 3 {
		faults.Record("shop/slow/half", "delay")
	}
	for i := range 2 * maxFaultCounts {
		faults.Record(fmt.Sprint("shop/slow/", i), "abort")
	}
	w := httptest.NewRecorder()
	NewMetrics(&faults).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{`sennit_faults_total{action="delay",fault="shop/slow/half"} 3`, `sennit_faults_total{action="abort",fault="other"} 1025`} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is not told", want)
		}
	}
	if n := strings.Count(text, "\nsennit_faults_total{"); n != maxFaultCounts+1 {
		t.Errorf("%d counts", n)
	}
}
