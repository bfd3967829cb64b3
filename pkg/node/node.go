package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/http1"
	"github.com/sennit-mesh/sennit/pkg/proxy"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/transport"
)

// peerSilence is after how long without a packet a peer counts as gone, and what ran there is tried elsewhere.
const peerSilence = 3 * time.Second

// A Node is the proxy of one host.
type Node struct {
	certificates certificates // of gateways
	cfg          Config
	log          *slog.Logger

	identity  *ca.Identity
	store     *store
	local     *registry.Local
	registrar *registry.Registrar
	table     *routing.Table
	lanes     *transport.Transport
	udp       *net.UDPConn     // the lanes'; Run closes it too
	tcp       *net.TCPListener // likewise; nil: none
	inbound   *proxy.Inbound
	outsides  outsides // what instances lead to that are this node itself
	admission access   // who may call what runs here
	outbound  *proxy.Outbound
	capture   *capture.Listeners
	conn      *bus.Conn
	follower  *bus.Follower
	words     *Words
	quota     *quota.Spender
	edges     *telemetry.Edges
	spans     *telemetry.Spans
	taps      telemetry.Taps
	faults    telemetry.Faults
	access    *telemetry.AccessLog // nil: none
	logFile   io.Closer
	applied   atomic.Uint64 // snapshots taken into force
	unusable  atomic.Uint64 // snapshots that could not be

	mu       sync.Mutex // guards writing to the table, and what follows
	followed []string
	opened   []capture.Listener // what capture was asked for last
	needed   []string           // of followed: what the table asked for
	changed  chan struct{}      // closed and replaced with each delivery
	leaving  atomic.Bool
	ready    bool // what was kept is in the table
}

