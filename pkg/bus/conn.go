package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

const (
	clientPing   = 2 * time.Second // a server that vanished is found after three of these
	reconnectBuf = -1              // nothing is kept while disconnected: what could not be sent failed, and its sender knows
)

// ConnConfig is what Dial needs.
type ConnConfig struct {
	Name       string   // of the node or controller
	Servers    []string // "host:port"; tried in turn
	TLS        *tls.Config
	Credential Credential
	Log        *slog.Logger
}

// NoticeKind is what happened to a connection.
type NoticeKind int

// What can happen to a connection.
const (
	Connected    NoticeKind = iota // for the first time or again: messages may have been missed in between
	Disconnected                   // it reconnects by itself
	Slow                           // messages were dropped because this process read too slowly
	Refused                        // the server refuses a subscription or a message of ours
)

// A Notice tells what happened to a connection, and why where that is known.
type Notice struct {
	Kind NoticeKind
	Err  error
}

// Conn is a connection to the bus, by a node or by a controller. It reconnects by itself, for ever and with
// jitter, showing its newest token each time. It is safe for concurrent use.
type Conn struct {
	cfg ConnConfig
	nc  *nats.Conn
	js  jetstream.JetStream

	fault *storeFault // of the server in this process; nil: it is elsewhere

	mu        sync.Mutex
	lastErr   error         // why it is not connected, as far as is known
	connected chan struct{} // closed while connected; replaced when it is lost
	broken    chan struct{} // closed when what stands breaks; replaced when it stands again
	listeners map[int]func(Notice)
	nextID    int
}

// Dial prepares a connection and returns at once; it connects when a server answers, see Ready. The servers
// must show a certificate for the host that was dialled, from cfg.TLS.RootCAs, or one that cfg.TLS.VerifyConnection takes.
func Dial(cfg ConnConfig) (*Conn, error) {
	if cfg.TLS == nil {
		return nil, errors.New("connect to the bus: no TLS roots were given")
	}
	if len(cfg.Servers) == 0 {
		return nil, errors.New("connect to the bus: no server was given")
	}
	verified := cfg.TLS.Clone()
	verified.MinVersion, verified.InsecureSkipVerify = tls.VersionTLS13, cfg.TLS.VerifyConnection != nil
	urls := make([]string, len(cfg.Servers))
	for i, server := range cfg.Servers {
		urls[i] = "tls://" + server
	}
	return dial(cfg, nats.Secure(verified), nats.TLSHandshakeFirst(), func(o *nats.Options) error {
		o.Servers = urls
		return nil
	})
}

func dial(cfg ConnConfig, how ...nats.Option) (*Conn, error) {
	c := &Conn{cfg: cfg, connected: make(chan struct{}), broken: make(chan struct{}), listeners: map[int]func(Notice){}}
	user, err := nkeys.FromSeed(cfg.Credential.Seed)
	if err != nil {
		return nil, fmt.Errorf("connect to the bus as %q: its key: %w", cfg.Name, err)
	}
	d := newDialer()
	options := append([]nats.Option{
		nats.Name(cfg.Name),
		nats.UserJWT(cfg.Credential.Token, user.Sign),
		nats.CustomInboxPrefix(cfg.Credential.Inbox),
		nats.SyncQueueLen(maxPartsPending),
		nats.PingInterval(clientPing), nats.MaxPingsOutstanding(2),
		nats.SetCustomDialer(d),
		nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(reconnectBuf),
		nats.CustomReconnectDelay(d.delay),
		// A token that expired or was revoked may be replaced by one that is good.
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(*nats.Conn) { c.isConnected() }),
		nats.ReconnectHandler(func(*nats.Conn) { c.isConnected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.isDisconnected(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.failed(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.asyncError(err) }),
	}, how...)
	settings := nats.GetDefaultOptions()
	for _, option := range options {
		if err := option(&settings); err != nil {
			return nil, fmt.Errorf("connect to the bus as %q: %w", cfg.Name, err)
		}
	}
	if c.nc, err = settings.Connect(); err != nil {
		return nil, fmt.Errorf("connect to the bus as %q: %w", cfg.Name, readable(err))
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		c.nc.Close()
		return nil, fmt.Errorf("connect to the bus as %q: %w", cfg.Name, err)
	}
	return c, nil
}

// Ready waits until the connection stands. When ctx ends before, the error says what was in the way.
func (c *Conn) Ready(ctx context.Context) error {
	c.mu.Lock()
	connected := c.connected
	c.mu.Unlock()
	select {
	case <-connected:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cause := c.lastErr
	if cause == nil {
		cause = context.Cause(ctx)
	}
	return fmt.Errorf("connect to the bus at %s: %w", strings.Join(c.cfg.Servers, ", "), cause)
}

// Err is why the connection does not stand at present, or nil where it does.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.connected:
		return nil
	default:
	}
	if c.lastErr == nil {
		return errors.New("not connected yet")
	}
	return c.lastErr
}

