// Command bench measures a pair of Sennit nodes and, in the same run, a direct connection and pairs of other
// proxies, with mutual TLS 1.3 between the two of each pair and two workers in each:
//
//	go run ./bench --only http1 --quick
//	go run ./bench --json > docs/benchmarks/run.json
//	go run ./bench report
//
// Rounds alternate between the systems, so that a noisy machine hits all of them alike; compare ratios within one
// run and never figures of two. A peer that is not installed, or ends while it is measured, is named and left out,
// the others go on, and the exit code is 1: the table is not whole.
//
// The packages below are its parts: peer is what is measured, load the load, sim the nodes of propagation, report
// what is said of it. Start reading at plan.go, which lists the workloads.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sennit-mesh/sennit/bench/peer"
	"github.com/sennit-mesh/sennit/bench/report"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	child, err := peer.RunChild(ctx, args)
	switch {
	case child:
	case len(args) > 0 && args[0] == "report":
		err = writeReport(args[1:])
	default:
		err = run(ctx, args)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A config is what the flags say.
type config struct {
	workloads []workload
	systems   []string // empty: all
	quick     bool
	asJSON    bool
	rounds    int
	round     time.Duration
	profiles  string
	ztunnel   string
}

func parse(args []string) (c config, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "workloads to run, with commas between them: "+names(plan)+"; empty: all")
	systems := flags.String("systems", "", "systems to measure beside the direct connection, with commas between them: sennit, sennit-tcp (its lanes over TCP), envoy, haproxy, ztunnel; empty: all")
	flags.BoolVar(&c.quick, "quick", false, "few short rounds and few loads: --only http1 ends within a minute")
	flags.BoolVar(&c.asJSON, "json", false, "print JSON and no table")
	flags.IntVar(&c.rounds, "rounds", 5, "rounds of each system and load; with --quick 3")
	flags.DurationVar(&c.round, "round", 3*time.Second, "length of one round; with --quick 1s")
	flags.StringVar(&c.profiles, "cpuprofile", "", "folder into which Sennit's nodes write CPU profiles as they end")
	flags.StringVar(&c.ztunnel, "ztunnel", "", "ztunnel's binary, built with --features testing; without it, ztunnel is not measured")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.quick && !given["rounds"] {
		c.rounds = 3
	}
	if c.quick && !given["round"] {
		c.round = time.Second
	}
	if c.rounds < 1 || c.round <= 0 {
		return c, fmt.Errorf("%d rounds of %s measure nothing", c.rounds, c.round)
	}
	if c.workloads, err = choose(*only); err != nil {
		return c, err
	}
	for _, name := range split(*systems) {
		if !slices.Contains([]string{peer.Direct, peer.Sennit, peer.SennitTCP, peer.Envoy, peer.HAProxy, peer.Ztunnel}, name) {
			return c, fmt.Errorf("no system %q (there are sennit, sennit-tcp, envoy, haproxy, ztunnel)", name)
		}
		c.systems = append(c.systems, name)
	}
	if slices.Contains(c.systems, peer.Ztunnel) && c.ztunnel == "" {
		return c, errors.New("ztunnel has no package: give its binary with --ztunnel")
	}
	return c, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// starters are the systems that the run measures beside the direct connection.
func (c config) starters() []peer.Starter {
	all := []peer.Starter{
		peer.StartSennit(peer.Variant{Profiles: c.profiles}),
		peer.StartSennit(peer.Variant{
			Name: peer.SennitTCP, Profiles: c.profiles, NodeFlags: []string{"--lane", "tcp"},
			Workloads: []string{"tcp", report.BulkHTTP, report.BulkTCP},
		}),
		peer.StartEnvoy(), peer.StartHAProxy(),
	}
	if c.ztunnel != "" {
		all = append(all, peer.StartZtunnel(c.ztunnel))
	}
	return slices.DeleteFunc(all, func(s peer.Starter) bool {
		return len(c.systems) > 0 && !slices.Contains(c.systems, s.Name)
	})
}

func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	b := &bench{
		cfg: cfg, starters: cfg.starters(), out: map[string]error{},
		result: report.Result{Machine: report.ThisMachine(), Settings: report.Settings{
			Command: command(args),
			Rounds:  cfg.rounds, Round: cfg.round.String(), Time: time.Now().UTC().Truncate(time.Second),
		}},
	}
	if b.dir, err = os.MkdirTemp("", "sennit-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := errors.Join(b.run(ctx), b.stop()); err != nil {
		return err
	}
	b.result.SetRatios()
	if err := show(&b.result, cfg.asJSON); err != nil {
		return err
	}
	if len(b.result.Missing) > 0 {
		return fmt.Errorf("the table is not whole:\n  %s", strings.Join(b.result.Missing, "\n  "))
	}
	return nil
}

// command is the command line as it can be typed elsewhere: paths of this machine are not in it.
func command(args []string) string {
	words := []string{"go run ./bench"}
	for i, arg := range args {
		name, _, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case given && (name == "ztunnel" || name == "cpuprofile"):
			arg = "--" + name + "=PATH"
		case i > 0 && slices.Contains([]string{"ztunnel", "cpuprofile"}, strings.TrimLeft(args[i-1], "-")):
			arg = "PATH"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

func show(result *report.Result, asJSON bool) error {
	if !asJSON {
		result.Print(os.Stdout)
		return nil
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	return encoder.Encode(result)
}

// writeReport makes the page and the charts of a run that is stored.
func writeReport(args []string) error {
	flags := flag.NewFlagSet("bench report", flag.ContinueOnError)
	from := flags.String("from", "docs/benchmarks/run.json", "the JSON of the run")
	page := flags.String("page", "docs/benchmarks.md", "the page; what is generated stands between its two markers")
	charts := flags.String("charts", "docs/benchmarks", "folder of the charts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	data, err := os.ReadFile(*from)
	if err != nil {
		return fmt.Errorf("%w (make it with `go run ./bench --json > %s`)", err, *from)
	}
	var result report.Result
	if err := json.Unmarshal(data, &result); err != nil {
		return fmt.Errorf("read %s: %w", *from, err)
	}
	return result.Write(*page, *charts)
}