// New opens the node's state, joins where the host has not joined, and prepares everything; nothing runs
// before Run. ctx bounds the joining.
func New(ctx context.Context, cfg Config) (n *Node, err error) {
	n = &Node{cfg: cfg, log: cmp.Or(cfg.Log, slog.Default()), changed: make(chan struct{}), table: routing.New()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := n.join(ctx); err != nil {
		return n, err
	}
	n.log = n.log.With("node", n.identity.Node())
	n.table.Node, n.table.Zone, n.table.Region = n.identity.Node(), cfg.Zone, cfg.Region
	if n.store, err = openStore(cfg.StateDir); err != nil {
		return n, err
	}
	if err := n.openLanes(); err != nil {
		return n, err
	}
	if err := n.openLogs(); err != nil {
		return n, err
	}
	if n.conn, err = bus.Dial(n.identity.BusConfig()); err != nil {
		return n, err
	}
	n.words = NewWords(n.conn, n.identity, n.log)
	if cfg.Now != nil {
		n.words.now = cfg.Now
	}
	n.quota = quota.NewSpender(n.words.Lease, n.log)
	if err := n.openFollower(); err != nil {
		return n, err
	}
	n.local, err = registry.NewLocal(registry.LocalConfig{
		Node: n.identity.Node(), Dir: cfg.ServicesDir, Store: n.store, Changed: n.declared, Log: n.log,
	})
	if err != nil {
		return n, err
	}
	sealing, err := n.store.sealingKey()
	if err != nil {
		return n, fmt.Errorf("read %s: %w", filepath.Join(n.cfg.StateDir, "node.db"), err)
	}
	n.certificates.key = sealing
	n.registrar = registry.NewRegistrar(registry.RegistrarConfig{
		Node: n.identity.Node(), Local: n.local, LaneAddress: n.address, Bus: n.words, Version: release.Version(), Log: n.log,
		Zone: cfg.Zone, Region: cfg.Region, Ports: n.gatewayPorts, SealingKey: sealing.PublicKey().Bytes(),
	})
	n.inbound = proxy.NewInbound(places{n.local, &n.outsides, n.table}, http1Limits, n.log)
	n.inbound.Traced = &traced{n.spans}
	n.admission.log, n.admission.spans = n.access, n.spans
	n.inbound.Access = &n.admission
	n.outbound = &proxy.Outbound{
		TraceShare: cfg.TraceShare,
		Table:      n.table, Lanes: n.lanes, Await: n.await, Observe: n.observe, Quota: n.quota, Log: n.log, Limits: http1Limits,
		Certificates: n.certificates.of, Clients: n.certificates.clients,
	}
	n.capture, err = capture.New(capture.Config{
		Handle: n.outbound.Serve, Changed: n.registrar.Wake, MaxOfSource: cfg.SourceConnections, Log: n.log,
	}) // the last: Run closes what it opened
	return n, err
}

// Heads are bounded alike where applications, processes and peers send them, so that what one side takes the
// other passes on. A head takes at most a few bytes more on a lane than in HTTP/1.1: laneHead has room for them.
const (
	httpHead   = 60 << 10
	laneHead   = 64 << 10
	headFields = 256
	// addedFields is how many fields a node may add: traceparent, and at a gateway four that say where a request comes
	// from.
	addedFields = 5
)

// http1Limits bound what applications and processes can make a connection hold.
var http1Limits = http1.Limits{Head: httpHead, Fields: headFields, HeadTimeout: 30 * time.Second}

// join opens the identity, and gets one where there is none.
func (n *Node) join(ctx context.Context) (err error) {
	n.identity, err = ca.NewIdentity(ca.IdentityConfig{Dir: n.cfg.StateDir, Log: n.log, Rotated: n.rotated, Now: n.cfg.Now})
	if err != nil || n.identity.Joined() {
		return err
	}
	if n.cfg.Join == "" {
		return fmt.Errorf("%w: give --join TOKEN (make one on a controller's host with `sennit join-token create --node NAME --service NAMESPACE/NAME`)", ca.ErrNotJoined)
	}
	token, err := ca.ParseToken(n.cfg.Join)
	if err != nil {
		return err
	}
	n.identity.SetAddress(n.laneAddress(token.Addresses()))
	if err := n.identity.Join(ctx, token, nil); err != nil {
		err = fmt.Errorf("join cluster %s as node %s: %w", token.Cluster(), token.Node(), err)
		if network := (*net.OpError)(nil); errors.As(err, &network) {
			err = fmt.Errorf("%w (does the controller run there, and does every firewall between let its TCP port through?)", err)
		}
		return err
	}
	n.log.Info("host has joined", "node", n.identity.Node(), "cluster", n.identity.Cluster())
	return nil
}

func (n *Node) openLanes() error {
	socket, listener, err := listenLanes(n.cfg.Lanes, n.cfg.Lane != transport.QUIC)
	if err != nil {
		return err
	}
	n.udp, n.tcp = socket, listener
	n.cfg.Lanes = socket.LocalAddr().(*net.UDPAddr).AddrPort()
	resets, err := n.store.resetKey()
	if err != nil {
		return err
	}
	n.lanes, err = transport.New(transport.Config{
		Conn: socket, Listener: n.tcp, Only: n.cfg.Lane, Credentials: n.identity, Log: n.log, ResetKey: resets,
		Limits: transport.Limits{Silence: peerSilence, Head: laneHead, Fields: headFields + addedFields},
		Serve:  func(ctx context.Context, s *transport.Stream) { n.inbound.Serve(ctx, s) },
	})
	if err != nil {
		return err
	}
	n.identity.SetAddress(n.address())
	return nil
}

func (n *Node) openLogs() error {
	n.edges, n.spans = telemetry.NewEdges(time.Now()), telemetry.NewSpans()
	to := io.Writer(os.Stdout)
	switch n.cfg.AccessLog {
	case "":
		return nil
	case "-":
	default:
		file, err := os.OpenFile(n.cfg.AccessLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return fmt.Errorf("access log: %w (give another file with --access-log)", err)
		}
		n.logFile, to = file, file
	}
	n.access = telemetry.NewAccessLog(telemetry.AccessLogConfig{Node: n.identity.Node(), To: to, Share: n.cfg.LogShare})
	return nil
}

func (n *Node) openFollower() error {
	kept, err := n.store.snapshots()
	if err != nil {
		return fmt.Errorf("read %s: %w (it holds only copies: remove it, and the node asks the controllers again)", filepath.Join(n.cfg.StateDir, "node.db"), err)
	}
	if roster := n.identity.Roster(); roster != nil {
		kept = append([]snapshot.Raw{{Subject: snapshot.RosterSubject, Data: roster}}, kept...)
	}
	n.follower, err = bus.NewFollower(bus.FollowerConfig{
		Conn: n.conn, Cluster: n.identity.Cluster(), Node: n.identity.Node(), Root: n.identity.RootHash(),
		Features: []string{quota.Feature, snapshot.FeatureFilters, snapshot.FeatureIngressTLS, snapshot.FeatureIngressClients, snapshot.FeatureIngressTCP, snapshot.FeatureAuthorization}, Kept: kept, Deliver: n.deliver, Restored: n.restored, Keep: n.store.keep, Clock: n.identity.CompareClock, Log: cmp.Or(n.cfg.Log, slog.Default()),
	})
	return err
}

// restored begins to follow by what the node needs, once all that was kept is in the table.
func (n *Node) restored() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready = true
	n.follow()
}

