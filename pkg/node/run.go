package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/ca"
)

// Run carries traffic until ctx ends, then drains: peers and the controllers are told, what runs is
// finished within the drain time, and everything is closed. It is called once.
func (n *Node) Run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, running := errgroup.WithContext(running)
	part := func(name string, run func(context.Context) error) {
		group.Go(func() error {
			if err := run(running); err != nil && running.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("lanes", n.lanes.Run)
	select {
	case <-n.lanes.Running():
	case <-running.Done():
		return errors.Join(group.Wait(), n.close())
	}
	part("processors", n.fitProcessors)
	part("inbound", n.inbound.Run)
	part("outbound", n.outbound.Run)
	part("plaintext", n.plain.outbound.Run)
	part("configuration", n.follower.Run)
	part("store", n.store.retry)
	part("services", n.local.Run)
	part("registration", n.registrar.Run)
	part("identity", func(ctx context.Context) error { return n.identity.Run(ctx, n.conn) })
	part("telemetry", func(ctx context.Context) error {
		return n.words.reportEdges(ctx, n.edges, &n.admission.recent, &n.plain.recent)
	})
	part("quota", n.quota.Run)
	part("traces", func(ctx context.Context) error { return n.words.reportSpans(ctx, n.spans) })
	part("taps", n.serveTaps)
	part("socket", n.serveSocket)
	if n.workload != nil {
		part("Workload API", n.serveWorkload)
	}
	part("reload", n.reloadOnHangup)
	if n.access != nil {
		part("access log", n.access.Run)
	}
	if n.cfg.Metrics != "" {
		part("metrics", n.serveMetrics)
	}
	callers, stopCallers := context.WithCancel(running)
	defer stopCallers()
	group.Go(func() error {
		if err := n.capture.Run(callers); callers.Err() == nil {
			return fmt.Errorf("listeners: %w", err)
		}
		return nil // an error would end the parts that still drain
	})
	unwatch := n.conn.Notify(n.noticed)
	defer unwatch()
	n.declared()
	n.log.Info("node runs", "lanes", n.address(), "services", len(n.local.Instances()))

	select {
	case <-ctx.Done():
		n.drain(stopCallers)
		stop()
	case <-running.Done():
	}
	return errors.Join(group.Wait(), n.close())
}

// reloadOnHangup reads services.d again at each SIGHUP, as `systemctl reload` sends it.
func (n *Node) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := n.local.Reload(); err != nil {
				n.log.Warn("services.d was read again; files with mistakes keep their last good content", "err", err)
			}
		}
	}
}

// drain says goodbye and waits for what runs.
func (n *Node) drain(stopCallers func()) {
	n.log.Info("node stops: what runs is finished first", "within", n.cfg.DrainTime.String())
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.DrainTime)
	defer cancel()
	if n.conn.Err() == nil {
		saying, cancel := context.WithTimeout(ctx, n.cfg.DrainTime/3) // the rest is for what runs
		err := n.registrar.Drain(saying)
		cancel()
		if err != nil {
			n.log.Warn("not every registration could be taken back", "err", err)
		}
	}
	n.leaving.Store(true)
	stopCallers()
	if err := n.lanes.Drain(ctx); err != nil {
		n.log.Warn("exchanges were cut off", "err", err)
	}
}

// noticed hears of the bus.
func (n *Node) noticed(notice bus.Notice) {
	switch notice.Kind {
	case bus.Connected:
		n.log.Info("bus connected")
		n.identity.SetAddress(n.address())
		n.registrar.Resend()
	case bus.Disconnected:
		if n.leaving.Load() || notice.Err == nil { // leaving, or connecting anew with another token
			return
		}
		n.log.Warn("bus is away: the node serves with what it has", "err", notice.Err)
	case bus.Refused:
		n.log.Warn("the bus refuses something", "err", notice.Err)
	}
}

// rotated hears that certificates were replaced. A new token for the bus holds other permissions, which
// count from the next connecting on.
func (n *Node) rotated(r ca.Rotation) {
	if n.conn == nil {
		return // joining
	}
	if r.Key || r.Bus || len(r.Services) > 0 {
		if err := n.conn.Reconnect(); err != nil {
			n.log.Debug("reconnect with the new token", "err", err)
		}
	}
	n.lanes.Renewed()
	n.registrar.Resend()
	n.workloadChanged() // a service may be allowed no more
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listen() // a gateway may have its identity now
}

func (n *Node) close() error {
	var errs []error
	if n.udp != nil {
		_ = n.udp.Close() // where the lanes ran they have closed it
	}
	if n.tcp != nil {
		_ = n.tcp.Close()
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.close())
	}
	if n.identity != nil {
		errs = append(errs, n.identity.Close())
	}
	if n.logFile != nil {
		errs = append(errs, n.logFile.Close())
	}
	return errors.Join(errs...)
}
