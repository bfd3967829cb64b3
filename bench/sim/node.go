package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	realnode "github.com/sennit-mesh/sennit/pkg/node"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/routing"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A node is one simulated node. What it applies is owned by the follower's goroutine.
type node struct {
	fleet     *fleet
	index     int
	log       *slog.Logger
	identity  *ca.Identity
	conn      *bus.Conn
	follower  *bus.Follower
	registrar *registry.Registrar
	calls     []string // services of the namespace

	table    *routing.Table
	followed []string
	needed   []string         // of followed: what the table asked for
	newest   snapshot.Version // of the common service's rules, that came,
	built    uint64           // and the resources that they were built from
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// joinTries is how often a controller that has too much to do is asked, each time for a few seconds.
const joinTries = 10

// joinNode makes a host a node, as `sennit node --join` does, and prepares its parts.
func joinNode(ctx context.Context, f *fleet, index int) (_ *node, err error) {
	n := &node{fleet: f, index: index, table: routing.New(), log: f.log.With("node", nodeName(index))}
	service := namespace + "/" + serviceName(index%f.cfg.Services)
	for i := range f.cfg.Calls - 1 {
		n.calls = append(n.calls, serviceName(1+(index*(f.cfg.Calls-1)+i)%(f.cfg.Services-1)))
	}
	n.calls = append(n.calls, common)
	secret, err := f.mesh.Token(ctx, nodeName(index), service)
	for tries := 1; err != nil && tries < joinTries && ctx.Err() == nil; tries++ {
		n.log.Warn("a token is asked for again", "err", err)
		f.again.Add(1)
		secret, err = f.mesh.Token(ctx, nodeName(index), service)
	}
	if err != nil {
		return nil, err
	}
	token, err := ca.ParseToken(secret)
	if err != nil {
		return nil, err
	}
	n.identity, err = ca.NewIdentity(ca.IdentityConfig{Dir: filepath.Join(f.cfg.Dir, nodeName(index)), Log: n.log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	lanes := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(index >> 16), byte(index >> 8), byte(index)}), 7443)
	n.identity.SetAddress(lanes.String())
	// A host whose joining was cut short is started again with the same token.
	tries := 1
	for err = n.identity.Join(ctx, token, nil); err != nil; err = n.identity.Join(ctx, token, nil) {
		if tries++; tries > joinTries || ctx.Err() != nil {
			return nil, err
		}
		n.log.Warn("joining is tried again", "err", err)
		f.again.Add(1)
	}
	if n.conn, err = bus.Dial(n.identity.BusConfig()); err != nil {
		return nil, err
	}
	n.follower, err = bus.NewFollower(bus.FollowerConfig{
		Conn: n.conn, Cluster: n.identity.Cluster(), Node: n.identity.Node(), Root: n.identity.RootHash(),
		Kept:    []snapshot.Raw{{Subject: snapshot.RosterSubject, Data: n.identity.Roster()}},
		Deliver: n.deliver, Restored: n.follow, Keep: func(string, []snapshot.Raw) error { return nil },
		Verify: f.verifier.verify, Log: f.log,
	})
	if err != nil {
		return nil, err
	}
	local, err := registry.NewLocal(registry.LocalConfig{Node: n.identity.Node(), Log: n.log})
	if err != nil {
		return nil, err
	}
	document := fmt.Sprintf("service: %s\nports: [{port: 80, name: http, protocol: http, address: '127.0.0.1:8080'}]\n", service)
	if _, err := local.Set("simulated instance", []byte(document)); err != nil {
		return nil, err
	}
	n.registrar = registry.NewRegistrar(registry.RegistrarConfig{
		Node: n.identity.Node(), Local: local, LaneAddress: lanes.String, Bus: realnode.NewWords(n.conn, n.identity, n.log), Log: n.log,
	})
	return n, nil
}

// run lives as a node until ctx ends.
func (n *node) run(ctx context.Context) error {
	stop := n.conn.Notify(func(notice bus.Notice) {
		if notice.Kind == bus.Connected {
			n.registrar.Resend()
		}
	})
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.follower.Run(ctx) })
	group.Go(func() error { return n.identity.Run(ctx, n.conn) })
	group.Go(func() error {
		if err := n.registrar.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})
	return group.Wait()
}

func (n *node) close() error {
	if n.conn != nil {
		n.conn.Close()
	}
	return n.identity.Close()
}

// follow tells the follower what the node needs, where that has changed.
func (n *node) follow() {
	subjects := []string{snapshot.RosterSubject, snapshot.NodeSubject(n.identity.Node())}
	for _, service := range n.calls {
		subjects = append(subjects, snapshot.OutSubject(namespace, service, ""))
	}
	n.needed = n.table.Needs()
	subjects = append(subjects, n.needed...)
	slices.Sort(subjects)
	if subjects = slices.Compact(subjects); slices.Equal(subjects, n.followed) {
		return
	}
	n.followed = subjects
	n.follower.Follow(subjects)
}

// deliver applies an update, and notes when the common service's rules are in effect.
func (n *node) deliver(u bus.Update) {
	if len(u.Refused) > 0 {
		return
	}
	if err := n.take(u); err != nil {
		n.log.Error("configuration is not usable", "subject", u.Subject, "err", err)
		n.follower.Applied(u.Subject, u.Version, err.Error())
	}
	if !slices.Equal(n.table.Needs(), n.needed) {
		n.follow()
	}
}

func (n *node) take(u bus.Update) error {
	if u.Subject == snapshot.RosterSubject {
		_, err := n.identity.UpdateRoster(u.Body)
		return err
	}
	var body proto.Message
	if !u.Gone {
		var err error
		if body, err = snapshot.Decode(u.Subject, u.Body); err != nil {
			return err
		}
	}
	names, err := snapshot.ParseSubject(u.Subject)
	if err != nil {
		return err
	}
	if names.Kind != snapshot.KindOut && names.Kind != snapshot.KindEndpoints {
		n.follower.Applied(u.Subject, u.Version, "")
		return nil
	}
	if u.Subject == changing {
		n.newest, n.built = u.Version, u.BuiltFrom.Resources
	}
	applied, err := n.table.Apply(u.Subject, u.Version, body)
	for _, a := range applied {
		if a.Subject == changing && a.Version == n.newest {
			n.fleet.applied(n.index, n.built, time.Now())
		}
		n.follower.Applied(a.Subject, a.Version, "")
	}
	return err
}

// changing is the subject of the common service's rules.
var changing = snapshot.OutSubject(namespace, common, "")
