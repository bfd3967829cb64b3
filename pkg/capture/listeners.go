package capture

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// A Listener is one address of this host where chosen processes call a service: whoever connects, or with UDP sends, to Address
// and is UID, or runs in Unit, speaks as As to Port of To. Where neither is given it is only the user that
// this process runs as. Of a Gateway, anybody may connect: As is the gateway, To the same, and Port its port.
type Listener struct {
	As      exchange.ServiceName
	To      exchange.ServiceName
	Port    uint16
	UDP     bool // Port and Address are of UDP
	Address netip.AddrPort
	HasUID  bool
	UID     uint32
	Unit    string // of the system's systemd, as "orders.service"
	Gateway bool   // for those outside
	// Plaintext is for callers without an identity: anybody may connect. As and To are the service, and Port its port.
	Plaintext bool
}

// A Handler drives one connection. It owns conn until it returns and ends soon after ctx does.
type Handler func(ctx context.Context, conn *net.TCPConn, l Listener)

// Config is what Listeners need.
type Config struct {
	Handle     Handler
	HandleFlow FlowHandler // nil: there are no listeners of UDP
	// MaxConnections bounds the open connections of one listener; more wait in the kernel's queue until one
	// ends, so that no caller is refused for a burst. 0: 4,096.
	MaxConnections int
	// MaxFlows bounds the flows of one listener of UDP; datagrams of more are dropped until one of those that are silent
	// ends. 0: 4,096.
	MaxFlows int
	// MaxOfSource bounds the open connections of one address outside to one port of a gateway; those beyond are reset. It
	// bounds flows too.
	// 0: 1,024.
	MaxOfSource int
	// Changed is called when a listener was opened, closed, or could not be; it must not block. nil: nobody hears.
	Changed    func()
	CgroupRoot string // where the unified hierarchy is mounted; empty: found below /sys/fs/cgroup
	Log        *slog.Logger
}

// Listeners are the explicit listeners of this host.
type Listeners struct {
	cfg     Config
	owners  *owners
	cgroups *cgroups
	uid     uint32 // of this process
	refusal *rate.Limiter
	retry   time.Duration

	wanted atomic.Pointer[[]Listener]
	wake   chan struct{}

	mu   sync.Mutex
	open map[place]*socket // read by Status, written by Run
}

// A place is what one listener alone can have.
type place struct {
	address netip.AddrPort
	udp     bool
}

func (l Listener) place() place { return place{l.Address, l.UDP} }

// Status is what is to be said of one listener.
type Status struct {
	Listener Listener
	Err      error // why it is not open; tried again every two seconds
	Active   int   // connections, or flows, that are open
	Accepted uint64
	Refused  uint64 // connections, or datagrams, of those who may not use it, or too many
	Dropped  uint64 // datagrams that found a queue full
}

// New opens what finding out owners needs; Run opens the listeners.
func New(cfg Config) (*Listeners, error) {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 4096
	}
	if cfg.MaxOfSource == 0 {
		cfg.MaxOfSource = 1024
	}
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = 4096
	}
	owners, err := newOwners(unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	return &Listeners{
		cfg: cfg, owners: owners, cgroups: newCgroups(cfg.CgroupRoot), uid: processUID(),
		refusal: rate.NewLimiter(1, 10), retry: retryAfter,
		wake: make(chan struct{}, 1), open: map[place]*socket{},
	}, nil
}

// Apply says which listeners there shall be. Those whose address stays keep their socket and lose no
// connection; another owner or callee counts from the next connection on. The connections of a listener
// that goes away run to their end; those of a gateway's end with the exchange that runs. It returns at once and is safe for concurrent use.
func (ls *Listeners) Apply(wanted []Listener) {
	wanted = slices.Clone(wanted)
	ls.wanted.Store(&wanted)
	select {
	case ls.wake <- struct{}{}:
	default:
	}
}

// retryAfter is how long a listener that could not be opened waits; someone else may have freed the port.
const retryAfter = 2 * time.Second

// Run opens what Apply asks for, until ctx ends; then it closes the listeners and returns when the last
// connection's handler has.
func (ls *Listeners) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer ls.owners.close()
	defer running.Wait()
	defer ls.reconcile(ctx, nil, &running)
	for {
		var retry <-chan time.Time
		if wanted := ls.wanted.Load(); wanted != nil && !ls.reconcile(ctx, *wanted, &running) {
			retry = time.After(ls.retry)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ls.wake:
		case <-retry:
		}
	}
}

// reconcile opens and closes sockets until they are as wanted, and reports whether they all are.
func (ls *Listeners) reconcile(ctx context.Context, wanted []Listener, running *sync.WaitGroup) bool {
	complete, changed := ls.openAndClose(ctx, wanted, running)
	if changed && ls.cfg.Changed != nil {
		ls.cfg.Changed()
	}
	return complete
}

