package controller

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sennit-mesh/sennit/internal/release"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

// edgeWindow is how far back the live graph looks.
const edgeWindow = 10 * time.Second

// A Controller is one process of the control plane.
type Controller struct {
	cfg Config
	log *slog.Logger

	authority *ca.Authority
	accounts  *bus.Accounts
	server    *bus.Server

	// From here on made by open, when the server runs.
	conn       *bus.Conn
	registrar  *ca.Registrar
	members    *members
	catalogue  *registry.Catalogue
	api        *apiserver.Server
	publisher  *bus.Publisher
	requests   *bus.Requests
	graph      *telemetry.Graph
	exporter   *telemetry.Exporter // nil: traces go nowhere
	operators  *operators
	quotas     *quota.Owner
	taps       taps
	recorder   *recorder
	issued     chan ca.Issued              // certificates of this controller's own listeners, to be recorded
	rebuild    chan struct{}               // something that goes into snapshots has changed
	bell       bell                        // nodes or instances have changed
	gathering  atomic.Bool                 // since a restore, nothing is published yet
	inputs     chan struct{}               // closed when all that was stored before this start is in memory
	compiled                               // the compile loop's
	last       atomic.Pointer[compilation] // nil: nothing is compiled yet
	sent       sentTimes
	apiAddress atomic.Pointer[netip.AddrPort] // nil: not open
	busHosts   []string                       // host:port, as tokens name the bus
	started    time.Time
}

// compiled is what the compile loop remembers of the time before.
type compiled struct {
	waited    map[string]bool // nodes whose reports count
	services  decoded[corev1.Service]
	routes    decoded[gatewayv1.HTTPRoute]
	calls     decoded[gatewayv1.GRPCRoute]
	tlsRoutes decoded[gatewayv1.TLSRoute]
	tcpRoutes decoded[gatewayv1.TCPRoute]
	policies  decoded[api.QuotaPolicy]
	faults    decoded[api.FaultPolicy]
	outside   decoded[api.ExternalService]
	balancing decoded[api.LoadBalancingPolicy]
	gateways  decoded[gatewayv1.Gateway]
	classes   decoded[gatewayv1.GatewayClass]
	spaces    decoded[corev1.Namespace]
	grants    decoded[gatewayv1.ReferenceGrant]
	secrets   decoded[corev1.Secret]
	configMap decoded[corev1.ConfigMap]
	resilient decoded[api.ResiliencePolicy]
	admitting decoded[api.AuthorizationPolicy]
	keys      keySealer
	configs   map[string]bus.Body // of nodes, by subject; never changed,
	configsOf *map[string]ca.Node // and the registry that they were made from
}

// New opens the authority and prepares the bus; nothing runs before Run.
func New(cfg Config) (c *Controller, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := checkRestored(cfg.StateDir); err != nil {
		return nil, err
	}
	c = &Controller{
		cfg: cfg, log: cmp.Or(cfg.Log, slog.Default()), rebuild: make(chan struct{}, 1), inputs: make(chan struct{}),
		issued: make(chan ca.Issued, maxIssuedQueue), graph: telemetry.NewGraph(edgeWindow), quotas: quota.NewOwner(),
	}
	if cfg.OTLP != "" {
		if c.exporter, err = telemetry.NewExporter(cfg.OTLP, cfg.Cluster, c.log); err != nil {
			return nil, fmt.Errorf("--otlp-endpoint: %w", err)
		}
	}
	c.authority, err = ca.NewAuthority(ca.AuthorityConfig{
		Dir: filepath.Join(cfg.StateDir, "ca"), Cluster: cfg.Cluster, TrustDomain: cfg.TrustDomain, Name: cfg.Name, MaxTTL: cfg.TTL, Now: cfg.Now,
		Issued: c.issuedToItself,
	})
	if err != nil {
		return nil, stateDirError(err)
	}
	if err := c.openBus(); err != nil {
		return nil, errors.Join(err, c.authority.Close())
	}
	return c, nil
}

// issuedToItself notes a certificate of this controller's own listeners; those of nodes are recorded by who grants them.
func (c *Controller) issuedToItself(one ca.Issued) {
	if one.SPIFFEID != ca.ControllerID(c.cfg.TrustDomain, c.cfg.Name) {
		return
	}
	select {
	case c.issued <- one:
	default: // nothing was recorded for very long; ca.db has it
	}
}

