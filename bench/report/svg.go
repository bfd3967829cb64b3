package report

import (
	"fmt"
	"strings"
)

// style holds the colours of both schemes. Those of the systems are told apart by brightness too.
const style = `<style>
text { font: 12px system-ui, sans-serif; fill: #444c56 }
.title { font-size: 14px; font-weight: 600; fill: #1f2328 }
.value { font-size: 10px }
.page { fill: #ffffff }
.grid { stroke: #d8dee4 }
.spread { stroke: #1f2328; stroke-width: 1.5 }
.sennit { fill: #0a7d74 }
.envoy { fill: #e0913a }
.haproxy { fill: #8fa3c8 }
.ztunnel { fill: #9b6fb8 }
@media (prefers-color-scheme: dark) {
  text { fill: #adbac7 }
  .title { fill: #e6edf3 }
  .page { fill: #161b22 }
  .grid { stroke: #30363d }
  .spread { stroke: #e6edf3 }
  .sennit { fill: #2bb3a6 }
  .envoy { fill: #d98a35 }
  .haproxy { fill: #6f86b3 }
  .ztunnel { fill: #a87cc7 }
}
</style>
`

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func escape(text string) string { return escaper.Replace(text) }

// short writes a value in few characters: 1.25k, 18k, 950, 7.4.
func short(value float64) string {
	switch {
	case value >= 1e6:
		return trimZeros(value/1e6) + "M"
	case value >= 1e3:
		return trimZeros(value/1e3) + "k"
	}
	return trimZeros(value)
}

func trimZeros(value float64) string {
	digits := 2
	if value >= 10 {
		digits = 1
	}
	if value >= 100 {
		digits = 0
	}
	text := fmt.Sprintf("%.*f", digits, value)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}