// breaks is closed when the connection breaks that stands now, or is made next.
func (c *Conn) breaks() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.broken: // it stands again and that is not told yet, or what is sent fails by itself
		return nil
	default:
		return c.broken
	}
}

// Notify calls fn for what happens to the connection from now on, one after the other, until stop is
// called. fn must not block.
func (c *Conn) Notify(fn func(Notice)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	c.listeners[id] = fn
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, id)
	}
}

// changeTime is how long a request waits for a connection that is made anew by Reconnect, when nothing is in the way.
const changeTime = time.Second

// changing reports whether the connection is away and nothing is known to be wrong with it.
func (c *Conn) changing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.connected:
		return true // it came back this moment
	default:
		return c.lastErr == nil
	}
}

// Reconnect connects anew, with the newest token and perhaps to another server. What is subscribed stays so.
func (c *Conn) Reconnect() error {
	c.mu.Lock()
	select { // nobody is to take it for connected until it is again
	case <-c.connected:
		c.connected = make(chan struct{})
	default:
	}
	c.mu.Unlock()
	if err := c.nc.ForceReconnect(); err != nil {
		return fmt.Errorf("reconnect to the bus: %w", readable(err))
	}
	return nil
}

// Close ends the connection and everything on it.
func (c *Conn) Close() { c.nc.Close() }

func (c *Conn) isConnected() {
	c.mu.Lock()
	c.lastErr = nil
	select {
	case <-c.connected:
	default:
		close(c.connected)
	}
	select {
	case <-c.broken:
		c.broken = make(chan struct{})
	default:
	}
	listeners := c.listening()
	c.mu.Unlock()
	tell(listeners, Notice{Kind: Connected})
}

func (c *Conn) isDisconnected(err error) {
	c.mu.Lock()
	select {
	case <-c.connected:
		c.connected = make(chan struct{})
	default:
	}
	if err != nil { // else it is made anew, and answers to what was asked may still come
		c.lastErr = readable(err)
		select {
		case <-c.broken:
		default:
			close(c.broken)
		}
	}
	listeners := c.listening()
	c.mu.Unlock()
	tell(listeners, Notice{Kind: Disconnected, Err: readable(err)})
}

// failed notes why an attempt to connect did not succeed.
func (c *Conn) failed(err error) {
	c.mu.Lock()
	c.lastErr = readable(err)
	c.mu.Unlock()
	if c.cfg.Credential.Refused != nil && errors.Is(err, nats.ErrAuthorization) {
		c.cfg.Credential.Refused()
	}
	c.cfg.Log.Debug("bus cannot be reached", "err", err)
}

func (c *Conn) asyncError(err error) {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		c.tell(Notice{Kind: Slow, Err: err})
	case errors.Is(err, nats.ErrPermissionViolation):
		c.cfg.Log.Warn("bus refuses what this user may not do", "err", err)
		c.tell(Notice{Kind: Refused, Err: err})
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthRevoked), errors.Is(err, nats.ErrAuthExpired):
		c.failed(err) // of connecting again
	default:
		c.cfg.Log.Debug("bus connection", "err", err)
	}
}

func (c *Conn) tell(notice Notice) {
	c.mu.Lock()
	listeners := c.listening()
	c.mu.Unlock()
	tell(listeners, notice)
}

// listening are those that hear of what happens now. The lock is held: whoever listens after a change has seen it already.
func (c *Conn) listening() []func(Notice) {
	return slices.Collect(maps.Values(c.listeners))
}

func tell(listeners []func(Notice), notice Notice) {
	for _, fn := range listeners {
		fn(notice)
	}
}

// readable says what errors of connecting mean for the one who reads them.
func readable(err error) error {
	var unknown *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrAuthExpired):
		return fmt.Errorf("this user's token has expired: %w", err)
	case errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("this user was cut off, for a while or for good: %w", err)
	case errors.Is(err, nats.ErrAuthorization):
		return fmt.Errorf("the bus does not know this user, or its token has expired: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("this host's clock and the controller's disagree, or the controller has stopped renewing its certificate: %w; compare the clocks, and set the wrong one (`timedatectl set-ntp true`)", err)
	case errors.As(err, &unknown):
		return fmt.Errorf("the server's certificate is not one of this cluster's: %w", err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("no server answers: is the controller running, and does a firewall let TCP through? %w", err)
	}
	return err
}
