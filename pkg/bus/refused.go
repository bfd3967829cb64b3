package bus

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
)

// The kinds of what users of the bus are refused.
const (
	RefusedPublish   = "publish"   // to a subject that the user may not
	RefusedSubscribe = "subscribe" // the same
	RefusedPayload   = "payload"   // too long a message
	RefusedConnect   = "connect"   // with a token that has ended, or that was taken back
	RefusedFlood     = "flood"     // a request of too many, which is not answered
)

// A Refusal is what a user of the bus was refused, the same things together.
type Refusal struct {
	// Node is whose user it was; of RefusedConnect, whose user's token was shown, by whomever. Empty where it is not known.
	Node   string
	Kind   string
	Detail string // the first of them: a subject, or a verb. A node chose it
	Count  int
}

const (
	tellEvery = time.Second // how often refusals are told

	// maxTallied bounds connections and kinds of a second, and maxOwners how many connections are looked up then: what is
	// beyond is told without a node.
	maxTallied = 4096
	maxOwners  = 256

	maxRefusalDetail = 128 // bytes
)

// tallies collect what the server refuses until it is told. It is safe for concurrent use.
type tallies struct {
	mu     sync.Mutex
	all    map[tallied]*Refusal
	beyond map[string]int // by kind
}

type tallied struct {
	connection uint64
	kind       string
}

func (t *tallies) add(connection uint64, kind, detail string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := tallied{connection, kind}
	one := t.all[of]
	switch {
	case one != nil:
	case len(t.all) >= maxTallied:
		if t.beyond == nil {
			t.beyond = map[string]int{}
		}
		t.beyond[kind]++
		return
	default:
		if t.all == nil {
			t.all = map[tallied]*Refusal{}
		}
		one = &Refusal{Kind: kind, Detail: detail}
		t.all[of] = one
	}
	one.Count++
}

func (t *tallies) take() (all map[tallied]*Refusal, beyond map[string]int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all, beyond = t.all, t.beyond
	t.all, t.beyond = nil, nil
	return all, beyond
}

// tell says what was refused since the last time.
func (c *cutOff) tell() {
	all, beyond := c.server.log.tallies.take()
	if c.server.cfg.Refused == nil {
		return
	}
	merged, owners := map[Refusal]int{}, map[uint64]string{}
	for of, one := range all {
		node, known := owners[of.connection]
		if !known && len(owners) < maxOwners {
			node = c.nodeOf(of.connection)
			owners[of.connection] = node
		}
		one.Node = node
		count := one.Count
		one.Count = 0
		merged[*one] += count
	}
	for one, count := range merged {
		one.Count = count
		c.server.cfg.Refused(one)
	}
	for kind, count := range beyond {
		c.server.cfg.Refused(Refusal{Kind: kind, Count: count})
	}
}

// nodeOf finds the node whose user's token a connection shows or showed. The server has not verified that of one that it
// did not let in: it counts where the account of nodes has signed it.
func (c *cutOff) nodeOf(connection uint64) string {
	if f, ok := c.known[connection]; ok {
		return f.node
	}
	page, err := c.server.nats.Connz(&server.ConnzOptions{Username: true, CID: connection, State: server.ConnAll})
	if err != nil || len(page.Conns) != 1 {
		return ""
	}
	claims, err := jwt.DecodeUserClaims(page.Conns[0].JWT) // verifies that the issuer signed it
	if err != nil || !c.nodes(claims.Issuer) {
		return ""
	}
	return claims.Name
}

// refusalIn reads what a line of the server's says that a client was refused. Its parts are the client's to choose, but
// for the number of the connection, which comes first: "127.0.0.1:54072 - cid:24 - … - Publish Violation - Subject …".
func refusalIn(format string, v []any) (connection uint64, kind, detail string, ok bool) {
	switch {
	case strings.HasSuffix(format, ` - %v - %s`) && len(v) == 2 && isAuthentication(v[0]), strings.HasSuffix(format, server.ErrAuthentication.Error()):
		kind = RefusedConnect
	case strings.HasSuffix(format, `%s: %d vs %d`):
		kind, detail = RefusedPayload, fmt.Sprint(v[1:]...)
	case strings.Contains(format, " Violation "):
		kind = RefusedPublish
		if strings.Contains(format, "Subscription Violation") {
			kind = RefusedSubscribe
		}
		detail = format[strings.LastIndex(format, " - ")+len(" - "):]
		if len(v) > 0 {
			detail = fmt.Sprintf(detail, v...)
		}
	default:
		return 0, "", "", false
	}
	connection, ok = connectionOf(format)
	return connection, kind, printable(detail[:min(len(detail), maxRefusalDetail)]), ok
}

func isAuthentication(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, server.ErrAuthentication)
}
