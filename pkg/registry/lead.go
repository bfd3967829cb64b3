package registry

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A NodeStatus is what a controller knows about the life of a node.
type NodeStatus struct {
	Node      string    `json:"node"`
	Heard     time.Time `json:"heard,omitzero"` // by this controller
	Lost      bool      `json:"lost"`
	Since     time.Time `json:"since,omitzero"` // of Lost
	Instances int       `json:"instances"`
	Version   string    `json:"version,omitempty"` // of its program, as it says; "" until this controller heard it
	Standing  Standing  `json:"-"`                 // as it says; zero until this controller heard it
}

// A Standing is how far a node has come with a rotation of the authority.
type Standing struct {
	Epoch, Serial uint64    // of the roster that it believes
	Issued        time.Time // its certificates, by the controller's clock
}

// Nodes returns every node that is known, by name.
func (c *Catalogue) Nodes() []NodeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []NodeStatus
	for _, node := range slices.Sorted(maps.Keys(c.liveness.nodes)) {
		n := c.liveness.nodes[node]
		status := NodeStatus{Node: node, Heard: n.heard, Lost: n.lost, Version: n.version, Standing: n.standing}
		if n.lost {
			status.Since = n.since
		}
		if known := c.nodes[node]; known != nil {
			status.Instances = len(known.instances)
		}
		out = append(out, status)
	}
	return out
}

// Recovered says that the bus was away and is back: for a while silence says nothing about nodes.
func (c *Catalogue) Recovered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.liveness.calm(time.Now())
}

// Lead declares nodes lost, back and, much later, gone, until ctx ends. Only the leader runs it, and ends ctx
// when its term does; alive messages must reach the leader's Alive.
func (c *Catalogue) Lead(ctx context.Context) error {
	c.Recovered() // an election is one: nobody said alive to this controller until now
	held := false
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		c.mu.Lock()
		v := c.liveness.tick(time.Now())
		watched := len(c.liveness.nodes)
		c.mu.Unlock()
		if v.silent > 0 && !held {
			c.cfg.Log.Warn("many nodes are silent together; none is declared lost (look at the bus and at the network)", "silent", v.silent, "nodes", watched)
		}
		held = v.silent > 0
		for _, node := range v.lost {
			c.record(ctx, node, true)
		}
		for _, node := range v.back {
			c.record(ctx, node, false)
		}
		for _, node := range v.remove {
			c.remove(ctx, node)
		}
	}
}

// record writes the leader's word on a node. What fails is tried again at the next tick.
func (c *Catalogue) record(ctx context.Context, node string, lost bool) {
	said := &snapshot.NodeLiveness{Node: node, Lost: lost, SinceUnixMs: time.Now().UnixMilli()}
	data, err := proto.Marshal(said)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		err = c.write(ctx, LivenessSubject(node), data, func(stored []byte) bool {
			old := &snapshot.NodeLiveness{}
			return len(stored) > 0 && proto.Unmarshal(stored, old) == nil && old.GetLost() == lost
		})
	}
	switch {
	case err != nil:
		c.cfg.Log.Error("liveness not recorded", "node", node, "err", err)
	case lost:
		c.cfg.Log.Warn("node is lost", "node", node)
	default:
		c.cfg.Log.Info("node is back", "node", node)
	}
}

// remove ends the records of a node that was lost long ago.
func (c *Catalogue) remove(ctx context.Context, node string) {
	c.mu.Lock()
	var subjects []string
	if known := c.nodes[node]; known != nil {
		for key := range known.instances {
			subjects = append(subjects, InstanceSubject(node, key))
		}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, subject := range append(slices.Sorted(slices.Values(subjects)), LivenessSubject(node)) {
		if err := c.write(ctx, subject, nil, func(stored []byte) bool { return len(stored) == 0 }); err != nil {
			c.cfg.Log.Error("lost node not removed", "node", node, "err", err)
			return
		}
	}
	c.cfg.Log.Info("node removed after its time as lost", "node", node)
}
