package controller

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/audit"
)

const (
	// upstreamEvery is how often it is looked at whether the intermediate of an authority outside is to be renewed.
	upstreamEvery = time.Second
	// After a failure the authority is asked again after upstreamFirst, and each time twice as long, up to upstreamMost.
	upstreamFirst = 10 * time.Second
	upstreamMost  = 30 * time.Minute
	// upstreamWarns is at which part of its life an intermediate is told of that was not renewed, which is due at a half.
	upstreamWarns = 3
)

// An upstreamRenewal is tried again after pauses. It is used by one goroutine.
type upstreamRenewal struct {
	due   func(now time.Time) bool
	renew func(context.Context) error
	now   func() time.Time
	pause time.Duration // before it is tried again; 0: it did not fail the last time
	again time.Time
}

// try renews where that is due and no pause is to be kept. It returns why it failed.
func (r *upstreamRenewal) try(ctx context.Context) error {
	if now := r.now(); now.Before(r.again) || !r.due(now) {
		return nil
	}
	err := r.renew(ctx)
	if err == nil || ctx.Err() != nil {
		r.pause, r.again = 0, time.Time{}
		return nil
	}
	r.pause = min(max(2*r.pause, upstreamFirst), upstreamMost)
	r.again = r.now().Add(r.pause)
	return err
}

// renewUpstream asks the authority outside for another intermediate past half of the life of the one that issues, until ctx
// ends. What issues goes on meanwhile.
func (c *Controller) renewUpstream(ctx context.Context) error {
	tick := time.NewTicker(upstreamEvery)
	defer tick.Stop()
	renewal := upstreamRenewal{due: c.upstreamDue, renew: c.renewUpstreamOnce, now: c.cfg.Now}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !c.publisher.Leading() || c.ended() != nil {
			continue
		}
		if err := renewal.try(ctx); err != nil {
			c.log.Error("the intermediate is not renewed; the one that there is goes on to issue", "err", err, "ends", c.issuerEnds(), "again", renewal.again)
		}
	}
}

// issuerEnds is when the intermediate ends that issues for nodes, by whomever it was certified.
func (c *Controller) issuerEnds() time.Time {
	if of := c.authority.Upstream(); of != nil {
		return of.Ends
	}
	_, intermediate := c.authority.Issuers()
	return intermediate.NotAfter
}

// upstreamDue reports whether an authority outside is to be asked: past half of the life of what it certified.
func (c *Controller) upstreamDue(now time.Time) bool {
	of := c.authority.Upstream()
	return c.upstream != nil && of != nil && c.authority.Rotation().Begun.IsZero() &&
		now.After(of.Intermediate.NotBefore.Add(of.Ends.Sub(of.Intermediate.NotBefore)/2))
}

func (c *Controller) renewUpstreamOnce(ctx context.Context) error {
	take, err := c.certify(ctx)
	if err != nil {
		return err
	}
	event := &audit.Event{Kind: audit.Change, Actor: "system:controller", Verb: "renew intermediate", Resource: authorityResource, Detail: c.upstream.String()}
	return c.recorder.writer.Do(ctx, event, c.spread(func() error { return take(true) }))
}

// certify asks the authority outside, and remembers why it could not be asked.
func (c *Controller) certify(ctx context.Context) (take func(renew bool) error, err error) {
	take, err = c.authority.Certify(ctx, c.upstream)
	c.noteUpstream(err)
	return take, err
}

// noteUpstream remembers why the authority outside could not be asked the last time; nil: it could, or is not needed.
func (c *Controller) noteUpstream(err error) {
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	c.upstreamFailure.Store(&failure)
}

// upstreamWrong is what noteUpstream remembers.
func (c *Controller) upstreamWrong() string {
	if failure := c.upstreamFailure.Load(); failure != nil {
		return *failure
	}
	return ""
}

// rotateIntermediate replaces the intermediate that issues for nodes, by the authority outside where the controller is set
// to one, and by the own root otherwise, or where that is asked for.
func (c *Controller) rotateIntermediate(w http.ResponseWriter, r *http.Request, ownRoot bool) {
	const verb = "rotate intermediate"
	switch {
	case c.upstream != nil && !ownRoot:
		take, err := c.certify(r.Context())
		if err != nil {
			socket.WriteFailure(w, http.StatusBadGateway, err)
			return
		}
		c.actOnAuthority(w, r, verb, c.upstream.String(), func() error { return take(false) })
	case c.authority.Upstream() != nil:
		c.actOnAuthority(w, r, verb, "by the own root", func() error {
			err := c.authority.LeaveUpstream(c.renewalSpread())
			if err == nil {
				c.noteUpstream(nil)
			}
			return err
		})
	default:
		c.actOnAuthority(w, r, verb, "", func() error { return c.authority.RotateIntermediate(c.renewalSpread()) })
	}
}

// addUpstream adds what is known of the authority outside.
func (c *Controller) addUpstream(to *report.Authority) {
	if c.upstream != nil {
		to.UpstreamCA = c.upstream.String()
	}
	to.Failure = c.upstreamWrong()
	of := c.authority.Upstream()
	if of == nil {
		return
	}
	to.Upstream = &report.UpstreamIssuer{Issuer: issuer(of.Intermediate), Authority: of.Authority}
	to.Upstream.Ends = of.Ends
	for _, root := range of.Roots {
		to.Upstream.Roots = append(to.Upstream.Roots, issuer(root))
	}
}

// upstreamEnds warns of an intermediate that the authority outside has not renewed.
func (c *Controller) upstreamEnds() string {
	of := c.authority.Upstream()
	if of == nil {
		return ""
	}
	left := of.Ends.Sub(c.cfg.Now())
	if left > of.Ends.Sub(of.Intermediate.NotBefore)/upstreamWarns {
		return ""
	}
	why := "the controller is not set to ask it any more: set --upstream-ca, or run `sennit ca rotate --intermediate` to go back to the own root"
	if failure := c.upstreamWrong(); c.upstream != nil && failure != "" {
		why = failure
	}
	return fmt.Sprintf("the intermediate of %s ends in %s, and with it all certificates: %s", of.Authority, left.Round(time.Minute), why)
}
