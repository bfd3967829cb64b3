package bus

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	firstCutOff   = 10 * time.Second // where the configuration says nothing else
	longestCutOff = 10 * time.Minute
	forgetCutOff  = time.Hour // without flooding, until the first cut-off is short again
	maxCutOffs    = 1024      // kept; beyond, the oldest is let in again early

	// maxNodeConns is how many connections one node may have. It needs one, and has some more until the server
	// finds that those of before are dead. NATS bounds them for an account only, and all nodes share theirs.
	maxNodeConns = 64
	watchEvery   = 5 * time.Second // how often they are counted, and what they sent

	// maxNodeMessages and maxNodeBytes are what a node may send on average between two counts, in a second. What
	// controllers answer is bounded far below (Limits); this ends a flood of what nobody answers, which no meter
	// sees: of subjects that are refused, and of verbs that are not served.
	maxNodeMessages = 1000
	maxNodeBytes    = 16 << 20
)

// cutOff keeps flooding nodes out of the server: it revokes the keys of their users for a while, which also
// ends their connections. run owns everything but the channel.
type cutOff struct {
	server *Server

	accounts *Accounts
	first    time.Duration
	asked    chan flood
	orders   chan func()  // they change ended and former
	ended    []string     // users that are not let in, all of them
	former   FormerAccess // what those of accounts of before may do
	refuse   chan uint64  // connections on which the server refuses too much
	out      map[flood]*offender
	known    map[uint64]flood // whose the connections are, by the server's number of each
	sent     map[uint64]sent  // by connection, at the last count
}

// sent is what came over a connection since it was made.
type sent struct{ messages, bytes int64 }

// A flood is one node's, by its own users or by those that ask to join under its name.
type flood struct {
	node    string
	joining bool
}

// An offender was cut off at least once.
type offender struct {
	keys  []string // of its users; empty while it may connect
	until time.Time
	last  time.Duration
}

func newCutOff(cfg ServerConfig) *cutOff {
	return &cutOff{
		accounts: cfg.Accounts, first: cmp.Or(cfg.FirstCutOff, firstCutOff), asked: make(chan flood, 64), orders: make(chan func()), ended: cfg.Ended,
		former: cfg.Former, refuse: make(chan uint64, 64), out: map[flood]*offender{},
	}
}

// order changes what run owns, and returns when the server has applied it, or ctx ends.
func (c *cutOff) order(ctx context.Context, change func()) error {
	applied := make(chan struct{})
	select {
	case c.orders <- func() { change(); c.apply(); close(applied) }:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-applied:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask never blocks: a node that goes on flooding is asked for again.
func (c *cutOff) ask(node, verb string) {
	select {
	case c.asked <- flood{node: node, joining: verb == VerbJoin}:
	default:
	}
}

// refused never blocks either. The server's own connections call it, and it must not call the server.
func (c *cutOff) refused(connection uint64) {
	select {
	case c.refuse <- connection:
	default:
	}
}

// run cuts off and lets in again until ctx ends or the server dies.
func (c *cutOff) run(ctx context.Context, fatal <-chan error) error {
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	count := time.NewTicker(watchEvery)
	defer count.Stop()
	tell := time.NewTicker(tellEvery)
	defer tell.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-fatal:
			return c.server.startError(err)
		case f := <-c.asked:
			c.add(f, time.Now())
		case order := <-c.orders:
			order()
		case <-due.C:
			c.release(time.Now())
		case <-tell.C:
			c.tell()
		case <-count.C:
			for _, f := range c.tooMuch() {
				c.add(f, time.Now())
			}
		case connection := <-c.refuse:
			if f, ok := c.owner(connection); ok {
				c.add(f, time.Now())
			}
		}
		due.Reset(time.Until(c.next()))
	}
}

// next is when somebody is let in again.
func (c *cutOff) next() time.Time {
	next := time.Now().Add(time.Hour)
	for _, o := range c.out {
		if len(o.keys) > 0 && o.until.Before(next) {
			next = o.until
		}
	}
	return next
}

// add cuts a node off. One that is out already is asked for again by what it sent before, which is nothing new, or
// because it goes on with another key: a node has a user for each key that it renewed with, and may keep them all.
func (c *cutOff) add(f flood, now time.Time) {
	o := c.out[f]
	keys, err := c.users(f)
	if o != nil && len(o.keys) > 0 {
		keys = slices.DeleteFunc(keys, func(key string) bool { return slices.Contains(o.keys, key) })
		if err == nil && len(keys) == 0 {
			return
		}
	}
	if err != nil || len(keys) == 0 {
		c.server.cfg.Log.Warn("flooding node could not be cut off", "node", f.node, "err", err)
		return
	}
	if o == nil {
		if len(c.out) >= maxCutOffs {
			c.forgetOldest()
		}
		o = &offender{last: c.first / 2}
		c.out[f] = o
	}
	o.last = min(2*o.last, longestCutOff)
	o.keys, o.until = append(o.keys, keys...), now.Add(o.last)
	c.server.cfg.Log.Warn("node floods the bus and is cut off", "node", f.node, "joining", f.joining, "for", o.last)
	c.apply()
}

// release lets in those whose time is over, and forgets those that behaved for long.
func (c *cutOff) release(now time.Time) {
	changed := false
	for f, o := range c.out {
		switch {
		case now.After(o.until.Add(forgetCutOff)):
			delete(c.out, f)
		case len(o.keys) > 0 && !now.Before(o.until):
			o.keys, changed = nil, true
		}
	}
	if changed {
		c.apply()
	}
}

