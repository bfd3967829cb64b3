// Package report is what a run of the benchmark says: its JSON, ratios, the table, and the page with its charts.
//
// A Result is made of Rows, one for each system and load, and each figure of a row is a Spread over the rounds.
// Everything that is shown is made from a Result, so that a stored one is enough to make it again. Nothing here
// measures.
//
// Start reading at Result; figures.go has the list of figures.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// A Result is one run.
type Result struct {
	Machine  Machine  `json:"machine"`
	Settings Settings `json:"settings"`
	Runs     []Row    `json:"runs"`
	// Ratios put Sennit beside the others, see ratios.go: "http1/64/cpu" is Sennit's CPU per request by Envoy's.
	Ratios map[string]float64 `json:"ratios"`
	// Missing says what the table lacks: peers that are not installed or ended, each with the reason.
	Missing []string `json:"missing,omitempty"`
}

// Settings are how a run was made.
type Settings struct {
	Command string    `json:"command"`
	Rounds  int       `json:"rounds"` // of each system and load
	Round   string    `json:"round"`  // the length of one
	Time    time.Time `json:"time"`
}

// A Row is one system under one load.
type Row struct {
	Workload    string
	Concurrency int
	Load        string // what else tells this load from others, as "80%" of the system's saturation; may be empty
	System      string
	Errors      int64             // in all rounds together
	Figures     map[string]Spread // by the names in figures.go
	Detail      json.RawMessage   // what a workload says beyond figures, as it says it; may be nil
}

// A Spread is one figure over the rounds: the median, and the least and the greatest.
type Spread struct{ Median, Min, Max float64 }

// A Round is what one round of one system gave.
type Round struct {
	Errors  int64
	Figures map[string]float64
}

// Summarize fills in a row's figures from its rounds, of which there is at least one.
func (r Row) Summarize(rounds []Round) Row {
	values := map[string][]float64{}
	for _, round := range rounds {
		r.Errors += round.Errors
		for name, value := range round.Figures {
			values[name] = append(values[name], value)
		}
	}
	r.Figures = map[string]Spread{}
	for name, all := range values {
		slices.Sort(all)
		r.Figures[name] = Spread{all[len(all)/2], all[0], all[len(all)-1]}
	}
	return r
}

// row is a Row's beginning in JSON; the figures follow it, each as NAME, NAME_min and NAME_max.
type row struct {
	Workload    string `json:"workload"`
	Concurrency int    `json:"concurrency"`
	Load        string `json:"load,omitempty"`
	System      string `json:"system"`
	Errors      int64  `json:"errors"`

	Detail json.RawMessage `json:"detail,omitempty"`
}

// MarshalJSON writes figures as fields of the row, so that other tools read them without knowing of spreads.
func (r Row) MarshalJSON() ([]byte, error) {
	head, err := json.Marshal(row{r.Workload, r.Concurrency, r.Load, r.System, r.Errors, r.Detail})
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(head[:len(head)-1])
	for _, f := range Figures {
		s, ok := r.Figures[f.Name]
		if !ok {
			continue
		}
		for _, field := range []struct {
			name  string
			value float64
		}{{f.Name, s.Median}, {f.Name + "_min", s.Min}, {f.Name + "_max", s.Max}} {
			value, err := json.Marshal(rounded(field.value))
			if err != nil {
				return nil, fmt.Errorf("%s of %s at %s: %w", field.name, r.System, r.Workload, err)
			}
			fmt.Fprintf(b, ",%q:%s", field.name, value)
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads what MarshalJSON wrote. Fields that are no figures are passed over.
func (r *Row) UnmarshalJSON(data []byte) error {
	var head row
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	*r = Row{head.Workload, head.Concurrency, head.Load, head.System, head.Errors, map[string]Spread{}, head.Detail}
	for _, f := range Figures {
		if _, ok := fields[f.Name]; !ok {
			continue
		}
		var s Spread
		for name, into := range map[string]*float64{f.Name: &s.Median, f.Name + "_min": &s.Min, f.Name + "_max": &s.Max} {
			if err := json.Unmarshal(fields[name], into); err != nil {
				return fmt.Errorf("%s of %s at %s: %w", name, r.System, r.Workload, err)
			}
		}
		r.Figures[f.Name] = s
	}
	return nil
}

// Find returns the row of a system under a load, or false.
func (r *Result) Find(workload string, concurrency int, load, system string) (Row, bool) {
	for _, row := range r.Runs {
		if row.Workload == workload && row.Concurrency == concurrency && row.Load == load && row.System == system {
			return row, true
		}
	}
	return Row{}, false
}
