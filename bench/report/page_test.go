package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// a run with everything that a page shows.
func sample() *Result {
	row := func(workload string, connections int, load, system string, figures map[string]float64) Row {
		more := map[string]float64{}
		for name, value := range figures {
			more[name] = value * 1.2
		}
		return Row{Workload: workload, Concurrency: connections, Load: load, System: system}.Summarize([]Round{{Figures: figures}, {Figures: more}, {Figures: figures}})
	}
	r := &Result{
		Machine:  Machine{Cores: 2, Kernel: "Linux 6.1", Go: "go1.26", Versions: map[string]string{"envoy": "1.40.0"}, Notes: []string{"two cores are few."}},
		Settings: Settings{Command: "go run ./bench", Rounds: 3, Round: "1s", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		Missing:  []string{"ztunnel: not <given>"},
	}
	for i, n := range []int{1, 16, 64, 256, 1000} {
		scale := float64(i + 1)
		r.Runs = append(r.Runs,
			row("http1", n, "", "direct", map[string]float64{RPS: 40000 * scale, P50: 20, P99: 50, CPU: 7}),
			row("http1", n, "", "sennit", map[string]float64{RPS: 6000 * scale, P50: 100, P99: 300, CPU: 120 / scale}),
			row("http1", n, "", "envoy", map[string]float64{RPS: 3000 * scale, P50: 200, P99: 900, CPU: 250 / scale}),
			row("http1", n, "", "haproxy", map[string]float64{RPS: 9000 * scale, P50: 80, P99: 200, CPU: 70 / scale}))
	}
	for _, load := range []string{LoadHalf, LoadHigh} {
		r.Runs = append(r.Runs,
			row("latency", 64, load, "sennit", map[string]float64{P50: 300, P99: 2200}),
			row("latency", 64, load, "envoy", map[string]float64{P50: 600, P99: 5600}))
	}
	r.Runs = append(r.Runs, row("latency", 64, LoadOfEnvoy, "sennit", map[string]float64{P50: 250, P99: 900}))
	r.SetRatios()
	return r
}

func TestPageKeepsWhatIsWrittenByHand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page, charts := filepath.Join(dir, "benchmarks.md"), filepath.Join(dir, "benchmarks")
	if err := os.WriteFile(page, []byte("# Title\n\nabove\n\n"+begin+"\nold\n"+end+"\n\nbelow\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := sample()
	for range 2 { // the second time it replaces its own
		if err := r.Write(page, charts); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if !strings.HasPrefix(text, "# Title\n\nabove\n\n"+begin) || !strings.HasSuffix(text, end+"\n\nbelow\n") || strings.Contains(text, "old\n") {
		t.Errorf("around the generated part:\n%s", text)
	}
	for _, want := range []string{
		"Made on 2026-01-02 by `go run ./bench`: 3 rounds of 1s", "two cores are few", "- ztunnel: not <given>",
		"](benchmarks/rate.svg)", "](benchmarks/cpu.svg)", "](benchmarks/latency.svg)",
		"| connections | system | rate/s |", "| 64 | sennit | 18000 (18000–21600) |",
		"| CPU per HTTP/1.1 request by Envoy's, 16 connections | 0.5 | 0.48 | yes |",
		"| p99 by Envoy's, both at 80 % of Envoy's saturation | 1 | 0.16 | yes |",
		"| http1/64 | envoy | 2.00 |",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is there %d times, in\n%s", want, strings.Count(text, want), text)
		}
	}
	r.Runs = r.Runs[:4] // no open loop: its picture goes
	if err := r.Write(page, charts); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(charts, "latency.svg")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the picture of another run is left: %v", err)
	}
	if err := os.WriteFile(page, []byte("# Title\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Write(page, charts); err == nil || !strings.Contains(err.Error(), "lacks the lines") {
		t.Errorf("a page without markers: %v", err)
	}
}

// What is drawn can be parsed, lies within the picture, and shows each figure with its label and both schemes.
func TestCharts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		chart       int
		bars        int // those of the systems and those of the legend
		spreads     int
		labels      []string
		leastHeight float64
	}{
		{0, 5*3 + 3, 5 * 3, []string{"1000", "6k", "45k", "connections"}, 2},
		{1, 5*3 + 3, 5 * 3, []string{"120", "250", "µs"}, 2},
		{2, 3*2 + 2, 0, []string{"80% of envoy", "5.6k", "600", "900"}, 2},
	} {
		c := sample().charts()[tt.chart]
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			picture := c.svg()
			if !strings.Contains(picture, "prefers-color-scheme: dark") {
				t.Error("it has one scheme only")
			}
			bars, spreads, texts := 0, 0, map[string]bool{}
			decoder := xml.NewDecoder(strings.NewReader(picture))
			var last string
			for {
				token, err := decoder.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				switch e := token.(type) {
				case xml.StartElement:
					last = e.Name.Local
					var class string
					var x, y, w, h float64
					for _, a := range e.Attr {
						switch a.Name.Local {
						case "class":
							class = a.Value
						case "x":
							x = number(t, a.Value)
						case "y":
							y = number(t, a.Value)
						case "width":
							w = number(t, a.Value)
						case "height":
							h = number(t, a.Value)
						}
					}
					switch class {
					case "sennit", "envoy", "haproxy":
						bars++
						if h < tt.leastHeight {
							t.Errorf("a bar of %s is %v high", class, h)
						}
					case "spread":
						spreads++
					}
					if x < 0 || y < 0 || x+w > width || y+h > height {
						t.Errorf("%s %s lies outside: %v %v %v %v", last, class, x, y, w, h)
					}
				case xml.CharData:
					if last == "text" {
						texts[strings.TrimSpace(string(e))] = true
					}
				}
			}
			if bars != tt.bars || spreads != tt.spreads {
				t.Errorf("%d bars, want %d; %d spreads, want %d", bars, tt.bars, spreads, tt.spreads)
			}
			for _, label := range tt.labels {
				if !texts[label] {
					t.Errorf("no text says %q", label)
				}
			}
		})
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	var value float64
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return value
}

func TestShort(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{0: "0", 0.25: "0.25", 7.4: "7.4", 120: "120", 950.4: "950", 1250: "1.25k", 18000: "18k", 123456: "123k", 2.5e6: "2.5M"} {
		if got := short(value); got != want {
			t.Errorf("%v is %q, want %q", value, got, want)
		}
	}
}

// The lowest mark of a logarithmic chart is above its floor, and the highest below its top.
func TestScalesCoverTheirMarks(t *testing.T) {
	t.Parallel()
	for _, log := range []bool{false, true} {
		for _, high := range []float64{3, 99, 100, 101, 4999, 123456} {
			c := chart{log: log, systems: []string{"sennit"}, groups: []group{{"", map[string]mark{"sennit": {high / 3, high, high}}}}}
			s := c.scale()
			if s.y(high) < top || s.y(high/3) > top+plotH || len(s.ticks) < 2 || len(s.ticks) > 9 {
				t.Errorf("log %v, %v: %+v", log, high, s)
			}
		}
	}
}