func (c *cutOff) forgetOldest() {
	var oldest flood
	for f, o := range c.out {
		if first := c.out[oldest]; first == nil || o.until.Before(first.until) {
			oldest = f
		}
	}
	delete(c.out, oldest)
}

// apply gives the accounts of nodes their present revocations. The server ends the connections of revoked
// users. A request of another node that falls into the moment of the change finds no responder, and is
// asked again by Request.
func (c *cutOff) apply() {
	for _, claims := range c.claims() {
		account, err := c.server.nats.LookupAccount(claims.Subject)
		if err != nil {
			c.server.cfg.Log.Error("change the bus account of nodes", "account", claims.Subject, "err", err)
			continue
		}
		c.server.nats.UpdateAccountClaims(account, claims)
	}
}

// claims describe the accounts of nodes as they are to be: the present one first, then those of before.
func (c *cutOff) claims() (all []*jwt.AccountClaims) {
	all = append(all, c.accounts.nodesClaims())
	for key, access := range c.former {
		all = append(all, c.accounts.nodesOf(key, access))
	}
	for _, claims := range all {
		for _, o := range c.out {
			for _, key := range o.keys {
				claims.RevokeAt(key, o.until) // tokens that are issued meanwhile are refused too
			}
		}
		endUsers(claims, c.ended)
	}
	return all
}

// nodes reports whether an account is one of nodes.
func (c *cutOff) nodes(account string) bool {
	_, former := c.former[account]
	return former || account == public(c.accounts.nodes)
}

// tooMuch finds who has more connections than maxNodeConns, or sent more than a node may since the last count.
func (c *cutOff) tooMuch() (floods []flood) {
	before := c.sent
	if err := c.count(); err != nil {
		c.server.cfg.Log.Warn("connections of nodes could not be counted", "err", err)
		return nil
	}
	counts, totals := map[flood]int{}, map[flood]sent{}
	for connection, now := range c.sent {
		f := c.known[connection]
		total := totals[f]
		total.messages += now.messages - before[connection].messages
		total.bytes += now.bytes - before[connection].bytes
		totals[f] = total
		counts[f]++
	}
	const seconds = int64(watchEvery / time.Second)
	for f, total := range totals {
		if counts[f] > maxNodeConns || total.messages > maxNodeMessages*seconds || total.bytes > maxNodeBytes*seconds {
			floods = append(floods, f)
		}
	}
	return floods
}

// count takes down what came over each connection, and whose it is. The server reads the token of each connection
// whose user it is to name, 60 µs apiece: it is asked for them only when there are connections that are not known.
func (c *cutOff) count() error {
	now, known, whole := map[uint64]sent{}, map[uint64]flood{}, true
	err := c.each(false, func(conn *server.ConnInfo) {
		f, ok := c.known[conn.Cid]
		now[conn.Cid], known[conn.Cid] = sent{conn.InMsgs, conn.InBytes}, f
		whole = whole && ok
	})
	if err == nil && !whole {
		now, known = map[uint64]sent{}, map[uint64]flood{}
		err = c.each(true, func(conn *server.ConnInfo) {
			f, ok := c.known[conn.Cid]
			if !ok {
				f.node, f.joining = tokenOf(conn.JWT)
			}
			now[conn.Cid], known[conn.Cid] = sent{conn.InMsgs, conn.InBytes}, f
		})
	}
	if err == nil {
		c.sent, c.known = now, known
	}
	return err
}

// owner finds whose a connection is; false where it is no node's, or closed.
func (c *cutOff) owner(connection uint64) (f flood, ok bool) {
	page, err := c.server.nats.Connz(&server.ConnzOptions{Username: true, CID: connection})
	if err != nil || len(page.Conns) != 1 || !c.nodes(page.Conns[0].Account) {
		return flood{}, false
	}
	f.node, f.joining = tokenOf(page.Conns[0].JWT)
	return f, true
}

// users finds the keys of a node's connected users.
func (c *cutOff) users(f flood) (keys []string, err error) {
	err = c.each(true, func(conn *server.ConnInfo) {
		node, joining := tokenOf(conn.JWT)
		if node == f.node && joining == f.joining && !slices.Contains(keys, conn.AuthorizedUser) {
			keys = append(keys, conn.AuthorizedUser)
		}
	})
	return keys, err
}

// each calls fn for every connection of an account of nodes, with its user where names are wanted.
func (c *cutOff) each(names bool, fn func(*server.ConnInfo)) error {
	err := c.eachOf(public(c.accounts.nodes), names, fn)
	for account := range c.former {
		if err == nil {
			err = c.eachOf(account, names, fn)
		}
	}
	return err
}

func (c *cutOff) eachOf(account string, names bool, fn func(*server.ConnInfo)) error {
	for offset := 0; ; {
		page, err := c.server.nats.Connz(&server.ConnzOptions{Username: names, Account: account, Offset: offset, Limit: 4096})
		if err != nil {
			return fmt.Errorf("list the connections of nodes: %w", err)
		}
		for _, conn := range page.Conns {
			fn(conn)
		}
		offset += len(page.Conns)
		if len(page.Conns) == 0 || offset >= page.Total {
			return nil
		}
	}
}

// tokenOf reads whose token this is. The server verified it when the connection was made.
func tokenOf(token string) (node string, joining bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var claims jwt.UserClaims
	if err := json.Unmarshal(body, &claims); err != nil {
		return "", false
	}
	return claims.Name, claims.Tags.Contains(roleJoin)
}
