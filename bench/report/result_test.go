package report

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func rounds(figure string, values ...float64) (all []Round) {
	for _, v := range values {
		all = append(all, Round{Errors: 1, Figures: map[string]float64{figure: v, P50: 10}})
	}
	return all
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	r := Row{System: "sennit"}.Summarize(rounds(CPU, 30, 50, 40))
	if got := r.Figures[CPU]; got != (Spread{40, 30, 50}) || r.Errors != 3 {
		t.Errorf("%+v", r)
	}
}

func TestRowsAsJSON(t *testing.T) {
	t.Parallel()
	rows := []Row{
		Row{Workload: "http1", Concurrency: 64, System: "sennit"}.Summarize(rounds(CPU, 30.123456, 50, 40)),
		Row{Workload: "latency", Concurrency: 64, Load: LoadHigh, System: "envoy"}.Summarize(rounds(RPS, 12345.678)),
	}
	rows[1].Detail = json.RawMessage(`{"of":"its own"}`)
	data, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"workload":"http1","concurrency":64,"system":"sennit","errors":3`, `"cpu_us_per_request":40,"cpu_us_per_request_min":30.123,"cpu_us_per_request_max":50`, `"load":"80%"`, `"rps":12346`, `"detail":{"of":"its own"}`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
	if strings.Contains(string(data), "gbit_s") {
		t.Errorf("a figure that was not measured is in %s", data)
	}
	var again []Row
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatal(err)
	}
	rows[0].Figures[CPU] = Spread{40, 30.123, 50}
	rows[1].Figures[RPS] = Spread{12346, 12346, 12346}
	if !reflect.DeepEqual(again, rows) {
		t.Errorf("%+v came back as %+v", rows, again)
	}
}

func TestRatios(t *testing.T) {
	t.Parallel()
	r := Result{Runs: []Row{
		Row{Workload: "http1", Concurrency: 64, System: "direct"}.Summarize(rounds(CPU, 5)),
		Row{Workload: "http1", Concurrency: 64, System: "sennit"}.Summarize(rounds(CPU, 30, 50, 40)),
		Row{Workload: "http1", Concurrency: 64, System: "envoy"}.Summarize(rounds(CPU, 80, 90, 70)),
		Row{Workload: "http1", Concurrency: 64, System: "haproxy"}.Summarize(rounds(CPU, 20)),
		Row{Workload: "http1", Concurrency: 1, System: "sennit"}.Summarize(rounds(CPU, 10)),
		Row{Workload: "latency", Concurrency: 64, Load: LoadHigh, System: "sennit"}.Summarize(rounds(P99, 900)),
		Row{Workload: "latency", Concurrency: 64, Load: LoadHigh, System: "envoy"}.Summarize(rounds(P99, 600)),
		Row{Workload: "latency", Concurrency: 64, Load: LoadHigh, System: "haproxy"}.Summarize(rounds(P99, 300)),
		Row{Workload: "latency", Concurrency: 64, Load: LoadOfEnvoy, System: "sennit"}.Summarize(rounds(P99, 300)),
		Row{Workload: BulkHTTP, Concurrency: 1, System: "sennit"}.Summarize(rounds(CPUPerGB, 6)),
		Row{Workload: BulkHTTP, Concurrency: 1, System: "envoy"}.Summarize(rounds(CPUPerGB, 3)),
		Row{Workload: BulkTCP, Concurrency: 1, System: "envoy"}.Summarize(rounds(CPUPerGB, 1.5)),
		Row{Workload: BulkTCP, Concurrency: 1, System: "sennit-tcp"}.Summarize(rounds(CPUPerGB, 1.8)),
		Row{Workload: "telemetry", Concurrency: 64, System: "sennit"}.Summarize(rounds(CPU, 21)),
		Row{Workload: "telemetry", Concurrency: 64, System: "sennit-quiet"}.Summarize(rounds(CPU, 20)),
	}}
	r.SetRatios()
	for name, want := range map[string]float64{
		"http1/64/cpu":                0.5, // of the medians
		"http1/64/cpu/haproxy":        2,
		"latency/64/80%/p99":          1.5,
		"latency/64/80%/p99/haproxy":  3,
		"latency/64/80% of envoy/p99": 0.5,
		"bulk-http1/1/cpu_per_gb":     2,
		"bulk-http1/1/cpu_per_gb/l4":  4,

		"sennit-tcp/bulk-tcp/1/cpu_per_gb": 1.2,
		"telemetry/64/cpu/sennit-quiet":    1.05,
	} {
		if r.Ratios[name] != want {
			t.Errorf("%s is %v, want %v", name, r.Ratios[name], want)
		}
	}
	for name := range r.Ratios {
		if strings.HasPrefix(name, "http1/1/") || strings.Contains(name, "80% of envoy") && strings.HasSuffix(name, "/haproxy") {
			t.Errorf("%s puts beside each other what was not measured alike", name)
		}
	}
	var text strings.Builder
	r.Print(&text)
	for _, want := range []string{"latency", "80% of envoy", "40.0 (30.0–50.0)", "0.50", "sennit without telemetry", "sennit-tcp/bulk-tcp/1"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
}

func TestWhatTheMachineChanges(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		machine Machine
		want    string // part of a note; "": there is none
	}{
		{"one core", Machine{Cores: 1, UDPGRO: true, UDPGSO: true}, "there is one core"},
		{"few cores", Machine{Cores: 2, UDPGRO: true, UDPGSO: true}, "share 2 cores"},
		{"an old kernel", Machine{Cores: 8, UDPGSO: true}, "GRO"},
		{"a large machine", Machine{Cores: 16, UDPGRO: true, UDPGSO: true}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.machine.note()
			notes := strings.Join(tt.machine.Notes, "\n")
			if !strings.Contains(notes, tt.want) || tt.want == "" && notes != "" {
				t.Errorf("%q", notes)
			}
		})
	}
	if m := ThisMachine(); m.Cores < 1 || m.Kernel == "" || m.Go == "" {
		t.Errorf("%+v", m)
	}
}
