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
	"github.com/sennit-mesh/sennit/pkg/apiserver/idtoken"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/federation"
	"github.com/sennit-mesh/sennit/pkg/jwks"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
	"github.com/sennit-mesh/sennit/pkg/upstreamca/settings"
)

// edgeWindow is how far back the live graph looks.
const edgeWindow = 10 * time.Second

// A Controller is one process of the control plane.
type Controller struct {
	cfg Config
	log *slog.Logger

	upstream        upstreamca.Authority   // that certifies the intermediate; nil: the own root does
	upstreamFailure atomic.Pointer[string] // why it could not be asked the last time; empty, or nil: it could
	authority       *ca.Authority
	accounts        *bus.Accounts
	formerShutOut   atomic.Bool   // accounts of the bus of before, whose keys are in wrong hands
	awaitsKeys      chan struct{} // closed by again
	again           func()        // has this controller end, and another take its place
	server          *bus.Server

	// From here on made by open, when the server runs.
	conn       *bus.Conn
	registrar  *ca.Registrar
	members    *members
	catalogue  *registry.Catalogue
	api        *apiserver.Server
	publisher  *bus.Publisher
	requests   *bus.Requests
	graph      *telemetry.Graph
	denials    telemetry.Denials   // that nodes reported to this controller
	plaintext  telemetry.Denials   // connections without an identity, likewise
	exporter   *telemetry.Exporter // nil: traces go nowhere
	operators  *operators
	people     *idtoken.Verifier // nil: there is no identity provider
	quotas     *quota.Owner
	taps       taps
	recorder   *recorder
	issuers    *jwks.Fetcher // keys of those whose tokens are good
	federation *federation.Watcher
	endpoint   *federation.Endpoint
	sessionKey func(origin, uid string) []byte
	issued     chan ca.Issued              // certificates of this controller's own listeners, to be recorded
	rebuild    chan struct{}               // something that goes into snapshots has changed
	bell       bell                        // nodes or instances have changed
	gathering  atomic.Bool                 // since a restore, nothing is published yet
	withdrawn  atomic.Bool                 // a node proved that the root before was withdrawn, which this controller forgot
	delegation atomic.Uint64               // the newest that a node proved
	inputs     chan struct{}               // closed when all that was stored before this start is in memory
	compiled                               // the compile loop's
	last       atomic.Pointer[compilation] // nil: nothing is compiled yet
	sent       sentTimes
	refusals   refusals
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
	udpRoutes decoded[gatewayv1.UDPRoute]
	policies  decoded[api.QuotaPolicy]
	faults    decoded[api.FaultPolicy]
	outside   decoded[api.ExternalService]
	balancing decoded[api.LoadBalancingPolicy]
	gateways  decoded[gatewayv1.Gateway]
	classes   decoded[gatewayv1.GatewayClass]
	sets      decoded[gatewayv1.ListenerSet]
	spaces    decoded[corev1.Namespace]
	grants    decoded[gatewayv1.ReferenceGrant]
	secrets   decoded[corev1.Secret]
	configMap decoded[corev1.ConfigMap]
	resilient decoded[api.ResiliencePolicy]
	admitting decoded[api.AuthorizationPolicy]
	proving   decoded[api.AuthenticationPolicy]
	foreign   decoded[api.FederatedTrustDomain]
	securing  decoded[gatewayv1.BackendTLSPolicy]
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
	if cfg.passphrase == nil {
		cfg.passphrase = ca.PassphraseFrom(cfg.PassphraseFile, false)
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
	if c.upstream = cfg.upstream; cfg.UpstreamCA != "" {
		if c.upstream, err = settings.Open(cfg.UpstreamCA, cfg.Now); err != nil {
			return nil, fmt.Errorf("--upstream-ca: %w", err)
		}
	}
	c.awaitsKeys = make(chan struct{})
	c.again = sync.OnceFunc(func() { close(c.awaitsKeys) })
	c.authority, err = ca.NewAuthority(ca.AuthorityConfig{
		Dir: filepath.Join(cfg.StateDir, "ca"), Cluster: cfg.Cluster, TrustDomain: cfg.TrustDomain, Name: cfg.Name, MaxTTL: cfg.TTL, Now: cfg.Now,
		KeyFile: cfg.KeyFile, Passphrase: cfg.passphrase, Issued: c.issuedToItself,
	})
	if err != nil {
		return nil, stateDirError(err)
	}
	if err := c.openBus(); err != nil {
		return nil, errors.Join(err, c.authority.Close())
	}
	return c, nil
}

// issuedToItself notes a certificate of this controller's own listeners, and its intermediate; those of nodes are recorded by who grants them.
func (c *Controller) issuedToItself(one ca.Issued) {
	if one.SPIFFEID != ca.ControllerID(c.cfg.TrustDomain, c.cfg.Name) && one.SPIFFEID != "spiffe://"+c.cfg.TrustDomain {
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

func (c *Controller) openBus() error {
	if err := c.openAccounts(); err != nil {
		return err
	}
	ended, err := c.endedUsers()
	if err != nil {
		return err
	}
	c.server, err = bus.NewServer(bus.ServerConfig{
		Ended: ended, Former: c.formerUsers(), Refused: c.refusedByBus,
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
	c.cfg.Bus = netip.AddrPortFrom(c.cfg.Bus.Addr(), address.Port())
	for _, host := range c.cfg.hosts() {
		c.busHosts = append(c.busHosts, net.JoinHostPort(host, strconv.Itoa(int(address.Port()))))
	}
	if c.recorder, err = c.newRecorder(ctx); err != nil {
		return err
	}
	verifier, err := c.attestVerifier()
	if err != nil {
		return err
	}
	registryRecords := c.conn.Records(bus.StreamRegistry)
	c.registrar, err = ca.NewRegistrar(ca.RegistrarConfig{
		Authority: c.authority, Store: registryRecords, Users: c.accounts, Addresses: c.busHosts, Log: c.log, Now: c.cfg.Now,
		Record: c.recorder.decision, Attest: verifier,
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
	if c.sessionKey, err = sessionKeys(c.authority); err != nil {
		return err
	}
	c.issuers = jwks.New(jwks.Config{Store: keySetStore{c.authority}, Changed: c.changed, Log: c.log, Now: c.cfg.Now})
	c.operators = newOperators(registryRecords, c.log, c.cfg.Now)
	c.federation = federation.New(federation.Config{Store: foreignStore{c.authority}, Changed: c.changed, Log: c.log, Now: c.cfg.Now})
	c.endpoint = federation.NewEndpoint(c.ownBundle, c.cfg.Now)
	if c.people, err = c.cfg.OIDC.verifier(c.cfg.Now, c.log); err != nil {
		return err
	}
	sealer, err := documentSealer(c.authority)
	if err != nil {
		return err
	}
	c.api, err = apiserver.New(apiserver.Config{
		Resources: c.conn.Records(bus.StreamResource), Status: c.conn.Records(bus.StreamStatus),
		Epoch: c.authority.Epoch(), Authenticate: c.authenticate, Version: release.Version(), Log: c.log,
		Hook: c.hook, Refused: c.recorder.refused, RefusedUnseen: c.recorder.refusedUnseen, Sealer: sealer,
		Virtual: map[*api.Kind]apiserver.Virtual{
			api.EndpointSlice:  endpointSlices{c},
			api.JoinTokens:     newJoinTokens(c),
			api.OperatorTokens: operatorTokens{c},
			api.Nodes:          nodeDocuments{c},
		},
		Always: []*unstructured.Unstructured{gatewayClass()},
	})
	if err != nil {
		return err
	}
	c.publisher, err = bus.NewPublisher(bus.PublisherConfig{
		Now:  c.cfg.Now,
		Conn: c.conn, Cluster: c.cfg.Cluster, Controller: c.cfg.Name, Root: c.authority.RootHash(),
		Epoch: c.authority.Epoch(), Roster: c.authority.Roster(), Signer: c.authority.Signer, Log: c.log,
		Removed: c.members.wasRemoved, Shown: c.shown, Superseded: c.superseded, Showed: c.showed,
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
	c.requests = bus.NewRequests(bus.RequestsConfig{Conn: c.conn, Limits: bus.DefaultLimits, CutOff: c.server.CutOff, Refused: c.refusedRequest, Log: c.log})
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
	part("operators' tokens", c.operators.run)
	part("users that the bus lets in", c.endUsers)
	part("refusals of nodes to the audit", c.recordRefusals)
	if c.people != nil {
		part("identity provider", c.people.Run)
	}
	part("instances", c.catalogue.Run)
	part("resources", c.api.Run)
	part("publishing", c.publisher.Run)
	part("compiling", c.compileLoop)
	part("nodes after a restore", c.gather)
	part("keys of issuers", c.issuers.Run)
	part("liveness", c.watchNodes)
	part("rotation of the authority", c.rotate)
	part("keys of the bus", c.untilAgain)
	part("renewal by the authority outside", c.renewUpstream)
	part("quotas", c.ownQuotas)
	part("keys of JWT-SVIDs", c.watchBundle)
	part("other trust domains", c.federation.Run)
	if c.cfg.Bundle != "" {
		part("bundle endpoint", c.serveBundle)
	}
	part("API", c.serveAPI)
	part("socket", c.serveSocket)
	if c.exporter != nil {
		part("traces", c.exporter.Run)
	}
	if c.cfg.Metrics != "" {
		part("metrics", c.serveMetrics)
	}
	for verb, handler := range c.verbs() {
		part("requests to "+verb, func(ctx context.Context) error { return c.requests.Serve(ctx, verb, c.guarded(c.known(verb, handler))) })
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
