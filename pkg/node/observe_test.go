package node

import (
	"bytes"
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// What is switched off is not done, and a tap sees exchanges all the same.
func TestObservingWhatIsSwitchedOn(t *testing.T) {
	t.Parallel()
	seen := &proxy.Observation{
		Caller: exchange.ServiceName{Namespace: "default", Name: "web"}, Callee: exchange.ServiceName{Namespace: "default", Name: "orders"},
		Method: "GET", Path: "/", Rule: "r", Lane: transport.TCP, Start: time.Now(),
	}
	for _, tt := range []struct {
		name    string
		noEdges bool
		tapped  bool
		edges   int
		filled  bool
	}{
		{"as it is by default", false, false, 1, true},
		{"all off", true, false, 0, false},
		{"all off, and somebody taps", true, true, 0, true},
	} {
		n := &Node{cfg: Config{NoEdges: tt.noEdges}, edges: telemetry.NewEdges(time.Now()), spans: telemetry.NewSpans()}
		o := n.observe().(*observer)
		var tap *telemetry.Tap
		if tt.tapped {
			var err error
			if tap, err = n.taps.Open(&telemetry.TapFilter{}); err != nil {
				t.Fatal(err)
			}
		}
		o.Ended(seen)
		if got := len(n.edges.Report(time.Now()).GetEdges()); got != tt.edges {
			t.Errorf("%s: %d edges are counted", tt.name, got)
		}
		if filled := o.span.Method != ""; filled != tt.filled {
			t.Errorf("%s: prepared for somebody: %v", tt.name, filled)
		}
		if tt.tapped {
			batch := tap.Take(2)
			if len(batch.GetExchanges()) != 1 || batch.GetExchanges()[0].GetLane() != "tcp" || batch.GetExchanges()[0].GetRule() != "r" {
				t.Errorf("%s: the tap sees %v", tt.name, batch)
			}
		}
	}
}

// What faults did is counted, whatever else is switched off, and stands in the access log.
func TestObservingFaults(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	access := telemetry.NewAccessLog(telemetry.AccessLogConfig{To: &log, Share: 1})
	n := &Node{cfg: Config{NoEdges: true}, edges: telemetry.NewEdges(time.Now()), spans: telemetry.NewSpans(), access: access}
	n.observe().Ended(&proxy.Observation{Start: time.Now(), Faults: []proxy.Fault{{ID: "shop/p/slow", Action: proxy.FaultDelayed}, {ID: "shop/p/no", Action: proxy.FaultAborted}}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = access.Run(ctx) // writes what waits
	if want := `"sennit.fault":"shop/p/slow:delay,shop/p/no:abort"`; !strings.Contains(log.String(), want) {
		t.Errorf("the access log has %s, want %s", log.String(), want)
	}
	w := httptest.NewRecorder()
	telemetry.NewMetrics(&n.faults).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if want := `sennit_faults_total{action="abort",fault="shop/p/no"} 1`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("%s is not told", want)
	}
}
