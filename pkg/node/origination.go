package node

import (
	"maps"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/origination"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// originations are by which the processes of this host are spoken to in TLS. Readers take no lock; one writer at a time.
type originations struct {
	services atomic.Pointer[map[exchange.ServiceName]secured]
}

// secured are those of one service.
type secured struct {
	called  map[string]began                 // by "namespace/name:port"
	targets map[uint16]*origination.Settings // by the service's own port, whoever is called
}

type began struct {
	of       *snapshot.Origination
	settings *origination.Settings
}

// find returns by what a process is spoken to for a call: nil in the clear. It reports false where this node is told of
// something called that it does not know: configuration that has not come yet, or is gone, must not be taken for none.
//
// Bytes of which nobody says what is called are the caller's own, TLS among them, and go on as they come.
func (o *originations) find(service exchange.ServiceName, kind exchange.Kind, target *exchange.Target) (*origination.Settings, bool) {
	all := o.services.Load()
	if all == nil {
		return nil, target.Called == ""
	}
	of := (*all)[service]
	if target.Called != "" {
		at, known := of.called[target.Called]
		return at.settings, known
	}
	if kind != exchange.HTTP {
		return nil, true
	}
	return of.targets[target.Port], true
}

// set takes what is said of a service into force. What did not change keeps its connections.
func (o *originations) set(service exchange.ServiceName, ports []*snapshot.SecuredPort) error {
	all := map[exchange.ServiceName]secured{}
	if old := o.services.Load(); old != nil {
		all = maps.Clone(*old)
	}
	next := secured{called: make(map[string]began, len(ports)), targets: map[uint16]*origination.Settings{}}
	for _, p := range ports {
		one := began{of: p.GetTls()}
		if before, known := all[service].called[p.GetCalled()]; known && proto.Equal(before.of, one.of) {
			one = before
		} else {
			var err error
			if one.settings, err = origination.New(one.of); err != nil {
				return err
			}
		}
		next.called[p.GetCalled()] = one
		for _, target := range p.GetTargets() {
			if next.targets[uint16(target)] == nil {
				next.targets[uint16(target)] = one.settings
			}
		}
	}
	if delete(all, service); len(ports) > 0 {
		all[service] = next
	}
	o.services.Store(&all)
	return nil
}

// drop forgets what a subject said that is not followed any more.
func (o *originations) drop(subject string) {
	if names, err := snapshot.ParseSubject(subject); err == nil && names.Kind == snapshot.KindIn {
		_ = o.set(exchange.ServiceName{Namespace: names.Namespace, Name: names.Service}, nil) // nothing is made that could fail
	}
}