// stateDirError adds what to do where the state directory itself is the trouble.
func stateDirError(err error) error {
	if pathError := (*fs.PathError)(nil); errors.As(err, &pathError) && pathError.Op == "mkdir" {
		return fmt.Errorf("%w (choose another place with --state-dir, or run as a user that may write there)", err)
	}
	return err
}

// accountsSecret is where the authority keeps the seeds of the bus's accounts.
const accountsSecret = "bus-accounts"

func (c *Controller) openBus() error {
	seeds, err := c.authority.Secret(accountsSecret)
	if err != nil {
		return err
	}
	if seeds == nil {
		if c.accounts, err = bus.NewAccounts(); err != nil {
			return err
		}
		if seeds, err = c.accounts.MarshalBinary(); err != nil {
			return err
		}
		if err := c.authority.PutSecret(accountsSecret, seeds); err != nil {
			return err
		}
	} else {
		c.accounts = &bus.Accounts{}
		if err := c.accounts.UnmarshalBinary(seeds); err != nil {
			return fmt.Errorf("keys of the bus in %s: %w", filepath.Join(c.cfg.StateDir, "ca"), err)
		}
	}
	c.server, err = bus.NewServer(bus.ServerConfig{
		Name: c.cfg.Name, Listen: c.cfg.Bus, StateDir: filepath.Join(c.cfg.StateDir, "streams"), Accounts: c.accounts, Log: c.log,
		TLS: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.authority.ServerCertificate(c.cfg.hosts())},
	})
	return err
}

// Run serves until ctx ends, and returns when everything is closed. It is called once.
func (c *Controller) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.authority.Close()) }()
	// The bus outlives what uses it.
	serving, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	servers, serving := errgroup.WithContext(serving)
	servers.Go(func() error { return c.server.Run(serving) })

	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(serving, func() { group.Go(func() error { return context.Cause(serving) }) })
	defer stop()
	err = c.open(ctx)
	if err == nil {
		c.start(ctx, group)
		c.log.Info("controller runs", "cluster", c.cfg.Cluster, "bus", c.busHosts)
		err = group.Wait()
	}
	if c.conn != nil {
		c.conn.Close()
	}
	stopServer()
	serverErr := servers.Wait()
	if serverErr != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, serverErr)) {
		return serverErr
	}
	if errors.Is(err, context.Canceled) && serverErr == nil {
		return nil
	}
	return err
}

