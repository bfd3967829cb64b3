package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/internal/socket"
	"github.com/sennit-mesh/sennit/pkg/api"
	"github.com/sennit-mesh/sennit/pkg/api/report"
	"github.com/sennit-mesh/sennit/pkg/apiserver/rbac"
	"github.com/sennit-mesh/sennit/pkg/bus"
	"github.com/sennit-mesh/sennit/pkg/exchange"
	"github.com/sennit-mesh/sennit/pkg/quota"
	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// quotaPrefix is where reservations are stored: a subject for each limit and slot.
const quotaPrefix = "sennit.quota.reserved."

// ownQuotas owns the ledger while this controller leads.
func (c *Controller) ownQuotas(ctx context.Context) error {
	for {
		if err := c.awaitLeading(ctx, true); err != nil {
			return err
		}
		leading, cancel := context.WithCancel(ctx)
		var group sync.WaitGroup
		group.Go(func() {
			defer cancel()
			_ = c.awaitLeading(leading, false) // ends with leading
		})
		err := c.ownLedger(leading)
		cancel()
		group.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			c.log.Warn("the ledger of quotas is taken again", "err", err)
		}
		select { // a write that fails may fail again
		case <-ctx.Done():
		case <-time.After(ledgerPause):
		}
	}
}

// ledgerPause is how long a controller waits before it takes the ledger again.
const ledgerPause = 250 * time.Millisecond

func (c *Controller) ownLedger(ctx context.Context) error {
	term := &quotaTerm{}
	var err error
	term.Turn, err = c.conn.TakeTurn(ctx, bus.StreamQuota, c.cfg.Name, time.Now(), func(e bus.Entry) error {
		var r quota.Reservation
		if err := proto.Unmarshal(e.Data, &r); err != nil {
			// Granting what may have been granted before would be worse than granting nothing.
			return fmt.Errorf("read %s: %w (its windows end within a day)", e.Subject, err)
		}
		term.stored = append(term.stored, &r)
		return nil
	})
	if err != nil {
		return err
	}
	return c.quotas.Hold(ctx, term, time.Now())
}

// quotaTerm keeps reservations in a stream (quota.Term).
type quotaTerm struct {
	*bus.Turn
	stored []*quota.Reservation
}

// Stored returns what was stored when the term began.
func (t *quotaTerm) Stored() []*quota.Reservation { return t.stored }

// maxReservations bounds one batch; JetStream takes 1,000 messages.
const maxReservations = 500

// Store writes reservations under the term.
func (t *quotaTerm) Store(ctx context.Context, reservations []*quota.Reservation) error {
	for first := true; first || len(reservations) > 0; first = false {
		n := min(len(reservations), maxReservations)
		var records []snapshot.Raw
		for _, r := range reservations[:n] {
			data, err := proto.Marshal(r)
			if err != nil {
				return err
			}
			records = append(records, snapshot.Raw{Subject: reservedSubject(r), Data: data})
		}
		if err := t.Write(ctx, records); err != nil {
			return err
		}
		reservations = reservations[n:]
	}
	return nil
}

func reservedSubject(r *quota.Reservation) string {
	return quotaPrefix + snapshot.Escape(r.GetLimit()) + "." + strconv.Itoa(int(r.GetSlot()))
}

// restoreQuotas stores that nothing is known of what was granted.
func restoreQuotas(ctx context.Context, conn *bus.Conn) error {
	r := quota.Restored()
	data, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	_, err = conn.Records(bus.StreamQuota).Append(ctx, reservedSubject(r), data, 0)
	return err
}

// lease answers a node that asks for leases. What it asks for callers that it may not run is not known.
func (c *Controller) lease(ctx context.Context, node string, request []byte) ([]byte, error) {
	var r quota.Request
	if err := proto.Unmarshal(request, &r); err != nil {
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: "not a request for quota"}
	}
	asks := r.GetAsks()
	r.Asks = make([]*quota.Ask, 0, len(asks))
	own := make([]bool, len(asks))
	for i, a := range asks {
		if own[i] = c.mayCount(node, a.GetAccount().GetCaller()); own[i] {
			r.Asks = append(r.Asks, a)
		}
	}
	answer, err := c.quotas.Serve(ctx, node, &r)
	switch {
	case errors.Is(err, quota.ErrInvalid):
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_INVALID, Message: err.Error()}
	case errors.Is(err, quota.ErrNotOwner):
		return nil, &bus.Error{Code: bus.ErrorCode_ERROR_CODE_UNAVAILABLE, Message: err.Error()}
	case err != nil:
		return nil, err
	}
	grants := answer.GetGrants()
	answer.Grants = make([]*quota.Grant, len(asks))
	for i := range asks {
		if answer.Grants[i] = (&quota.Grant{Unknown: true}); own[i] {
			answer.Grants[i], grants = grants[0], grants[1:]
		}
	}
	return proto.Marshal(answer)
}

// mayCount reports whether a node may spend what is counted for a caller: only where it runs it.
func (c *Controller) mayCount(node, caller string) bool {
	if caller == "" {
		return true
	}
	name, err := exchange.ParseServiceName(caller)
	return err == nil && c.members.allowed(node, name)
}

// quotaUsage tells operators what is used of each limit, and who holds it.
func (c *Controller) quotaUsage(w http.ResponseWriter, r *http.Request, sees rbac.Scope) {
	used, err := c.quotas.Usage(r.Context())
	if err != nil {
		socket.WriteFailure(w, http.StatusServiceUnavailable, fmt.Errorf("%w (another leads: ask that one)", err))
		return
	}
	now, all := time.Now(), make([]report.Quota, 0, len(used))
	for _, u := range used {
		q := report.Quota{
			Limit: u.Name, Requests: u.Limit.Requests, Per: api.QuotaPeriod(u.Limit.Per), Burst: u.Limit.Burst,
			Caller: u.Caller, Value: u.Value, Granted: u.Granted,
		}
		if u.Reset > 0 {
			q.Resets = now.Add(u.Reset)
		}
		for _, h := range u.Holders {
			q.Holders = append(q.Holders, report.QuotaHolder{Node: h.Node, Tokens: h.Tokens})
		}
		all = append(all, q)
	}
	socket.WriteJSON(w, quotasSeen(all, sees, c.nodesSeen(sees)))
}
