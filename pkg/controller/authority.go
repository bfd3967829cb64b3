package controller

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/audit"
	"github.com/sennit-mesh/sennit/pkg/ca"
	"github.com/sennit-mesh/sennit/pkg/registry"
	"github.com/sennit-mesh/sennit/pkg/upstreamca"
)

const (
	rotateEvery = time.Second
	// renewEach is how much further apart each node more lets nodes renew that are asked to: what a controller issues for
	// them then is a tenth of what it can.
	renewEach   = 20 * time.Millisecond
	renewSpread = time.Second // at the least

	// unheardFor is how long after its start a controller waits for nodes that it has not heard of: those that are alive
	// say so three times meanwhile.
	unheardFor = 15 * time.Second

	// answerTime is how long a controller that starts again lets the answer leave by which it says so.
	answerTime = time.Second

	authorityResource = "authority"
	maxAuthorityBody  = 512 << 10 // the root's answer, as JSON
)

// rotate takes the steps of a rotation that nobody needs to be asked for, until ctx ends. Each is decided anew from what
// is stored, so that it does not matter where the process was killed.
func (c *Controller) rotate(ctx context.Context) error {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !c.publisher.Leading() || c.ended() != nil || !c.members.read() {
			continue
		}
		verb, detail, step := c.nextStep(ctx)
		if step == nil {
			continue
		}
		event := &audit.Event{Kind: audit.Change, Actor: "system:controller", Verb: verb, Resource: authorityResource, Detail: detail}
		if err := c.recorder.writer.Do(ctx, event, c.spread(step)); err != nil && ctx.Err() == nil {
			c.log.Error("the authority's rotation does not go on", "err", err)
		}
	}
}

// nextStep is what is due of a rotation; nil: nothing.
func (c *Controller) nextStep(ctx context.Context) (verb, detail string, step func() error) {
	r := c.rotation()
	switch standing := c.standing(r); {
	case c.busAwaitsKeys(): // the next start of this controller makes them
	case r.Phase == ca.Announced && r.Bus:
		detail = fmt.Sprintf("operator %s in the place of %s", r.To, r.From)
		return "activate bus operator", detail, func() error { return c.authority.ActivateBus(c.renewalSpread()) }
	case r.Phase == ca.Announced && r.Signing && len(standing.Waiting) == 0:
		detail = fmt.Sprintf("signing key %s in the place of %s; told are %d of %d nodes", r.To, r.From, standing.Done, standing.Total)
		return "activate signing key", detail, func() error { return c.authority.ActivateSigning(c.renewalSpread()) }
	case r.Phase == ca.Announced && r.Upstream && len(standing.Waiting) == 0:
		detail = fmt.Sprintf("intermediate %s in the place of %s; told are %d of %d nodes", r.To, r.From, standing.Done, standing.Total)
		return "activate intermediate", detail, func() error { return c.authority.ActivateUpstream(c.renewalSpread()) }
	case r.Phase == ca.Announced && len(standing.Waiting) == 0:
		detail = fmt.Sprintf("root %s in the place of %s; told are %d of %d nodes", r.To, r.From, standing.Done, standing.Total)
		return "activate root", detail, func() error { return c.authority.ActivateRoot(c.renewalSpread()) }
	case r.Phase == ca.Renewing && c.withdrawn.Load():
		return "withdraw", fmt.Sprintf("%s %s: a node knows that it was, before this controller was restored", of(r), r.From), func() error { return c.withdraw(ctx, true) }
	case r.Phase == ca.Renewing && c.cfg.Now().After(r.OldEnds):
		return "withdraw", fmt.Sprintf("%s %s: the last certificate that hangs on it has ended", of(r), r.From), func() error { return c.withdraw(ctx, false) }
	}
	return "", "", nil
}

// spread is a step, and that nodes are told of it.
func (c *Controller) spread(step func() error) func() error {
	return func() error {
		if err := step(); err != nil {
			return err
		}
		return c.publisher.PublishRoster(c.authority.Roster())
	}
}

// renewalSpread is over how long nodes renew that are asked to.
func (c *Controller) renewalSpread() time.Duration {
	return max(renewSpread, time.Duration(len(c.members.list()))*renewEach)
}

