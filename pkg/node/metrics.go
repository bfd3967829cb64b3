package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// serveMetrics answers scrapes until ctx ends.
func (n *Node) serveMetrics(ctx context.Context) error {
	l, err := socket.ListenMetrics(ctx, n.cfg.Metrics)
	if err != nil {
		return err
	}
	n.log.Info("metrics are served", "address", l.Addr().String())
	return socket.Serve(ctx, l, telemetry.NewMetrics(n.edges, n.spans, &n.faults, scraped{n}))
}

// scraped are the metrics of the node itself, read when somebody scrapes.
type scraped struct{ node *Node }

var (
	infoDesc           = prometheus.NewDesc("sennit_node_info", "1, with the node's name and the version of its program.", []string{"node", "version"}, nil)
	connectedDesc      = prometheus.NewDesc("sennit_bus_connected", "1 while the node is connected to the bus.", nil, nil)
	staleDesc          = prometheus.NewDesc("sennit_bus_stale_seconds", "For how long the controllers' beats have not come; 0 while they do.", nil, nil)
	beatDesc           = prometheus.NewDesc("sennit_bus_beat", "Number of the newest beat that came.", nil, nil)
	missingDesc        = prometheus.NewDesc("sennit_config_missing_subjects", "Subjects that are needed and of which nothing has come yet.", nil, nil)
	refusedDesc        = prometheus.NewDesc("sennit_config_refused_subjects", "Subjects whose newest configuration needs a newer node.", nil, nil)
	appliedDesc        = prometheus.NewDesc("sennit_config_applied_total", "Snapshots that were taken into force.", nil, nil)
	unusableDesc       = prometheus.NewDesc("sennit_config_unusable_total", "Snapshots that could not be used: what was in force before stayed.", nil, nil)
	expiryDesc         = prometheus.NewDesc("sennit_certificate_expiry_timestamp_seconds", "When a certificate ends, as Unix time; without a service: the node's own.", []string{"service"}, nil)
	healthyDesc        = prometheus.NewDesc("sennit_instance_healthy", "1 while an instance on this host is healthy.", []string{"service", "instance"}, nil)
	laneLabels         = []string{"direction", "source", "destination", "peer"}
	laneConnsDesc      = prometheus.NewDesc("sennit_lane_connections", "Connections of a lane; the peer of an inbound one is not told by its certificate, and empty.", laneLabels, nil)
	laneRunningDesc    = prometheus.NewDesc("sennit_lane_exchanges", "Exchanges that run on a lane.", laneLabels, nil)
	laneIdleDesc       = prometheus.NewDesc("sennit_lane_idle_streams", "Streams of a lane that wait for an exchange.", laneLabels, nil)
	laneCrowdedDesc    = prometheus.NewDesc("sennit_lane_crowded_connections", "Connections of a lane on which many streams stall.", laneLabels, nil)
	laneRTTDesc        = prometheus.NewDesc("sennit_lane_rtt_seconds", "Smoothed round-trip time; the longest of a lane's connections.", laneLabels, nil)
	laneRefusedDesc    = prometheus.NewDesc("sennit_lane_refused_total", "Connections that peers wanted to open and were refused, by reason: the certificate does not hold, the service is not here, there were too many.", []string{"reason"}, nil)
	logDroppedDesc     = prometheus.NewDesc("sennit_access_log_dropped_total", "Lines of the access log that were dropped, by reason: the queue was full, or writing failed.", []string{"reason"}, nil)
	gatewayLabels      = []string{"gateway", "address"}
	gatewayOpenDesc    = prometheus.NewDesc("sennit_gateway_open", "1 while a port of a gateway is open for those outside.", gatewayLabels, nil)
	gatewayConnsDesc   = prometheus.NewDesc("sennit_gateway_connections", "Connections from outside that are open. At 4,096 more wait in the kernel's queue.", gatewayLabels, nil)
	gatewayTakenDesc   = prometheus.NewDesc("sennit_gateway_accepted_total", "Connections from outside that were accepted since the port was opened.", gatewayLabels, nil)
	gatewayRefusedDesc = prometheus.NewDesc("sennit_gateway_refused_total", "Connections from outside that were reset because their source had too many.", gatewayLabels, nil)
	flowLabels         = []string{"address", "source", "destination"}
	flowsDesc          = prometheus.NewDesc("sennit_listener_flows", "Flows of a listener of UDP that are open: of sockets that send to it.", flowLabels, nil)
	flowsBegunDesc     = prometheus.NewDesc("sennit_listener_flows_total", "Flows that began since the listener was opened.", flowLabels, nil)
	flowsRefusedDesc   = prometheus.NewDesc("sennit_listener_datagrams_refused_total", "Datagrams of senders who may not use the listener, or of whom it has too many.", flowLabels, nil)
	flowsDroppedDesc   = prometheus.NewDesc("sennit_listener_datagrams_dropped_total", "Datagrams that found a queue full, either way.", flowLabels, nil)
	tapsDesc           = prometheus.NewDesc("sennit_taps", "Taps that are open: commands that look at exchanges as they end.", nil, nil)
	tapDroppedDesc     = prometheus.NewDesc("sennit_tap_dropped_total", "Exchanges that a tap wanted and did not get: there were more than it takes.", nil, nil)
	ejectedDesc        = prometheus.NewDesc("sennit_ejected_instances", "Instances that this node does not ask for a while, as a ResiliencePolicy says.", []string{"destination"}, nil)
	ejectionsDesc      = prometheus.NewDesc("sennit_ejections_total", "Times that this node ejected an instance.", []string{"destination"}, nil)
	circuitDesc        = prometheus.NewDesc("sennit_circuit_open_total", "Exchanges that were refused because a ResiliencePolicy allows no more at a time, by what there was too much of.", []string{"destination", "limit"}, nil)
	concurrencyDesc    = prometheus.NewDesc("sennit_concurrency_limit", "Requests that this node may have under way at a time, as it has measured.", []string{"destination"}, nil)
	deniedDesc         = prometheus.NewDesc("sennit_authorization_denied_total", "Exchanges with services of this host that an AuthorizationPolicy refused.", []string{"destination", "policy"}, nil)
	wouldDenyDesc      = prometheus.NewDesc("sennit_authorization_would_deny_total", "Exchanges with services of this host that an AuthorizationPolicy on its dry run would have refused.", []string{"destination", "policy"}, nil)
	unprovenDesc       = prometheus.NewDesc("sennit_authentication_refused_total", "Exchanges with services of this host that an AuthenticationPolicy refused.", []string{"destination", "policy"}, nil)
	plaintextDesc      = prometheus.NewDesc("sennit_plaintext_connections_total", "Connections of callers without an identity, by what became of them: taken by a permissive service, or refused by a strict one.", []string{"destination", "verdict"}, nil)
	verificationsDesc  = prometheus.NewDesc("sennit_config_verifications_total", "Signatures of configuration that were verified.", nil, nil)
)

