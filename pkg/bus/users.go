package bus

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// A Credential is what a connection shows to the bus: a user's token, and the seed of its key. Token is
// called for each connecting, so that a renewed user is used from the next one on.
type Credential struct {
	Token func() (string, error)
	// Refused is called where the bus does not know whom Token named, which may then name another; nil: nobody is told.
	Refused func()
	Seed    []byte // an nkey seed, "SU…"
	Inbox   string // the prefix of the subjects on which this user may be answered
}

// ControllerUser makes a user that may do everything in the account of the controllers, for connections of
// a controller's own process. It has no end, and a new one is made at each start.
func (a *Accounts) ControllerUser(name string) (Credential, error) {
	return a.ownUser(a.control, name)
}

// ownUser makes a user without limits, and its key, in one of our accounts.
func (a *Accounts) ownUser(account nkeys.KeyPair, name string) (Credential, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return Credential{}, fmt.Errorf("make a bus user for %q: %w", name, err)
	}
	claims := jwt.NewUserClaims(public(pair))
	claims.Name = name
	token, err := claims.Encode(account)
	if err != nil {
		return Credential{}, fmt.Errorf("make a bus user for %q: %w", name, err)
	}
	seed, err := pair.Seed()
	return Credential{Token: fixed(token), Seed: seed, Inbox: "_INBOX.controller"}, err
}

// NodeUser makes the token of a node's working user: it may ask under the node's name and no other, and
// receive what is for every node, the configuration of the node itself, and the inbound configuration of
// the services ("<ns>/<name>") that it may run. key is the public key of the user ("U…"), whose seed
// never leaves the node.
func (a *Accounts) NodeUser(node string, services []string, key string, expires time.Time) (string, error) {
	claims, err := a.nodeClaims(node, key, roleNode, nodeVerbs...)
	if err != nil {
		return "", err
	}
	claims.Expires = expires.Unix()
	claims.Sub.Allow.Add(
		snapshot.Live(snapshot.BeatSubject), snapshot.Live(snapshot.BeatSubject)+".>",
		snapshot.Live(snapshot.RosterSubject), snapshot.Live(snapshot.RosterSubject)+".>",
		snapshot.Live(snapshot.BundleSubject), snapshot.Live(snapshot.BundleSubject)+".>",
		snapshot.Live(snapshot.RevokedSubject), snapshot.Live(snapshot.RevokedSubject)+".>",
		snapshot.LivePrefix+"out.>", snapshot.LivePrefix+"endpoints.>", nudgeSubject(node),
		snapshot.Live(snapshot.NodeSubject(node)), snapshot.Live(snapshot.NodeSubject(node))+".>",
	)
	for _, service := range services {
		namespace, name, ok := strings.Cut(service, "/")
		if !ok || namespace == "" || name == "" {
			return "", fmt.Errorf("make a bus user for node %q: service %q is not of the form namespace/name", node, service)
		}
		subject := snapshot.Live(snapshot.InSubject(namespace, name))
		claims.Sub.Allow.Add(subject, subject+".>")
	}
	return a.encodeNode(claims)
}

// RenewUser makes the token of the user that a node keeps for the day when its working user has expired:
// it may only ask to renew, and it does not expire.
func (a *Accounts) RenewUser(node, key string) (string, error) {
	claims, err := a.nodeClaims(node, key, roleRenew, VerbRenew)
	if err != nil {
		return "", err
	}
	return a.encodeNode(claims)
}

// JoinUser makes the user that a join token holds, with its seed: it may only ask to join, under this name.
func (a *Accounts) JoinUser(node string, expires time.Time) (token string, seed []byte, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", nil, fmt.Errorf("make a bus user that lets %q join: %w", node, err)
	}
	claims, err := a.nodeClaims(node, public(pair), roleJoin, VerbJoin)
	if err != nil {
		return "", nil, err
	}
	claims.Expires = expires.Unix()
	if token, err = a.encodeNode(claims); err != nil {
		return "", nil, err
	}
	seed, err = pair.Seed()
	return token, seed, err
}

// NodeCredential is what a node shows, to work or to renew: token gives its newest token, and is called for
// each connecting.
func NodeCredential(node string, token func() (string, error), seed []byte) Credential {
	return Credential{Token: token, Seed: seed, Inbox: inbox(roleNode, node)}
}

// JoinCredential is what the holder of a join token shows.
func JoinCredential(node, token string, seed []byte) Credential {
	return Credential{Token: fixed(token), Seed: seed, Inbox: inbox(roleJoin, node)}
}

// NewUserKey makes the key of a user: its public part, for NodeUser and RenewUser, and its seed.
func NewUserKey() (key string, seed []byte, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", nil, fmt.Errorf("make the key of a bus user: %w", err)
	}
	seed, err = pair.Seed()
	return public(pair), seed, err
}

// nodeClaims is a user in the account of nodes that may ask these verbs and be answered. A user that may
// receive more adds it.
func (a *Accounts) nodeClaims(node, key, role string, verbs ...string) (*jwt.UserClaims, error) {
	if node == "" {
		return nil, fmt.Errorf("make a bus user: the node has no name")
	}
	if !nkeys.IsValidPublicUserKey(key) {
		return nil, fmt.Errorf("make a bus user for node %q: %q is not the public key of a user", node, key)
	}
	claims := jwt.NewUserClaims(key)
	claims.Name = node
	claims.Tags.Add(role)
	claims.Limits.Payload = maxNodePayload
	claims.Limits.Subs = maxNodeSubscriptions
	for _, verb := range verbs {
		claims.Pub.Allow.Add(requestSubject(node, verb))
	}
	claims.Sub.Allow.Add(inbox(role, node) + ".>")
	return claims, nil
}

func (a *Accounts) encodeNode(claims *jwt.UserClaims) (string, error) {
	token, err := claims.Encode(a.nodes)
	if err != nil {
		return "", fmt.Errorf("make a bus user for node %q: %w", claims.Name, err)
	}
	return token, nil
}

// requestSubject is where a node publishes what it asks.
func requestSubject(node, verb string) string {
	return nodePrefix + snapshot.Escape(node) + "." + verb
}

// inbox is the prefix of the subjects on which a node is answered. Who holds a token to join under a name
// does not hear what a node of that name is answered.
func inbox(role, node string) string {
	if role == roleJoin {
		return "_INBOX.join." + snapshot.Escape(node)
	}
	return "_INBOX.node." + snapshot.Escape(node)
}

func fixed(token string) func() (string, error) {
	return func() (string, error) { return token, nil }
}
