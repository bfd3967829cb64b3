package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// maxPayload bounds one message, in bytes: a resource of 1.5 MiB, which is what Kubernetes' API takes,
	// and its headers.
	maxPayload = 2 << 20

	// maxControlLine bounds the line with which a client introduces itself, in bytes: the token of a node that may
	// run 256 services with the longest names takes 110,000.
	maxControlLine = 128 << 10

	serverPing   = 10 * time.Second // a host that vanished is found after three of these
	startTimeout = 30 * time.Second // recovering large streams takes seconds
)

// ServerConfig is what NewServer needs.
type ServerConfig struct {
	Name     string         // of the controller, unique in the cluster
	Listen   netip.AddrPort // port 0: any free one, see Server.Addr
	StateDir string         // of the streams; used by one server at a time
	TLS      *tls.Config    // must give a certificate; GetCertificate lets it be replaced while running
	Accounts *Accounts
	Log      *slog.Logger

	// MaxStore bounds all streams together, in bytes. 0: three quarters of what the disk has free at start.
	MaxStore int64

	// FirstCutOff is how long a node that floods is kept out the first time; 0: 10 seconds. Each further
	// time doubles it, up to 10 minutes.
	FirstCutOff time.Duration

	// Refused is told, each second, what users of the bus were refused. It must not block, nor call the server. nil: nobody
	// is.
	Refused func(Refusal)

	// Former says what users of accounts of nodes of before may do; those that are not in it are not let in.
	Former FormerAccess

	// Ended are users, by public nkey, that are not let in (Server.End).
	Ended []string
}

// Server is the NATS server inside a controller: JetStream on files that are synced before a write is
// acknowledged, TLS from the first byte, no port that answers without authentication, and no other port.
// Its methods are safe for concurrent use.
type Server struct {
	cfg   ServerConfig
	nats  *server.Server
	log   *serverLog
	ready chan struct{} // closed when connections are accepted
	cut   *cutOff
	fault *storeFault

	settings server.JetStreamConfig // heal's: as JetStream ran last
}

// NewServer prepares the server; Run starts it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.TLS == nil || len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetCertificate == nil {
		return nil, errors.New("bus server: no TLS certificate was given; it does not listen without one")
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("bus server: state directory: %w", err)
	}
	operator, err := cfg.Accounts.operatorClaims()
	if err != nil {
		return nil, err
	}
	cut := newCutOff(cfg)
	resolver := &server.MemAccResolver{}
	for _, claims := range append(cut.claims(), cfg.Accounts.systemClaims(), cfg.Accounts.controlClaims()) {
		token, err := cfg.Accounts.encode(claims)
		if err != nil {
			return nil, err
		}
		if err := resolver.Store(claims.Subject, token); err != nil {
			return nil, fmt.Errorf("bus server: keep account %q: %w", claims.Name, err)
		}
	}
	port := int(cfg.Listen.Port())
	if port == 0 {
		port = server.RANDOM_PORT
	}
	secure := cfg.TLS.Clone()
	secure.MinVersion = tls.VersionTLS13
	ns, err := server.NewServer(&server.Options{
		ServerName: cfg.Name,
		Host:       cfg.Listen.Addr().String(),
		Port:       port,
		NoSigs:     true,

		TrustedOperators: []*jwt.OperatorClaims{operator},
		SystemAccount:    public(cfg.Accounts.system),
		AccountResolver:  resolver,

		TLS: true, TLSConfig: secure, TLSTimeout: 5,
		// Without it the server introduces itself in the clear before TLS starts.
		TLSHandshakeFirst: true,

		JetStream: true, StoreDir: cfg.StateDir, JetStreamMaxStore: cfg.MaxStore,
		// JetStream acknowledges before it syncs unless told otherwise (nats-server issue 7564).
		SyncAlways: true,

		MaxPayload: maxPayload, MaxControlLine: maxControlLine,
		PingInterval: serverPing, MaxPingsOut: 2,
		// A node that does not read is disconnected, and never slows the one that publishes to all.
		NoFastProducerStall: true,
		MaxTracedMsgLen:     64,
	})
	if err != nil {
		return nil, fmt.Errorf("bus server: %w", err)
	}
	s := &Server{cfg: cfg, nats: ns, log: newServerLog(cfg.Log), ready: make(chan struct{}), fault: newStoreFault(), cut: cut}
	s.log.fault = s.fault
	cut.server = s
	s.log.refused = s.cut.refused
	ns.SetLoggerV2(s.log, false, false, false)
	return s, nil
}

// Run serves until ctx ends, and returns when the streams are closed. It can be called once. An error
// names what was in the way: a port in use, a state directory that cannot be written.
func (s *Server) Run(ctx context.Context) error {
	if err := s.cfg.Accounts.inherit(s.cfg.StateDir); err != nil {
		return s.startError(err)
	}
	held, err := storedStreams(s.cfg.StateDir)
	if err != nil {
		return s.startError(err)
	}
	started := make(chan struct{})
	go func() { // Start blocks when listening failed
		defer close(started)
		s.nats.Start()
	}()
	defer func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
		<-started
	}()
	select {
	case err := <-s.log.fatal:
		return s.startError(err)
	case <-ctx.Done():
		return nil
	case <-started:
	}
	if !s.nats.ReadyForConnections(startTimeout) {
		select {
		case err := <-s.log.fatal:
			return s.startError(err)
		default:
			return s.startError(fmt.Errorf("no connections after %s", startTimeout))
		}
	}
	if !s.nats.JetStreamEnabled() {
		return s.startError(errors.New("JetStream did not start; see the log above"))
	}
	if err := s.checkRecovered(held); err != nil {
		return s.startError(err)
	}
	close(s.ready)
	var healing sync.WaitGroup
	defer healing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	healing.Go(func() { s.heal(ctx) })
	return s.cut.run(ctx, s.log.fatal)
}

// startError adds what the operator can do about it.
func (s *Server) startError(err error) error {
	return fmt.Errorf("bus server on %s, state in %s: %w", s.cfg.Listen, s.cfg.StateDir, err)
}

// Addr is where nodes reach the server. It waits until the server listens, or ctx ends.
func (s *Server) Addr(ctx context.Context) (netip.AddrPort, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return netip.AddrPort{}, fmt.Errorf("bus server: wait until it listens: %w", context.Cause(ctx))
	}
	tcp, ok := s.nats.Addr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("bus server: it is shut down")
	}
	return tcp.AddrPort(), nil
}

// Controller connects a controller's own process to its server, without the network. It waits until the
// server is ready, or ctx ends. The caller closes the connection before it ends Run.
func (s *Server) Controller(ctx context.Context, log *slog.Logger) (*Conn, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("bus server: wait until it is ready: %w", context.Cause(ctx))
	}
	user, err := s.cfg.Accounts.ControllerUser(s.cfg.Name)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ConnConfig{Name: s.cfg.Name, Credential: user, Log: log}, nats.InProcessServer(s.nats))
	if err == nil {
		conn.fault = s.fault
	}
	return conn, err
}

// CutOff ends the connections of a node that floods and refuses new ones for a while. verb is what it flooded; users that can only ask to join are cut off
// for joining alone, and the node's own users for everything else. It returns at once.
func (s *Server) CutOff(node, verb string) {
	s.cut.ask(node, verb)
}