// Describe names the metrics (prometheus.Collector).
func (m scraped) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		infoDesc, connectedDesc, staleDesc, beatDesc, missingDesc, refusedDesc, appliedDesc, unusableDesc, verificationsDesc, expiryDesc,
		healthyDesc, laneConnsDesc, laneRunningDesc, laneIdleDesc, laneCrowdedDesc, laneRTTDesc, laneRefusedDesc, logDroppedDesc,
		gatewayOpenDesc, gatewayConnsDesc, gatewayTakenDesc, gatewayRefusedDesc, flowsDesc, flowsBegunDesc, flowsRefusedDesc, flowsDroppedDesc, tapsDesc, tapDroppedDesc,
		ejectedDesc, ejectionsDesc, circuitDesc, concurrencyDesc,
		deniedDesc, wouldDenyDesc, unprovenDesc, plaintextDesc,
	} {
		out <- desc
	}
}

// Collect reads the metrics (prometheus.Collector).
func (m scraped) Collect(out chan<- prometheus.Metric) {
	n := m.node
	value := func(kind prometheus.ValueType, desc *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, v, labels...)
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		value(prometheus.GaugeValue, desc, v, labels...)
	}
	counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
		value(prometheus.CounterValue, desc, float64(v), labels...)
	}
	gauge(infoDesc, 1, n.identity.Node(), release.Version())
	following := n.follower.State()
	gauge(connectedDesc, oneIf(n.conn.Err() == nil))
	stale := 0.0
	if !following.StaleSince.IsZero() {
		stale = time.Since(following.StaleSince).Seconds()
	}
	gauge(staleDesc, stale)
	gauge(beatDesc, float64(following.Beat.Revision))
	gauge(missingDesc, float64(len(following.Missing)))
	gauge(refusedDesc, float64(len(following.Refused)))
	counter(verificationsDesc, following.Verifications)
	counter(appliedDesc, n.applied.Load())
	counter(unusableDesc, n.unusable.Load())
	for _, c := range n.identity.Status().Certificates {
		gauge(expiryDesc, float64(c.NotAfter.Unix()), serviceOf(c.SPIFFEID))
	}
	for _, in := range n.registered() {
		gauge(healthyDesc, oneIf(in.Healthy), in.Service, in.Instance)
	}
	gauge(tapsDesc, float64(n.taps.Len()))
	counter(tapDroppedDesc, n.taps.Dropped())
	if n.access != nil {
		full, unwritten := n.access.Dropped()
		counter(logDroppedDesc, full, "queue-full")
		counter(logDroppedDesc, unwritten, "write-failed")
	}
	for _, l := range n.capture.Status() {
		if l.Listener.UDP && !l.Listener.Gateway {
			labels := []string{l.Listener.Address.String(), l.Listener.As.String(), l.Listener.To.String()}
			gauge(flowsDesc, float64(l.Active), labels...)
			counter(flowsBegunDesc, l.Accepted, labels...)
			counter(flowsRefusedDesc, l.Refused, labels...)
			counter(flowsDroppedDesc, l.Dropped, labels...)
		}
	}
	for _, g := range n.gatewayStatus() {
		gauge(gatewayOpenDesc, oneIf(g.Error == ""), g.Gateway, g.Address)
		gauge(gatewayConnsDesc, float64(g.Connections), g.Gateway, g.Address)
		counter(gatewayTakenDesc, g.Accepted, g.Gateway, g.Address)
		counter(gatewayRefusedDesc, g.Refused, g.Gateway, g.Address)
	}
	for _, g := range n.table.Guarded(time.Now()) {
		gauge(ejectedDesc, float64(len(g.Ejected)), g.Service.String())
		counter(ejectionsDesc, g.Ejections, g.Service.String())
		if g.Limit > 0 {
			gauge(concurrencyDesc, float64(g.Limit), g.Service.String())
		}
		for limit, refused := range g.Refused {
			counter(circuitDesc, refused, g.Service.String(), limit)
		}
	}
	denials, counts := n.admission.denied.list()
	for i, d := range denials {
		desc := deniedDesc
		switch {
		case d.policy == strictly:
			verdict := "refused"
			if d.dryRun {
				verdict = "taken"
			}
			counter(plaintextDesc, counts[i], d.service.String(), verdict)
			continue
		case d.dryRun:
			desc = wouldDenyDesc
		}
		counter(desc, counts[i], d.service.String(), d.policy)
	}
	unproven, refused := n.users.refused.list()
	for i, one := range unproven {
		counter(unprovenDesc, refused[i], one.service.String(), one.policy)
	}
	for lane, of := range lanesOf(n.lanes.Connections()) {
		labels := []string{lane.direction, lane.source, lane.destination, lane.peer}
		gauge(laneConnsDesc, float64(of.connections), labels...)
		gauge(laneRunningDesc, float64(of.running), labels...)
		gauge(laneIdleDesc, float64(of.idle), labels...)
		gauge(laneCrowdedDesc, float64(of.crowded), labels...)
		gauge(laneRTTDesc, of.rtt.Seconds(), labels...)
	}
	for _, why := range transport.Refusals {
		counter(laneRefusedDesc, n.lanes.Refused(why), why.String())
	}
}

type laneName struct{ direction, source, destination, peer string }

type laneSum struct {
	connections, running, idle, crowded int
	rtt                                 time.Duration
}

// lanesOf puts the connections of each lane together.
func lanesOf(connections []transport.ConnectionState) map[laneName]laneSum {
	lanes := map[laneName]laneSum{}
	for _, c := range connections {
		name := laneName{"outbound", c.Key.Local.String(), c.Key.Remote.String(), c.Key.Node}
		if c.Inbound {
			name.direction = "inbound"
		}
		of := lanes[name]
		of.connections++
		of.running += c.Running
		of.idle += c.Idle
		if c.Crowded {
			of.crowded++
		}
		of.rtt = max(of.rtt, c.RTT)
		lanes[name] = of
	}
	return lanes
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
