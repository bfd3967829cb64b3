package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sennit-mesh/sennit/pkg/exchange"
)

// ErrNotRegistered is returned for an instance that was not registered at run time.
var ErrNotRegistered = errors.New("not registered at run time")

// A Store keeps what was registered at run time across restarts. Save and Delete return once it is durable.
type Store interface {
	Load() (map[string][]byte, error)
	Save(key string, document []byte) error
	Delete(key string) error
}

// LocalConfig is what Local needs.
type LocalConfig struct {
	Node  string // names the instances that give no name
	Dir   string // services.d; empty: none
	Store Store
	// Changed is called after each change of what is declared or of its health, also by the goroutines of
	// callers of Set and Remove. It must not block and not call Local's writers.
	Changed func()
	Log     *slog.Logger
}

// Local is what this host runs: what files and the run time declared, and how it is. Its readers take no
// lock; it is safe for concurrent use.
type Local struct {
	cfg   LocalConfig
	probe func(context.Context, *Check) error
	view  atomic.Pointer[view]
	wake  chan struct{} // what is checked may have changed

	mu      sync.Mutex
	dirErr  error
	files   map[string]*file
	runTime map[Key]*Instance
	health  map[Key]*health
	leaving map[Key]*leaving
}

// A view is what readers see. It never changes.
type view struct {
	instances []*Instance
	health    map[Key]health
	ports     map[portKey]Port
	egress    map[Key]bool // with an empty name: any
	listeners []Listener
}

type portKey struct {
	service  exchange.ServiceName
	instance string // empty: any
	port     uint16
	udp      bool
}

// leaving is an instance that was declared until a moment ago.
type leaving struct {
	instance *Instance
	until    time.Time
}

// leaveAfter is how long calls still reach an instance that is no longer declared: its callers learn of its
// end over the bus, and calls that are under way until then must not fail.
const leaveAfter = 30 * time.Second

