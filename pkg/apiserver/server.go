package apiserver

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
)

// Limits on what callers can make grow.
const (
	maxBody     = 3 << 20 // bytes of a request
	maxWatchers = 1000
	maxEvents   = 1024 // kept for each kind, for watchers that come back
	maxPage     = 10_000
)

// Records is a log of documents: each subject has a history, and all share one sequence. bus.Records implements it.
type Records interface {
	// Append stores data where the last sequence of subject is expect (0: there is none), else bus.ErrConflict.
	Append(ctx context.Context, subject string, data []byte, expect uint64) (uint64, error)
	// Follow calls fn for everything from a sequence on, in order, until ctx ends or fn fails.
	Follow(ctx context.Context, from uint64, fn func(bus.Entry) error) error
	// Last is the sequence of the newest entry, as the log's leader knows it.
	Last(ctx context.Context) (uint64, error)
}

// Virtual shows documents that another part owns. Creator and Deleter may be implemented beside it.
type Virtual interface {
	// List returns all documents, and a number that grows with each change of any.
	List(ctx context.Context) (all []*unstructured.Unstructured, version uint64, err error)
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
}

// A Creator makes a document of a virtual kind; what it returns is shown to the caller this once.
type Creator interface {
	Create(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error)
}

// A Deleter removes a document of a virtual kind.
type Deleter interface {
	Delete(ctx context.Context, namespace, name string) error
}

// A Caller is who sent a request.
type Caller struct {
	User   string   // the operator
	Groups []string // that roles may be bound to
	From   string   // "192.0.2.7:50000, token 5f3a9c12", or "unix socket, uid 0, pid 4711"
}

// An Identity is whom a bearer token stands for.
type Identity struct {
	User    string
	Groups  []string
	Token   string          // names the token in the audit; "": its TokenID
	Lives   context.Context // ends when the token is taken back: answers that last end then. nil: it cannot be
	Expires time.Time       // when they end anyhow; zero: never
}

// A Change is one write: who does what, and the document before (nil: created) and after (nil: deleted).
type Change struct {
	Caller
	Verb            string
	Kind            *api.Kind
	Namespace, Name string
	Before, After   *unstructured.Unstructured // must not be changed
	Sequence        uint64                     // where it was stored; 0 while it is only asked for
	DryRun          bool                       // nothing will be stored
	Err             error                      // why it was not stored after all
	Begun           *uint64                    // the hook's own: the same in all calls for one change that may come with Err
}

// Config of a Server. Resources, Status and Authenticate must be given.
type Config struct {
	Resources, Status Records
	Epoch             uint64 // the history that sequences belong to: 0, or the Unix time of a restore in seconds
	Virtual           map[*api.Kind]Virtual
	// Always are documents of kinds without namespaces that a start makes where they are not there, complete.
	Always []*unstructured.Unstructured

	// Sealer keeps the data of Secrets out of the log (cipher.NewGCMWithRandomNonce). nil: none can be stored.
	Sealer cipher.AEAD

	// Authenticate returns whom a bearer token stands for, or an error. What he may do the documents of RBAC say.
	Authenticate func(ctx context.Context, token string) (Identity, error)
	// Hook is called for each change before it is stored, and may refuse it (403 with the error's text); and
	// again, with Sequence set, when it is stored and before the caller learns so. Changes of what no log keeps the
	// history of, virtual documents and statuses, come again with Err where they failed. May be nil.
	Hook func(ctx context.Context, c Change) error
	// Refused is called for each request that is not answered because of who sent it (401, 403). May be nil.
	Refused func(c Caller, method, path string, err error)
	// RefusedUnseen is called in its place for those of whom there are too many. May be nil.
	RefusedUnseen func()
	Version       string
	Log           *slog.Logger // nil: slog.Default
}

// A Server answers the API. Its handlers may be used as soon as New returned; requests wait for Run to catch up.
type Server struct {
	cfg      Config
	cache    *cache
	managers map[*api.Kind]*managedfields.FieldManager
	watchers atomic.Int64
	policies policies
	failures *failures
	refusals refusals
	openAPI  func() *openAPI

	mu      sync.Mutex
	closing chan struct{} // closed when Run ends, so that watches end
	ready   chan struct{} // closed when the cache has caught up for the first time
}

// New builds a server; Run must run while its handlers are used.
func New(cfg Config) (*Server, error) {
	if cfg.Resources == nil || cfg.Status == nil || cfg.Authenticate == nil {
		return nil, errors.New("apiserver: Resources, Status and Authenticate must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Hook == nil {
		cfg.Hook = func(context.Context, Change) error { return nil }
	}
	if cfg.Refused == nil {
		cfg.Refused = func(Caller, string, string, error) {}
	}
	if cfg.RefusedUnseen == nil {
		cfg.RefusedUnseen = func() {}
	}
	s := &Server{cfg: cfg, failures: newFailures(), cache: newCache(), closing: make(chan struct{}), ready: make(chan struct{})}
	managers, err := fieldManagers()
	if err != nil {
		return nil, fmt.Errorf("apiserver: managed fields: %w", err)
	}
	s.managers = managers
	s.openAPI = sync.OnceValue(func() *openAPI { return newOpenAPI(cfg.Version) })
	return s, nil
}

// Run follows the logs until ctx ends, and then ends all watches.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.closing)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(ctx, "resources", s.cfg.Resources, s.applyResource, s.cache.resources) })
	g.Go(func() error { return s.follow(ctx, "status", s.cfg.Status, s.applyStatus, s.cache.statuses) })
	for k, v := range s.cfg.Virtual {
		g.Go(func() error { return s.poll(ctx, k, v) })
	}
	g.Go(func() error { return s.start(ctx) })
	return g.Wait()
}

