package controller

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// serveMetrics answers scrapes until ctx ends.
func (c *Controller) serveMetrics(ctx context.Context) error {
	l, err := socket.ListenMetrics(ctx, c.cfg.Metrics)
	if err != nil {
		return err
	}
	c.log.Info("metrics are served", "address", l.Addr().String())
	all := []prometheus.Collector{scraped{c}}
	if c.exporter != nil {
		all = append(all, c.exporter)
	}
	return socket.Serve(ctx, l, telemetry.NewMetrics(all...))
}

// scraped are the metrics of a controller, read when somebody scrapes.
type scraped struct{ controller *Controller }

var (
	infoDesc      = prometheus.NewDesc("sennit_controller_info", "1, with the names of cluster and controller and the version of its program.", []string{"cluster", "controller", "version"}, nil)
	leadingDesc   = prometheus.NewDesc("sennit_controller_leading", "1 while this controller leads.", nil, nil)
	nodesDesc     = prometheus.NewDesc("sennit_nodes", "Nodes of the cluster by state: alive, lost, or unknown.", []string{"state"}, nil)
	frozenDesc    = prometheus.NewDesc("sennit_nodes_frozen", "Nodes whose identity is frozen, until `sennit node accept`.", nil, nil)
	behindDesc    = prometheus.NewDesc("sennit_nodes_behind", "Nodes that use configuration which they have not applied yet.", nil, nil)
	instancesDesc = prometheus.NewDesc("sennit_instances", "Instances that nodes have registered.", nil, nil)
	epochDesc     = prometheus.NewDesc("sennit_config_epoch", "Epoch of the newest snapshot: 0, or the time of a restore.", nil, nil)
	refusedDesc   = prometheus.NewDesc("sennit_operator_requests_refused_total", "Requests of operators that were refused, by reason: unrecognised, too_many (of these), or forbidden.", []string{"reason"}, nil)
	nodesRefused  = prometheus.NewDesc("sennit_refusals_total", "What nodes were refused, by the bus or by this controller, by kind.", []string{"node", "kind"}, nil)
	issuerDesc    = prometheus.NewDesc("sennit_intermediate_expiry_timestamp_seconds", "When the intermediate ends that issues for nodes, in seconds since 1970.", nil, nil)
	upstreamDesc  = prometheus.NewDesc("sennit_upstream_ca_failing", "1 while the authority outside that the controller is set to could not be asked the last time, or answered what cannot be used.", nil, nil)
	revisionDesc  = prometheus.NewDesc("sennit_config_revision", "Revision of the newest snapshot.", nil, nil)
)

// Describe names the metrics (prometheus.Collector).
func (m scraped) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		infoDesc, leadingDesc, nodesDesc, frozenDesc, behindDesc, instancesDesc, epochDesc, revisionDesc, refusedDesc, nodesRefused, issuerDesc, upstreamDesc,
	} {
		out <- desc
	}
}

// Collect reads the metrics (prometheus.Collector).
func (m scraped) Collect(out chan<- prometheus.Metric) {
	c := m.controller
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(infoDesc, 1, c.cfg.Cluster, c.cfg.Name, release.Version())
	leading := 0.0
	if c.publisher.Leading() {
		leading = 1
	}
	gauge(leadingDesc, leading)
	states := map[string]int{report.Alive: 0, report.Lost: 0, report.Unknown: 0}
	frozen, behind := 0, 0
	living, standings := c.liveness(), c.publisher.Applied().Standings()
	for name, node := range c.members.list() {
		state, _ := living(name)
		states[state]++
		if node.State == "frozen" {
			frozen++
		}
		if standings[name].Behind > 0 {
			behind++
		}
	}
	for state, n := range states {
		gauge(nodesDesc, float64(n), state)
	}
	gauge(frozenDesc, float64(frozen))
	gauge(behindDesc, float64(behind))
	all, _, _ := c.instances()
	gauge(instancesDesc, float64(len(all)))
	c.refusals.each(func(node, kind string, total uint64) {
		out <- prometheus.MustNewConstMetric(nodesRefused, prometheus.CounterValue, float64(total), node, kind)
	})
	newest := c.publisher.Applied().Newest()
	gauge(issuerDesc, float64(c.issuerEnds().Unix()))
	if c.upstream != nil {
		failing := 0.0
		if c.upstreamWrong() != "" {
			failing = 1
		}
		gauge(upstreamDesc, failing)
	}
	gauge(epochDesc, float64(newest.Epoch))
	gauge(revisionDesc, float64(newest.Revision))
	refused := c.api.Refusals()
	for reason, n := range map[string]uint64{"unrecognised": refused.Unrecognised, "too_many": refused.TooMany, "forbidden": refused.Forbidden} {
		out <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), reason)
	}
}