// Run carries traffic until ctx ends, then drains: peers and the controllers are told, what runs is
// finished within the drain time, and everything is closed. It is called once.
func (n *Node) Run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, running := errgroup.WithContext(running)
	part := func(name string, run func(context.Context) error) {
		group.Go(func() error {
			if err := run(running); err != nil && running.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("lanes", n.lanes.Run)
	select {
	case <-n.lanes.Running():
	case <-running.Done():
		return errors.Join(group.Wait(), n.close())
	}
	part("processors", n.fitProcessors)
	part("inbound", n.inbound.Run)
	part("outbound", n.outbound.Run)
	part("configuration", n.follower.Run)
	part("store", n.store.retry)
	part("services", n.local.Run)
	part("registration", n.registrar.Run)
	part("identity", func(ctx context.Context) error { return n.identity.Run(ctx, n.conn) })
	part("telemetry", func(ctx context.Context) error { return n.words.reportEdges(ctx, n.edges) })
	part("quota", n.quota.Run)
	part("traces", func(ctx context.Context) error { return n.words.reportSpans(ctx, n.spans) })
	part("taps", n.serveTaps)
	part("socket", n.serveSocket)
	part("reload", n.reloadOnHangup)
	if n.access != nil {
		part("access log", n.access.Run)
	}
	if n.cfg.Metrics != "" {
		part("metrics", n.serveMetrics)
	}
	callers, stopCallers := context.WithCancel(running)
	defer stopCallers()
	group.Go(func() error {
		if err := n.capture.Run(callers); callers.Err() == nil {
			return fmt.Errorf("listeners: %w", err)
		}
		return nil // an error would end the parts that still drain
	})
	unwatch := n.conn.Notify(n.noticed)
	defer unwatch()
	n.declared()
	n.log.Info("node runs", "lanes", n.address(), "services", len(n.local.Instances()))

	select {
	case <-ctx.Done():
		n.drain(stopCallers)
		stop()
	case <-running.Done():
	}
	return errors.Join(group.Wait(), n.close())
}

// reloadOnHangup reads services.d again at each SIGHUP, as `systemctl reload` sends it.
func (n *Node) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := n.local.Reload(); err != nil {
				n.log.Warn("services.d was read again; files with mistakes keep their last good content", "err", err)
			}
		}
	}
}

// drain says goodbye and waits for what runs.
func (n *Node) drain(stopCallers func()) {
	n.log.Info("node stops: what runs is finished first", "within", n.cfg.DrainTime.String())
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTime)
	defer cancel()
	if n.conn.Err() == nil {
		saying, cancel := context.WithTimeout(ctx, n.cfg.DrainTime/3) // the rest is for what runs
		err := n.registrar.Drain(saying)
		cancel()
		if err != nil {
			n.log.Warn("not every registration could be taken back", "err", err)
		}
	}
	n.leaving.Store(true)
	stopCallers()
	if err := n.lanes.Drain(ctx); err != nil {
		n.log.Warn("exchanges were cut off", "err", err)
	}
}

// noticed hears of the bus.
func (n *Node) noticed(notice bus.Notice) {
	switch notice.Kind {
	case bus.Connected:
		n.log.Info("bus connected")
		n.identity.SetAddress(n.address())
		n.registrar.Resend()
	case bus.Disconnected:
		if n.leaving.Load() || notice.Err == nil { // leaving, or connecting anew with another token
			return
		}
		n.log.Warn("bus is away: the node serves with what it has", "err", notice.Err)
	case bus.Refused:
		n.log.Warn("the bus refuses something", "err", notice.Err)
	}
}

// rotated hears that certificates were replaced. A new token for the bus holds other permissions, which
// count from the next connecting on.
func (n *Node) rotated(r ca.Rotation) {
	if n.conn == nil {
		return // joining
	}
	if r.Key || len(r.Services) > 0 {
		if err := n.conn.Reconnect(); err != nil {
			n.log.Debug("reconnect with the new token", "err", err)
		}
	}
	n.registrar.Resend()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listen() // a gateway may have its identity now
}

func (n *Node) close() error {
	var errs []error
	if n.udp != nil {
		_ = n.udp.Close() // where the lanes ran they have closed it
	}
	if n.tcp != nil {
		_ = n.tcp.Close()
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.close())
	}
	if n.identity != nil {
		errs = append(errs, n.identity.Close())
	}
	if n.logFile != nil {
		errs = append(errs, n.logFile.Close())
	}
	return errors.Join(errs...)
}

func (n *Node) address() string { return n.laneAddress(n.identity.BusConfig().Servers) }

// laneAddress is where other nodes dial this one: as it was told, else the address that this host has
// towards the bus.
func (n *Node) laneAddress(servers []string) string {
	port := n.cfg.Lanes.Port()
	if n.cfg.Advertise != "" {
		if full, err := netip.ParseAddrPort(n.cfg.Advertise); err == nil {
			return full.String()
		}
		if address, err := netip.ParseAddr(n.cfg.Advertise); err == nil {
			return netip.AddrPortFrom(address, port).String()
		}
	}
	if address := n.cfg.Lanes.Addr(); !address.IsUnspecified() {
		return netip.AddrPortFrom(address, port).String()
	}
	for _, server := range servers {
		dialer := net.Dialer{Timeout: time.Second} // for a name that nobody resolves
		conn, err := dialer.Dial("udp", server)    // sends nothing: it asks the kernel for a route
		if err != nil {
			continue
		}
		conn.Close()
		return netip.AddrPortFrom(conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), port).String()
	}
	return ""
}