// NewLocal reads what is declared. Files with mistakes are no error: they are logged and stand in Problems.
func NewLocal(cfg LocalConfig) (*Local, error) {
	l := &Local{cfg: cfg, probe: probe, wake: make(chan struct{}, 1), files: map[string]*file{},
		runTime: map[Key]*Instance{}, health: map[Key]*health{}, leaving: map[Key]*leaving{}}
	if cfg.Store != nil {
		stored, err := cfg.Store.Load()
		if err != nil {
			return nil, fmt.Errorf("read what was registered at run time: %w", err)
		}
		for key, document := range stored {
			instances, err := Parse(AtRunTime, document, cfg.Node)
			if err != nil {
				return nil, fmt.Errorf("read what was registered at run time as %s: %w", key, err)
			}
			for _, in := range instances {
				in.Origin = AtRunTime
				l.runTime[in.Key()] = in
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readFiles()
	l.publish()
	return l, nil
}

// Lookup returns where a call for an instance's port goes on this host, and what is spoken there; the empty instance is
// any, a healthy one where there is one. It takes no lock and allocates nothing.
func (l *Local) Lookup(service exchange.ServiceName, target exchange.Target) (port Port, ok bool) {
	port, ok = l.view.Load().ports[portKey{service, target.Instance, target.Port, target.UDP}]
	return port, ok
}

// IsEgress reports whether this host carries the calls of a service out of the mesh, as that instance or, where it is
// empty, as any. It takes no lock.
func (l *Local) IsEgress(service exchange.ServiceName, instance string) bool {
	return l.view.Load().egress[Key{service, instance}]
}

// EgressAllows are the addresses that the egresses of a service on this host open.
func (l *Local) EgressAllows(service exchange.ServiceName) (all []netip.Prefix) {
	for _, in := range l.Instances() {
		if in.Egress != nil && in.Service == service {
			all = append(all, in.Egress.Allow...)
		}
	}
	return all
}

// Listeners returns the listeners that are declared, ordered by address. The slice must not be changed.
func (l *Local) Listeners() []Listener { return l.view.Load().listeners }

// Instances returns what is declared, ordered by service and name. The slice must not be changed.
func (l *Local) Instances() []*Instance { return l.view.Load().instances }

// Health returns how an instance is: known is false where no check has had a result yet, detail says why it
// is not well.
func (l *Local) Health(key Key) (known, well bool, detail string) {
	h := l.view.Load().health[key]
	return h.known, h.well, h.detail
}

// Set declares the one instance of a document in services.d's format, as source names it in errors, and
// replaces what Set declared under the same service and name.
func (l *Local) Set(source string, document []byte) (*Instance, error) {
	instances, err := Parse(source, document, l.cfg.Node)
	if err != nil {
		return nil, err
	}
	if len(instances) != 1 {
		return nil, fmt.Errorf("%s: holds %d documents; register one instance at a time", source, len(instances))
	}
	in := instances[0]
	in.Origin = AtRunTime
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conflict(source, instances, func(other *Instance) bool { return other.Origin == AtRunTime && other.Key() == in.Key() }); err != nil {
		return nil, err
	}
	if l.cfg.Store != nil {
		written, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		if err := l.cfg.Store.Save(in.Key().String(), written); err != nil {
			return nil, fmt.Errorf("keep the registration of %s: %w", in.Key(), err)
		}
	}
	l.runTime[in.Key()] = in
	l.publish()
	return in, nil
}

// Remove takes back what Set declared.
func (l *Local) Remove(key Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runTime[key] == nil {
		for _, in := range l.declared() {
			if in.Key() == key {
				return fmt.Errorf("%s: %w (it is declared in %s; remove it there)", key, ErrNotRegistered, in.Origin)
			}
		}
		return fmt.Errorf("%s: %w", key, ErrNotRegistered)
	}
	if l.cfg.Store != nil {
		if err := l.cfg.Store.Delete(key.String()); err != nil {
			return fmt.Errorf("forget the registration of %s: %w", key, err)
		}
	}
	delete(l.runTime, key)
	l.settle() // a file may have waited for the name
	l.publish()
	return nil
}

// declared returns all instances, in no order.
func (l *Local) declared() []*Instance {
	var out []*Instance
	for _, f := range l.files {
		out = append(out, f.good...)
	}
	for _, in := range l.runTime {
		out = append(out, in)
	}
	return out
}

// conflict reports what of instances another declaration holds already, without those that replaced names.
func (l *Local) conflict(source string, instances []*Instance, replaced func(*Instance) bool) error {
	for _, other := range l.declared() {
		if replaced(other) {
			continue
		}
		for _, in := range instances {
			line := 1
			if in.Origin != AtRunTime {
				line = lineOf(in.Origin)
			}
			if in.Key() == other.Key() {
				return &FieldError{source, line, "instance", fmt.Sprintf("%s is declared already (%s); give each instance of a host a name of its own", in.Key(), other.Origin)}
			}
			if in.sharesWorkload(other) {
				return &FieldError{source, line, "workload", fmt.Sprintf("%s is %s already (%s); a process is one service", in.Workload, other.Service, other.Origin)}
			}
			for _, a := range in.sockets() {
				if slices.Contains(other.sockets(), a) {
					return &FieldError{source, line, "listeners", fmt.Sprintf("%s is the address of another listener (%s); give each one of its own", a.address, other.Origin)}
				}
			}
		}
	}
	return nil
}

// publish makes a new view of what is declared and tells about it. The lock is held.
func (l *Local) publish() {
	v := &view{instances: l.declared(), health: map[Key]health{}, ports: map[portKey]Port{}, egress: map[Key]bool{}}
	slices.SortFunc(v.instances, func(a, b *Instance) int { return strings.Compare(a.Key().String(), b.Key().String()) })
	present := map[Key]bool{}
	for _, in := range v.instances {
		key := in.Key()
		present[key] = true
		delete(l.leaving, key)
		h := health{known: true, well: true}
		if in.Health != nil {
			if l.health[key] == nil {
				l.health[key] = &health{}
			}
			h = *l.health[key]
		}
		v.health[key] = h
		v.listeners = append(v.listeners, in.Listeners...)
	}
	old := l.view.Load()
	if old != nil {
		for _, in := range old.instances {
			if !present[in.Key()] {
				l.leaving[in.Key()] = &leaving{in, time.Now().Add(leaveAfter)}
			}
		}
	}
	// Later ones win: those that leave, then the unwell, then the well; the first by name of each.
	for _, going := range l.leaving {
		v.addPorts(going.instance)
	}
	for _, well := range []bool{false, true} {
		for _, in := range slices.Backward(v.instances) {
			if h := v.health[in.Key()]; h.known && h.well == well || !h.known && !well {
				v.addPorts(in)
			}
		}
	}
	for key := range l.health {
		if !present[key] {
			delete(l.health, key)
		}
	}
	slices.SortFunc(v.listeners, func(a, b Listener) int { return a.Address.Compare(b.Address) })
	l.view.Store(v)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	if l.cfg.Changed != nil && old != nil {
		l.cfg.Changed()
	}
}

func (v *view) addPorts(in *Instance) {
	if in.Egress != nil {
		v.egress[in.Key()], v.egress[Key{in.Service, ""}] = true, true
	}
	for _, p := range in.Ports {
		v.ports[portKey{in.Service, in.Name, p.Number, p.UDP()}] = p
		v.ports[portKey{in.Service, "", p.Number, p.UDP()}] = p
	}
}