func of(r ca.AuthorityRotation) string {
	switch {
	case r.Root:
		return "root"
	case r.Signing:
		return "signing key"
	case r.Bus:
		return "bus operator"
	}
	return "intermediate"
}

// standing says which nodes have done what the phase of a rotation asks of them. Lost ones, and those that said goodbye, are not
// waited for: they believe what is new by the chains that lead to what they know, for as long as the old one is trusted. Where no
// chain does, they are, until their certificates have ended. So are those that are silent together, of which none counts as lost.
func (c *Controller) standing(r ca.AuthorityRotation) (s report.AuthorityStanding) {
	heard := map[string]registry.NodeStatus{}
	for _, n := range c.catalogue.Nodes() {
		heard[n.Node] = n
	}
	for name := range c.members.list() {
		s.Total++
		node := heard[name]
		switch at := node.Standing; {
		case r.Phase == ca.NotRotating,
			r.Phase == ca.Announced && (at.Epoch > r.Epoch || at.Epoch == r.Epoch && at.Serial >= r.Serial),
			r.Phase == ca.Renewing && !at.Issued.Before(r.RenewBefore):
			s.Done++
		case !c.cfg.Now().Before(r.AwayUntil) && c.away(node):
			s.Away = append(s.Away, name)
		default:
			s.Waiting = append(s.Waiting, name)
		}
	}
	slices.Sort(s.Away)
	slices.Sort(s.Waiting)
	return s
}

// away reports whether nothing is to be expected of a node: it is lost, or has renewed nothing for so long that its certificates
// have ended.
func (c *Controller) away(node registry.NodeStatus) bool {
	if node.Heard.IsZero() {
		return node.Lost || time.Since(c.started) > unheardFor
	}
	return node.Lost || time.Since(node.Heard) > c.authority.MaxTTL()
}

// authorityReports adds the paths of the authority.
func (c *Controller) authorityReports(handle func(pattern string, h http.HandlerFunc)) {
	handle("GET "+report.PathAuthority, func(w http.ResponseWriter, _ *http.Request) { socket.WriteJSON(w, c.authorityReport()) })
	handle("POST "+report.PathAuthority+"/rotate", func(w http.ResponseWriter, r *http.Request) {
		var body report.Rotate
		if !readBody(w, r, &body) {
			return
		}
		switch body.Of {
		case "root":
			c.actOnAuthority(w, r, "announce root", "", c.authority.AnnounceRoot)
		case "intermediate":
			c.rotateIntermediate(w, r, body.OwnRoot)
		case "signing key":
			c.actOnAuthority(w, r, "announce signing key", "", c.authority.AnnounceSigning)
		case "bus operator":
			c.actOnAuthority(w, r, "announce bus operator", "", c.authority.AnnounceBus)
			if c.busAwaitsKeys() {
				time.AfterFunc(answerTime, c.again)
			}
		default:
			socket.WriteFailure(w, http.StatusBadRequest, errors.New(`want of "root", "intermediate", "signing key" or "bus operator"`))
		}
	})
	handle("POST "+report.PathAuthority+"/withdraw", func(w http.ResponseWriter, r *http.Request) {
		var body report.Withdraw
		if !readBody(w, r, &body) {
			return
		}
		detail := ""
		if body.Force {
			detail = "by force"
		}
		c.actOnAuthority(w, r, "withdraw", detail, func() error { return c.withdraw(r.Context(), body.Force) })
	})
	handle("POST "+report.PathAuthority+"/request", func(w http.ResponseWriter, r *http.Request) {
		var body report.RootRequest
		if !readBody(w, r, &body) {
			return
		}
		var request []byte
		event := &audit.Event{Verb: "request", Resource: authorityResource}
		switch {
		case body.Signing:
			event.Verb = "request signing key"
		case body.Online, body.NextRoot != "":
			event.Verb = "request next root"
		}
		err := c.recorder.act(r, event, func() (err error) {
			request, err = askRoot(c.authority, body)
			return err
		})
		if err != nil {
			socket.WriteFailure(w, http.StatusConflict, err)
			return
		}
		socket.WriteJSON(w, report.RootFile{PEM: string(request)})
	})
	handle("POST "+report.PathAuthority+"/accept", func(w http.ResponseWriter, r *http.Request) {
		var body report.RootFile
		if readBody(w, r, &body) {
			c.actOnAuthority(w, r, "accept", "", func() error { return c.authority.Accept([]byte(body.PEM)) })
		}
	})
	handle("POST "+report.PathAuthority+"/cancel", func(w http.ResponseWriter, r *http.Request) {
		c.actOnAuthority(w, r, "cancel rotation", "", c.authority.Cancel)
	})
}

