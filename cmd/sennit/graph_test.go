package main

import (
	"strings"
	"testing"

	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

var someEdges = []telemetry.GraphEdge{
	{Caller: "shop/web", Callee: "shop/orders", Backend: "shop/orders-v2", Version: "v2", Node: "host1", Rate: 12.34, Success: 1, P50: 0.000512, P90: 0.0123, P99: 1.2},
	{Caller: "shop/orders", Callee: "shop/stock", Backend: "shop/stock", Version: `"1"`, Rate: 1, Failed: 1, Success: 0.9},
	{Callee: "sennit/overflow", Success: 1},
}

func TestGraphsAreDrawn(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"table": `
CALLER        CALLEE            ANSWERED BY         RATE/S   FAILED    P50     P90      P99
shop/web      shop/orders       shop/orders-v2 v2   12.3     0.00 %    512µs   12.3ms   1.2s
shop/orders   shop/stock        "1"                 1.0      10.00 %   0s      0s       0s
-             sennit/overflow   -                   0.0      0.00 %    0s      0s       0s
`,
		"by service": `
CALLER        CALLEE            RATE/S   FAILED    P50     P90      P99
shop/web      shop/orders       12.3     0.00 %    512µs   12.3ms   1.2s
shop/orders   shop/stock        1.0      10.00 %   0s      0s       0s
-             sennit/overflow   0.0      0.00 %    0s      0s       0s
`,
		"dot": `
digraph mesh {
  rankdir=LR;
  node [shape=box, style=rounded];
  "shop/web" -> "shop/orders" [label="shop/orders-v2 v2: host1: 12.3/s, 0.00 % failed, p99 1.2s"];
  "shop/orders" -> "shop/stock" [label="\"1\": 1.0/s, 10.00 % failed, p99 0s", color=red, fontcolor=red];
  "(others)" -> "sennit/overflow" [label="0.0/s, 0.00 % failed, p99 0s"];
}
`,
		"mermaid": `
flowchart LR
  s0["shop/web"]
  s1["shop/orders"]
  s0 -->|"shop/orders-v2 v2: host1: 12.3/s, 0.00 % failed, p99 1.2s"| s1
  s2["shop/stock"]
  s1 -->|"#quot;1#quot;: 1.0/s, 10.00 % failed, p99 0s"| s2
  linkStyle 1 stroke:red
  s3["(others)"]
  s4["sennit/overflow"]
  s3 -->|"0.0/s, 0.00 % failed, p99 0s"| s4
`,
		"empty": "\nnobody called anybody within the last ten seconds\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var b strings.Builder
			var err error
			switch name {
			case "table":
				err = showGraph(&b, someEdges, report.ByVersion)
			case "by service":
				err = showGraph(&b, someEdges, report.ByService)
			case "dot":
				err = writeDot(&b, someEdges)
			case "mermaid":
				err = writeMermaid(&b, someEdges)
			case "empty":
				err = showGraph(&b, nil, report.ByVersion)
			}
			if err != nil || "\n"+b.String() != want {
				t.Errorf("%v\n%s\nwant%s", err, b.String(), want)
			}
		})
	}
}

func TestLatenciesHaveThreeDigits(t *testing.T) {
	t.Parallel()
	for s, want := range map[float64]string{0: "0s", 0.000001234: "1.2µs", 0.00123456: "1.23ms", 0.0123456: "12.3ms", 0.123456: "123ms", 1.23456: "1.23s", 123.456: "2m3s"} {
		if got := seconds(s); got != want {
			t.Errorf("%g is shown as %s, want %s", s, got, want)
		}
	}
}