// byController is who makes what always exists.
var byController = Caller{User: "system:controller", Groups: []string{rbac.Masters}}

// start makes the namespace and the documents that always exist, once the cache is current.
func (s *Server) start(ctx context.Context) error {
	always := append([]*unstructured.Unstructured{namespaceNamed("default")}, s.cfg.Always...)
	always = append(always, defaultRoles()...)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := s.current(ctx)
		for _, u := range always {
			k := api.ByKind(u.GetAPIVersion(), u.GetKind())
			if err != nil {
				break
			}
			switch old := s.cache.get(k, "", u.GetName()); {
			case old == nil:
				_, err = s.make(ctx, byController, k, u.DeepCopy())
			case outdated(old.written, u):
				err = s.renew(ctx, old, k, u)
			}
		}
		if err == nil {
			close(s.ready)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		s.cfg.Log.Warn("resources are not readable yet", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// defaultRoles are the roles that are always there. They are brought to what this version says of them, unless somebody
// took the annotation away by which they ask for that.
func defaultRoles() (roles []*unstructured.Unstructured) {
	for _, role := range rbac.Defaults() {
		u, err := api.From(api.ClusterRoles, &role)
		if err != nil {
			panic("apiserver: " + err.Error()) // they are ours
		}
		roles = append(roles, u)
	}
	return roles
}

func outdated(old, u *unstructured.Unstructured) bool {
	return old.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "true" && !equality.Semantic.DeepEqual(old.Object["rules"], u.Object["rules"])
}

// renew brings a document that is always there to what this version says.
func (s *Server) renew(ctx context.Context, old *item, k *api.Kind, u *unstructured.Unstructured) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, root(k)+"/"+k.Plural+"/"+u.GetName()+"?fieldManager=sennit", nil)
	if err != nil {
		return err
	}
	r := &request{Request: req, caller: byController, kind: k, name: u.GetName()}
	_, err = s.changeOnce(r, "update", old, u.DeepCopy(), nil)
	return err
}

// follow keeps the cache behind a log, and starts again behind what it has when the log breaks off.
func (s *Server) follow(ctx context.Context, name string, log Records, apply func(bus.Entry) error, at *bus.Progress) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		before := at.At()
		err := log.Follow(ctx, before+1, func(e bus.Entry) error {
			if e.Sequence <= at.At() {
				return nil
			}
			if at == s.cache.resources && at.At() == 0 {
				s.cache.forget(e.Sequence - 1)
			}
			if err := apply(e); err != nil { // one bad record must not hide all that follow
				s.cfg.Log.Error("record skipped", "subject", e.Subject, "sequence", e.Sequence, "err", err)
			}
			at.Reach(e.Sequence)
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		if at.At() > before {
			wait = 50 * time.Millisecond
		}
		s.cfg.Log.Warn("log broke off, following again", "log", name, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// poll keeps a virtual kind's collection behind its owner.
func (s *Server) poll(ctx context.Context, k *api.Kind, v Virtual) error {
	for {
		changed := v.Changed()
		if err := s.refresh(ctx, k); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("documents cannot be shown", "kind", k.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(30 * time.Second):
		}
	}
}

// refresh brings a virtual kind's collection to what its owner lists now.
func (s *Server) refresh(ctx context.Context, k *api.Kind) error {
	v := s.cfg.Virtual[k]
	if v == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all, version, err := v.List(ctx)
	if err != nil {
		return err
	}
	s.cache.replace(k, all, version+1, s.version) // 0 has a meaning of its own to clients
	return nil
}

// current waits until the cache has all that the logs hold now.
func (s *Server) current(ctx context.Context) error {
	last, err := s.cfg.Resources.Last(ctx)
	if err != nil {
		return fmt.Errorf("read the end of the resources: %w", err)
	}
	lastStatus, err := s.cfg.Status.Last(ctx)
	if err != nil {
		return fmt.Errorf("read the end of the statuses: %w", err)
	}
	if err := s.cache.resources.Wait(ctx, last); err != nil {
		return err
	}
	return s.cache.statuses.Wait(ctx, lastStatus)
}

const epochStep = 1_000_000_000

// Version is the number that is the resourceVersion of a sequence in an epoch.
func Version(epoch, sequence uint64) uint64 { return epoch*epochStep + sequence }

// Sequence is the sequence that a version stands for; not ok: it is of before the epoch.
func Sequence(epoch, version uint64) (sequence uint64, ok bool) {
	if version < epoch*epochStep {
		return 0, false
	}
	return version - epoch*epochStep, true
}

// version is the resourceVersion of a sequence.
func (s *Server) version(sequence uint64) string {
	return strconv.FormatUint(Version(s.cfg.Epoch, sequence), 10)
}

// sequence is the sequence that a resourceVersion stands for. One of an older epoch is too old (410).
func (s *Server) sequence(version string) (uint64, error) {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, badRequest("resourceVersion must be a number, is %q", version)
	}
	sequence, ok := Sequence(s.cfg.Epoch, n)
	if !ok {
		return 0, expired("resourceVersion %s is of before the restore; list again", version)
	}
	return sequence, nil
}

// Handler answers operators who show a bearer token, over TLS.
func (s *Server) Handler() http.Handler { return s.Authenticated(s.API()) }

// LocalHandler answers everyone, as who says: for a unix socket whose file mode says who may connect.
func (s *Server) LocalHandler(who func(*http.Request) Caller) http.Handler {
	return s.Local(s.API(), who)
}