// askRoot makes the request for a root that is kept elsewhere.
func askRoot(a *ca.Authority, of report.RootRequest) ([]byte, error) {
	switch {
	case of.Signing:
		return a.RequestSigning()
	case of.Online:
		return a.RequestSuccessor(nil)
	case of.NextRoot == "":
		var outside []*x509.Certificate
		for _, file := range of.OutsideRoots {
			roots, err := upstreamca.Certificates(file)
			if err != nil {
				return nil, fmt.Errorf("roots of an authority outside: %w", err)
			}
			outside = append(outside, roots...)
		}
		return a.Request(outside...)
	}
	next, err := ca.ParseRoot([]byte(of.NextRoot))
	if err != nil {
		return nil, err
	}
	return a.RequestSuccessor(next)
}

func readBody(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAuthorityBody)).Decode(into); err != nil {
		socket.WriteFailure(w, http.StatusBadRequest, err)
		return false
	}
	return true
}

// actOnAuthority takes a step that an operator asks for, and records it.
func (c *Controller) actOnAuthority(w http.ResponseWriter, r *http.Request, verb, detail string, step func() error) {
	event := &audit.Event{Verb: verb, Resource: authorityResource, Detail: detail}
	err := c.ended()
	if err == nil {
		err = c.recorder.act(r, event, c.spread(step))
	}
	switch {
	case errors.Is(err, errSuperseded):
		socket.WriteFailure(w, http.StatusServiceUnavailable, err)
	case errors.Is(err, ca.ErrRotating), errors.Is(err, ca.ErrNotRotating):
		socket.WriteFailure(w, http.StatusConflict, err)
	case err != nil:
		socket.WriteFailure(w, http.StatusInternalServerError, err)
	default:
		socket.WriteJSON(w, c.authorityReport())
	}
}

func (c *Controller) authorityReport() report.Authority {
	rotation := c.rotation()
	root, intermediate := c.authority.Issuers()
	all := report.Authority{Root: issuer(root), Intermediate: issuer(intermediate), SigningKey: c.authority.Signer().ID, BusOperator: c.accounts.Operator(), Offline: c.authority.Offline(), TTL: c.authority.MaxTTL().String(), Nodes: c.standing(rotation)}
	c.addUpstream(&all)
	all.BackupNeeded = c.backupNeeded()
	if next, awaits := c.authority.Awaited(); next != nil {
		all.Next = &report.NextRoot{Key: ca.KeyFingerprint(next), Awaits: awaits}
	}
	all.NextSigning = c.authority.AwaitedSigning()
	if rotation.Phase != ca.NotRotating {
		all.Rotation = &report.AuthorityChange{
			Of: of(rotation), Phase: rotation.Phase.String(), Begun: rotation.Begun, From: rotation.From, To: rotation.To, Withdraw: rotation.OldEnds,
		}
	}
	return all
}

// intermediateEnds warns of an intermediate that only people can renew.
func (c *Controller) intermediateEnds() string {
	_, intermediate := c.authority.Issuers()
	left := intermediate.NotAfter.Sub(c.cfg.Now())
	if !c.authority.Offline() || left > intermediate.NotAfter.Sub(intermediate.NotBefore)/3 {
		return ""
	}
	return fmt.Sprintf("this controller's intermediate ends in %s, and with it all certificates: the root is kept elsewhere, ask it for another with `sennit ca request`", left.Round(time.Minute))
}

func issuer(certificate *x509.Certificate) report.Issuer {
	return report.Issuer{Key: ca.KeyFingerprint(certificate), Name: certificate.Subject.CommonName, Ends: certificate.NotAfter, Serial: certificate.SerialNumber.Text(16)}
}
