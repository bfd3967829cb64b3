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
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

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
	"github.com/sennit-mesh/sennit/pkg/workload"
)

// peerSilence is after how long without a packet a peer counts as gone, and what ran there is tried elsewhere.
const peerSilence = 3 * time.Second

// A Node is the proxy of one host.
type Node struct {
	certificates certificates // of gateways
	logins       logins       // likewise
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
	outsides  outsides     // what instances lead to that are this node itself
	tls       originations // by which processes are spoken to in TLS
	admission access       // who may call what runs here
	users     users        // how the end users of what runs here are known
	outbound  *proxy.Outbound
	plain     plaintext // for callers without an identity
	capture   *capture.Listeners
	workload  *workload.Server // nil: no Workload API
	bundles   bundles
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
	ready    bool           // what was kept is in the table
	named    map[named]bool // what is revoked by name
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
	n.table.UnknownKey = n.users.unknown
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
	sealing, err := n.store.sealingKey(n.identity)
	if err != nil {
		return n, fmt.Errorf("read %s: %w", filepath.Join(n.cfg.StateDir, "node.db"), err)
	}
	n.certificates.key = sealing
	n.logins.key, n.logins.log = sealing, n.log
	n.registrar = registry.NewRegistrar(registry.RegistrarConfig{
		Node: n.identity.Node(), Local: n.local, LaneAddress: n.address, Bus: n.words, Version: release.Version(), Log: n.log,
		Zone: cfg.Zone, Region: cfg.Region, Ports: n.gatewayPorts, SealingKey: sealing.PublicKey().Bytes(),
		StaleKeys: n.users.staleKeys,
		Standing: func() (s registry.Standing) {
			s.Epoch, s.Serial, s.Issued = n.identity.Standing()
			return s
		},
	})
	n.inbound = proxy.NewInbound(places{n.local, &n.outsides, &n.tls, n.table}, http1Limits, n.log)
	n.inbound.Traced = &traced{n.spans}
	n.admission.log, n.admission.spans = n.access, n.spans
	n.inbound.Access = &n.admission
	n.users.admission = &n.admission
	n.inbound.Users = &n.users
	n.outbound = &proxy.Outbound{
		TraceShare: cfg.TraceShare,
		Table:      n.table, Lanes: n.lanes, Await: n.await, Observe: n.observe, Quota: n.quota, Log: n.log, Limits: http1Limits,
		Certificates: n.certificates.of, Clients: n.certificates.clients, Logins: n.logins.of,
	}
	n.newPlaintext()
	n.openWorkload()
	n.capture, err = capture.New(capture.Config{
		Handle: n.accept, HandleFlow: n.outbound.ServeFlow, Changed: n.registrar.Wake, MaxOfSource: cfg.SourceConnections, Log: n.log,
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
	device, keys := n.device()
	n.identity, err = ca.NewIdentity(ca.IdentityConfig{
		Dir: n.cfg.StateDir, KeyFile: n.cfg.KeyFile, TPM: device, KeysInTPM: keys, Log: n.log, Rotated: n.rotated, Now: n.cfg.Now,
	})
	if err != nil {
		return err
	}
	if n.identity.Joined() {
		if n.identity.KeyInTPM() {
			if err := device.Check(); err != nil { // what the node holds is good until it ends
				n.log.Error("the node's key is in a TPM that cannot be used: nothing is registered or renewed until it can", "node", n.identity.Node(), "err", err)
			}
		}
		return nil
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
		Features: []string{quota.Feature, snapshot.FeatureFilters, snapshot.FeatureIngressTLS, snapshot.FeatureIngressClients, snapshot.FeatureIngressTCP, snapshot.FeatureAuthorization, snapshot.FeatureAuthorizationConditions, snapshot.FeatureAuthentication, snapshot.FeatureUDP, snapshot.FeatureOrigination}, Kept: kept, Deliver: n.deliver, Restored: n.restored, Keep: n.store.keep, Clock: n.identity.CompareClock, Log: cmp.Or(n.cfg.Log, slog.Default()),
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
