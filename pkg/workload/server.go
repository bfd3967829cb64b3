package workload

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/capture"
	"github.com/sennit-mesh/sennit/pkg/exchange"
)

const (
	maxStreams = 32       // of one connection
	maxMessage = 64 << 10 // bytes that a process may send at once
	maxHeaders = 16 << 10 // bytes of a request's header
	handshake  = 5 * time.Second
)

// An Issuer gets SVIDs from a controller. Errors that wrap ca's sentinels say that the node may not have them.
type Issuer interface {
	// Certificate returns a certificate of a service with a new key, leaf first.
	Certificate(ctx context.Context, service exchange.ServiceName) (*tls.Certificate, error)
	// Token returns a JWT-SVID of a service.
	Token(ctx context.Context, service exchange.ServiceName, audience []string) (string, error)
	// MayHold returns nil where the node may hand out SVIDs of a service.
	MayHold(service exchange.ServiceName) error
	// Check returns nil where a certificate is good at this moment.
	Check(certificate *tls.Certificate, service exchange.ServiceName) error
	// CheckToken returns an error where a JWT-SVID of the SPIFFE ID, made for a node at some time, is revoked.
	CheckToken(id, node string, issued time.Time) error
}

// A Keeper keeps certificates across restarts of the node.
type Keeper interface {
	Load(service exchange.ServiceName) (*tls.Certificate, error) // nil: there is none
	Save(service exchange.ServiceName, certificate *tls.Certificate) error
}

// Declared says which service a process is.
type Declared struct {
	Service exchange.ServiceName
	Process capture.Workload
}

// Config is what a Server needs.
type Config struct {
	TrustDomain string
	Issuer      Issuer
	Keeper      Keeper
	Processes   *capture.Processes
	// Declared are the workloads of this host. Bundles are those that processes may believe, the trust domain's own among
	// them. Both are asked for each answer; Changed says that they are others.
	Declared func() []Declared
	Bundles  func() *spiffebundle.Set
	Log      *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// A Server answers processes of this host. It is safe for concurrent use.
type Server struct {
	cfg    Config
	svids  *svids
	tokens *tokens

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when an answer may be another
}

// New prepares a Server; Run serves.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, changed: make(chan struct{})}
	s.svids = newSVIDs(cfg, s.Changed)
	s.tokens = newTokens(cfg)
	return s
}

// Run serves on l, a listener of unix sockets, until ctx ends, and closes it. Streams end with it: whoever had one
// connects again, and goes on with what it has until then.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	group, ctx := errgroup.WithContext(ctx)
	var running sync.RWMutex // each call reads it; Run has it for good at the end, when there are no calls any more
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if running.TryRLock() {
				defer running.RUnlock()
				serveCall(w, r, s.answer)
			}
		}),
		Protocols:      &protocols,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		MaxHeaderBytes: maxHeaders, ReadHeaderTimeout: handshake,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withProcess,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	group.Go(func() error { return s.svids.run(ctx) })
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		err := server.Serve(newListener(l, s.cfg.Processes, s.cfg.Log))
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	err := group.Wait()
	running.Lock()
	return err
}

// answer answers a call of a method.
func (s *Server) answer(ctx context.Context, c *call) error {
	switch method, _ := strings.CutPrefix(c.r.URL.Path, "/SpiffeWorkloadAPI/"); method {
	case "FetchX509SVID":
		if err := c.read(&X509SVIDRequest{}); err != nil {
			return err
		}
		return s.fetchX509SVID(ctx, c)
	case "FetchX509Bundles":
		if err := c.read(&X509BundlesRequest{}); err != nil {
			return err
		}
		return s.fetchX509Bundles(ctx, c)
	case "FetchJWTBundles":
		if err := c.read(&JWTBundlesRequest{}); err != nil {
			return err
		}
		return s.fetchJWTBundles(ctx, c)
	case "FetchJWTSVID":
		var request JWTSVIDRequest
		if err := c.read(&request); err != nil {
			return err
		}
		answer, err := s.fetchJWTSVID(ctx, &request)
		if err != nil {
			return err
		}
		return c.send(answer)
	case "ValidateJWTSVID":
		var request ValidateJWTSVIDRequest
		if err := c.read(&request); err != nil {
			return err
		}
		answer, err := s.validateJWTSVID(ctx, &request)
		if err != nil {
			return err
		}
		return c.send(answer)
	}
	return fail(codeUnimplemented, "a node has no such method")
}

// Changed says that workloads, bundles, or what may be handed out have changed: who waits is answered anew where its
// answer is another. It does not block.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) waits() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// caller returns the service that the process is which asks.
func (s *Server) caller(ctx context.Context) (exchange.ServiceName, error) {
	process, ok := processOf(ctx)
	if !ok {
		return exchange.ServiceName{}, fail(codePermissionDenied, "nobody knows who asks")
	}
	declared := s.cfg.Declared()
	workloads := make([]capture.Workload, len(declared))
	for i, d := range declared {
		workloads[i] = d.Process
	}
	i, err := s.cfg.Processes.Which(process, workloads)
	if err == nil {
		if err = s.cfg.Issuer.MayHold(declared[i].Service); err == nil {
			return declared[i].Service, nil
		}
	}
	// Which workloads there are is not for who is none.
	s.cfg.Log.Debug("no identity is issued", "err", err)
	return exchange.ServiceName{}, fail(codePermissionDenied, "no identity issued: this process is no workload of a service in services.d, or the node may not run the service")
}

// failed is the status for a failure to get an SVID.
func (s *Server) failed(what string, service exchange.ServiceName, err error) error {
	for _, denied := range []error{ca.ErrNotAllowed, ca.ErrPeer, ca.ErrFrozen, ca.ErrRemoved} {
		if errors.Is(err, denied) {
			s.cfg.Log.Warn(what+" is not issued", "service", service.String(), "err", err)
			return fail(codePermissionDenied, "no identity issued: "+err.Error())
		}
	}
	switch {
	case errors.Is(err, errTooMany):
		return fail(codeResourceExhausted, err.Error())
	case errors.Is(err, context.Canceled):
		return fail(codeCanceled, err.Error())
	}
	s.cfg.Log.Warn(what+" is not issued", "service", service.String(), "err", err)
	return fail(codeUnavailable, "the controllers cannot be asked at this moment")
}
