package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
	"github.com/sennit-mesh/sennit/pkg/telemetry"
)

const (
	// tapLease is for how long a controller's answer holds, counted from when it was asked for.
	tapLease = 5 * time.Second
	// tapRenew is how often a tapped node asks, and tapFlush how often where there is something to tell.
	tapRenew = time.Second
	tapFlush = 250 * time.Millisecond
	// tapBatch is how many exchanges one request holds: far fewer than would be too large for the bus.
	tapBatch = 100
	// maxOrders bounds the taps that an answer lists; a node has room for some of its own host beside them.
	maxOrders = telemetry.MaxTaps / 2
)

// A tapping is a node's side of the taps that controllers order. A TAP IS OPEN ONLY WHILE A CONTROLLER'S SIGNED ANSWER
// TO A REQUEST OF THIS NODE'S SAYS SO, and tapLease longer at most: nothing that somebody else sends opens one, and
// none outlives the controller that wanted it. One goroutine owns it.
type tapping struct {
	node, cluster string
	taps          *telemetry.Taps
	ask           func(ctx context.Context, request []byte) ([]byte, error) // a controller, over the bus
	keys          func() (snapshot.Keys, error)                             // that the roster lists
	log           *slog.Logger
	nudged        chan struct{} // holds one: an answer is for all that came before

	open map[string]*telemetry.Tap // by id
	ends time.Time                 // the lease
}

func (n *Node) newTapping() *tapping {
	return &tapping{
		node: n.identity.Node(), cluster: n.identity.Cluster(), taps: &n.taps, keys: rosterKeys(n.identity), log: n.log,
		ask: func(ctx context.Context, request []byte) ([]byte, error) {
			return n.conn.Request(ctx, bus.VerbTap, request)
		},
		nudged: make(chan struct{}, 1), open: map[string]*telemetry.Tap{},
	}
}

// rosterKeys returns who reads the keys of the newest roster. It verifies each roster once, and has one user.
func rosterKeys(identity *ca.Identity) func() (snapshot.Keys, error) {
	trust := snapshot.NewTrust(identity.Cluster(), identity.RootHash())
	return func() (snapshot.Keys, error) {
		_, err := trust.Update(identity.Roster())
		if roster := trust.Roster(); roster != nil {
			return roster.SigningKeys(), nil
		}
		return nil, err
	}
}

// nudge makes the node ask soon.
func (t *tapping) nudge() {
	select {
	case t.nudged <- struct{}{}:
	default:
	}
}

// run asks when it is nudged, and goes on for as long as somebody taps, until ctx ends.
func (t *tapping) run(ctx context.Context) error {
	defer t.close()
	for {
		select {
		case <-t.nudged:
		case <-ctx.Done():
			return nil
		}
		t.tell(ctx)
		for len(t.open) > 0 && ctx.Err() == nil {
			t.await(ctx)
			t.tell(ctx)
		}
		pause(ctx, tapRenew) // nudges that nobody has a reason for make it ask no more often
	}
}

// await returns when it is time to ask again.
func (t *tapping) await(ctx context.Context) {
	for waited := time.Duration(0); waited < tapRenew && ctx.Err() == nil && time.Now().Before(t.ends); waited += tapFlush {
		pause(ctx, tapFlush)
		for _, tap := range t.open {
			if len(tap.Seen()) > 0 {
				return
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// tell hands over what was seen, and asks who taps.
func (t *tapping) tell(ctx context.Context) {
	request := &telemetry.TapRequest{Nonce: make([]byte, 16)}
	rand.Read(request.Nonce) // never fails
	room := tapBatch
	for id, tap := range t.open {
		if batch := tap.Take(room); batch != nil {
			batch.Tap = []byte(id)
			room -= len(batch.GetExchanges())
			request.Batches = append(request.Batches, batch)
		}
	}
	sent := time.Now()
	answer, err := t.answer(ctx, request)
	switch {
	case err == nil:
		t.ends = sent.Add(tapLease)
		t.obey(answer.GetTaps())
		return
	case ctx.Err() != nil:
		return
	}
	for _, batch := range request.GetBatches() {
		t.open[string(batch.GetTap())].Lost(batch)
	}
	t.log.Warn("who taps this node is not known", "err", err)
	if !time.Now().Before(t.ends) {
		t.close()
	}
}

// answer asks a controller, for no longer than the lease lasts.
func (t *tapping) answer(ctx context.Context, request *telemetry.TapRequest) (*telemetry.TapAnswer, error) {
	payload, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	limit := tapLease
	if len(t.open) > 0 {
		limit = time.Until(t.ends)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reply, err := t.ask(ctx, payload)
	if err != nil {
		return nil, err
	}
	keys, err := t.keys()
	if err != nil {
		return nil, err
	}
	return telemetry.OpenTaps(keys, t.cluster, t.node, request.GetNonce(), reply)
}

// obey opens the taps that are ordered, and closes the others.
func (t *tapping) obey(orders []*telemetry.TapOrder) {
	ordered := map[string]bool{}
	for _, order := range orders[:min(len(orders), maxOrders)] {
		id := string(order.GetId())
		ordered[id] = true
		if t.open[id] != nil {
			continue
		}
		tap, err := t.taps.Open(order.GetFilter())
		if err != nil {
			t.log.Warn("a tap cannot be opened", "err", err)
			continue
		}
		t.open[id] = tap
	}
	for id, tap := range t.open {
		if !ordered[id] {
			tap.Close()
			delete(t.open, id)
		}
	}
}

func (t *tapping) close() {
	for _, tap := range t.open {
		tap.Close()
	}
	clear(t.open)
}

// serveTaps follows what controllers order until ctx ends.
func (n *Node) serveTaps(ctx context.Context) error {
	t := n.newTapping()
	stop, err := n.conn.Nudged(t.nudge)
	if err != nil {
		return err
	}
	defer stop()
	return t.run(ctx)
}

// localTap shows exchanges to a command of this host until it goes.
func (n *Node) localTap(w http.ResponseWriter, r *http.Request) {
	wanted, err := telemetry.ParseFilter(r.URL.Query())
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	tap, err := n.taps.Open(wanted)
	if errors.Is(err, telemetry.ErrTooManyTaps) {
		socket.WriteFailure(w, http.StatusTooManyRequests, fmt.Errorf("%w on this node (end one of them)", err))
		return
	}
	if err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return
	}
	defer tap.Close()
	node := n.identity.Node()
	line := socket.Lines(w)
	err = line(telemetry.TapLine{Nodes: []string{node}})
	tick := time.NewTicker(tapRenew)
	defer tick.Stop()
	for err == nil {
		select {
		case seen := <-tap.Seen():
			err = line(telemetry.TapLine{Exchange: seen.Shown(node)})
		case <-tick.C: // finds out who has gone, too
			err = line(telemetry.TapLine{Node: node, Dropped: tap.Dropped()})
		case <-r.Context().Done():
			return
		}
	}
}
