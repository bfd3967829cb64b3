package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestPrometheus lets a real Prometheus scrape a mesh under load, and asks it what an operator would.
func TestPrometheus(t *testing.T) {
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("no mesh is scraped: there is no prometheus here (on Debian: apt install prometheus)")
	}
	t.Parallel()
	m := Start(t, Config{Nodes: []string{"one", "two"}, Services: []string{"default/web", "default/orders"}, Metrics: true})
	m.Serve("two", Service{Name: "default/orders", Version: "v1"})
	orders := m.Listen("one", "default/web", "default/orders:80")
	m.AwaitAnswer("one", orders, "v1")
	load := m.Load(LoadConfig{Address: orders, Node: "one", Connections: 4})
	defer load.Stop()
	p := startPrometheus(t, m, program)

	for what, query := range map[string]string{
		"both nodes and the controller are up":      `count(up == 1) == 3`,
		"requests by who calls whom":                `sum(rate(sennit_requests_total{source="default/web",destination="default/orders",version="v1",code="200"}[10s])) > 1`,
		"their percentiles":                         `histogram_quantile(0.99, sum by (le) (rate(sennit_request_duration_seconds_bucket{source="default/web"}[10s]))) > 0`,
		"a histogram agrees with its counter":       `abs(sum(sennit_request_duration_seconds_count) - sum(sennit_requests_total)) == 0`,
		"bytes back":                                `sum(sennit_response_body_bytes_total{source="default/web"}) > 0`,
		"the lane, from both ends":                  `count(sennit_lane_connections{source="default/web",destination="default/orders"} > 0) == 2`,
		"whom the lanes refused: nobody":            `count(sennit_lane_refused_total{reason="identity"} == 0) == 2`,
		"every certificate has most of a day":       `min(sennit_certificate_expiry_timestamp_seconds - time()) > 3600`,
		"nodes are on the bus, and hear beats":      `count(sennit_bus_connected == 1 and sennit_bus_stale_seconds == 0) == 2`,
		"configuration was applied":                 `min(sennit_config_applied_total) > 0`,
		"the controller knows that nodes are alive": `sennit_nodes{state="alive"} == 2 and on () sennit_controller_leading == 1`,
		"the process":                               `count(process_resident_memory_bytes) == 3`,
	} {
		t.Run(what, func(t *testing.T) {
			m.In(t).Eventually(query, func(ctx context.Context) error { return p.holds(ctx, query) })
		})
	}
}

// A prometheus is where one answers queries.
type prometheus struct{ address string }

func startPrometheus(t *testing.T, m *Mesh, program string) prometheus {
	t.Helper()
	dir := t.TempDir()
	p := prometheus{"127.0.0.1:" + strconv.Itoa(m.port())}
	config := "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:\n- job_name: sennit\n  static_configs:\n"
	for part, address := range m.metrics {
		config += fmt.Sprintf("  - {targets: [%q], labels: {part: %q}}\n", address, part)
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.CommandContext(t.Context(), program, "--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", p.address, "--log.level", "warn")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, as it was told
		if t.Failed() {
			t.Logf("prometheus said:\n%s", said.String())
		}
	})
	return p
}

// fetch reads what a URL of this machine has.
func fetch(ctx context.Context, from string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// holds asks for a comparison, which has a value where it is true.
func (p prometheus) holds(ctx context.Context, query string) error {
	said, err := fetch(ctx, "http://"+p.address+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return err
	}
	var answer struct {
		Error string
		Data  struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(said, &answer); err != nil {
		return err
	}
	if answer.Error != "" || len(answer.Data.Result) == 0 {
		return errors.New("does not hold " + answer.Error)
	}
	return nil
}