func (ls *Listeners) openAndClose(ctx context.Context, wanted []Listener, running *sync.WaitGroup) (complete, changed bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	keep := map[place]bool{}
	for _, l := range wanted {
		// A port that was for others is closed first: who is connected was let in by another rule.
		if s := ls.open[l.place()]; s == nil || s.rule.Load().Gateway == l.Gateway && s.rule.Load().Plaintext == l.Plaintext {
			keep[l.place()] = true
		}
	}
	for at, s := range ls.open {
		if !keep[at] {
			s.close()
			delete(ls.open, at)
			changed = true
		}
	}
	complete = true
	for _, l := range wanted {
		s := ls.open[l.place()]
		if s == nil {
			s = &socket{slots: make(chan struct{}, ls.cfg.MaxConnections)}
			s.ctx, s.cancel = context.WithCancel(ctx)
			ls.open[l.place()] = s
		}
		s.rule.Store(&l)
		if s.listener != nil {
			continue
		}
		begin, err := ls.begin(ctx, l, s, running)
		if err != nil {
			if s.err == nil || s.err.Error() != err.Error() {
				ls.cfg.Log.Error("listener not opened", "service", l.To.String(), "err", err)
				changed = true
			}
			s.err, complete = err, false
			continue
		}
		s.err, changed = nil, true
		running.Go(begin)
	}
	return complete, changed
}

// begin opens a listener, and returns what runs until it is closed.
func (ls *Listeners) begin(ctx context.Context, l Listener, s *socket, running *sync.WaitGroup) (run func(), err error) {
	if l.UDP {
		flows, err := ls.listenUDP(ctx, l, s)
		if err != nil {
			return nil, err
		}
		s.listener, s.flows = flows, flows
		return func() { flows.receive(ctx, running) }, nil
	}
	listener, err := ls.listen(ctx, l.Address)
	if err != nil {
		return nil, err
	}
	s.listener = listener
	return func() { ls.accept(ctx, listener, s, running) }, nil
}

// Status tells of every listener, by address.
func (ls *Listeners) Status() []Status {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var out []Status
	for _, s := range ls.open {
		status := Status{
			Listener: *s.rule.Load(), Err: s.err, Active: len(s.slots), Accepted: s.accepted.Load(), Refused: s.refused.Load(),
		}
		if s.flows != nil {
			status.Active, status.Dropped = int(s.flows.active.Load()), s.flows.dropped.Load()
		}
		out = append(out, status)
	}
	slices.SortFunc(out, func(a, b Status) int {
		if c := a.Listener.Address.Compare(b.Listener.Address); c != 0 || a.Listener.UDP == b.Listener.UDP {
			return c
		} else if b.Listener.UDP {
			return -1
		}
		return 1
	})
	return out
}

// An opened listener is a net.Listener or flows.
type opened interface {
	io.Closer
	Addr() net.Addr
}

// A socket is one open listener. Its rule may change while connections come in.
type socket struct {
	rule              atomic.Pointer[Listener]
	listener          opened // nil where it could not be opened
	flows             *flows // of UDP; else nil
	err               error
	slots             chan struct{} // one for each connection that may be open
	accepted, refused atomic.Uint64
	sources           sources
	ctx               context.Context // of a gateway's connections: ends with the socket
	cancel            context.CancelFunc
}

func (s *socket) close() {
	if s.listener != nil {
		s.listener.Close()
	}
	s.cancel()
}

// accept takes connections in until the listener is closed.
func (ls *Listeners) accept(ctx context.Context, listener net.Listener, s *socket, running *sync.WaitGroup) {
	pause := time.Duration(0)
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := listener.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// No descriptors (EMFILE), no memory: others may give some back. Without a pause this loop would
			// take the processor that they need for it.
			if pause = min(max(2*pause, 5*time.Millisecond), time.Second); pause == time.Second {
				ls.cfg.Log.Warn("cannot accept connections (raise the limit of open files, LimitNOFILE)", "service", s.rule.Load().To.String(), "err", err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			continue
		}
		pause = 0
		running.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			ls.serve(ctx, conn, s)
		})
	}
}

// serve checks who connected and hands the connection over.
func (ls *Listeners) serve(ctx context.Context, conn net.Conn, s *socket) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	rule := *s.rule.Load()
	if rule.Gateway || rule.Plaintext {
		ls.serveOutside(tcp, rule, s)
		return
	}
	if err := ls.allowed(tcp, rule); err != nil {
		s.refused.Add(1)
		if ls.refusal.Allow() {
			ls.cfg.Log.Warn("connection refused", "service", rule.As.String(), "peer", rule.To.String(), "err", err)
		}
		tcp.SetLinger(0) // a reset: the caller must not take this for an empty answer
		return
	}
	s.accepted.Add(1)
	ls.cfg.Handle(ctx, tcp, rule)
}