// open makes what needs a bus that runs.
func (c *Controller) open(ctx context.Context) (err error) {
	c.started = time.Now()
	if c.conn, err = c.server.Controller(ctx, c.log); err != nil {
		return err
	}
	if err := c.conn.EnsureStreams(ctx, 1); err != nil {
		return fmt.Errorf("%w (look at %s and at the disk's free space; if a file there is damaged, restore the state directory from a backup)",
			err, filepath.Join(c.cfg.StateDir, "streams"))
	}
	if err := c.checkDocuments(ctx); err != nil {
		return err
	}
	address, err := c.server.Addr(ctx)
	if err != nil {
		return err
	}
	for _, host := range c.cfg.hosts() {
		c.busHosts = append(c.busHosts, net.JoinHostPort(host, strconv.Itoa(int(address.Port()))))
	}
	if c.recorder, err = c.newRecorder(ctx); err != nil {
		return err
	}
	registryRecords := c.conn.Records(bus.StreamRegistry)
	c.registrar, err = ca.NewRegistrar(ca.RegistrarConfig{
		Authority: c.authority, Store: registryRecords, Users: c.accounts, Addresses: c.busHosts, Log: c.log, Now: c.cfg.Now,
		Record: c.recorder.decision,
		Report: func(i ca.Incident) { c.log.Warn("look at this node: "+i.What, "node", i.Node, "err", i.Err) },
	})
	if err != nil {
		return err
	}
	c.members = newMembers(registryRecords, c.log, c.changed)
	c.catalogue = registry.NewCatalogue(registry.CatalogueConfig{
		Records: instanceRecords{c.conn.Records(bus.StreamInstance)}, Log: c.log,
		Allowed: c.members.allowed,
		Changed: func(uint64) { c.changed() },
	})
	if c.operators, err = openOperators(c.authority); err != nil {
		return err
	}
	sealer, err := documentSealer(c.authority)
	if err != nil {
		return err
	}
	c.api, err = apiserver.New(apiserver.Config{
		Resources: c.conn.Records(bus.StreamResource), Status: c.conn.Records(bus.StreamStatus),
		Epoch: c.authority.Epoch(), Authenticate: c.operators.authenticate, Version: release.Version(), Log: c.log,
		Hook: c.hook, Refused: c.recorder.refused, Sealer: sealer,
		Virtual: map[*api.Kind]apiserver.Virtual{
			api.EndpointSlice: endpointSlices{c},
			api.JoinTokens:    newJoinTokens(c),
			api.Nodes:         nodeDocuments{c},
		},
		Always: []*unstructured.Unstructured{gatewayClass()},
	})
	if err != nil {
		return err
	}
	c.publisher, err = bus.NewPublisher(bus.PublisherConfig{
		Now:  c.cfg.Now,
		Conn: c.conn, Cluster: c.cfg.Cluster, Controller: c.cfg.Name, Root: c.authority.RootHash(),
		Epoch: c.authority.Epoch(), Roster: c.authority.Roster(), Signer: c.authority.Signer(), Log: c.log,
		Removed: c.members.wasRemoved, Shown: c.shown, Superseded: c.superseded,
		MayRun: func(node, namespace, service string) bool {
			return c.members.allowed(node, exchange.ServiceName{Namespace: namespace, Name: service})
		},
	})
	if err != nil {
		return err
	}
	if err := c.knowSuperseded(); err != nil {
		return err
	}
	c.gathering.Store(c.authority.Epoch() > 0)
	c.requests = bus.NewRequests(bus.RequestsConfig{Conn: c.conn, Limits: bus.DefaultLimits, CutOff: c.server.CutOff, Log: c.log})
	return nil
}

// start runs every part.
func (c *Controller) start(ctx context.Context, group *errgroup.Group) {
	part := func(name string, run func(context.Context) error) {
		group.Go(func() error {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("audit", c.recorder.writer.Run)
	part("heads of the audit", c.recorder.heads.Run)
	part("changes to the audit", c.recorder.changes)
	part("own certificates to the audit", c.recorder.issuedToItself)
	part("checkpoints of the audit", func(ctx context.Context) error {
		return c.recorder.writer.Lead(ctx, c.recorder.heads, c.publisher.Leading, c.recorder.keep)
	})
	part("registry of nodes", c.members.run)
	part("instances", c.catalogue.Run)
	part("resources", c.api.Run)
	part("publishing", c.publisher.Run)
	part("compiling", c.compileLoop)
	part("nodes after a restore", c.gather)
	part("liveness", c.watchNodes)
	part("quotas", c.ownQuotas)
	part("API", c.serveAPI)
	part("socket", c.serveSocket)
	if c.exporter != nil {
		part("traces", c.exporter.Run)
	}
	if c.cfg.Metrics != "" {
		part("metrics", c.serveMetrics)
	}
	for verb, handler := range c.verbs() {
		part("requests to "+verb, func(ctx context.Context) error { return c.requests.Serve(ctx, verb, c.guarded(handler)) })
	}
}

// watchNodes declares nodes lost while this controller leads.
func (c *Controller) watchNodes(ctx context.Context) error {
	stop := c.conn.Notify(func(n bus.Notice) {
		if n.Kind == bus.Connected {
			c.catalogue.Recovered()
		}
	})
	defer stop()
	for {
		if err := c.awaitLeading(ctx, true); err != nil {
			return err
		}
		c.changed() // who leads writes the statuses
		leading, cancel := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			defer cancel()
			_ = c.awaitLeading(leading, false) // ends with leading
		})
		err := c.catalogue.Lead(leading)
		cancel()
		group.Wait()
		if err != nil && leading.Err() == nil || ctx.Err() != nil {
			return err
		}
	}
}

// awaitLeading returns when this controller leads, or leads no more, or when ctx ends.
func (c *Controller) awaitLeading(ctx context.Context, want bool) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for c.publisher.Leading() != want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
