package bus

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	"github.com/sennit-mesh/sennit/pkg/snapshot"
)

// The verbs of a node's requests, sennit.node.<node>.<verb>.
const (
	VerbJoin      = "join"
	VerbRenew     = "renew"
	VerbRegister  = "register"
	VerbCatchup   = "catchup"
	VerbApplied   = "applied"
	VerbAlive     = "alive"
	VerbQuota     = "quota"
	VerbTelemetry = "telemetry"
	VerbTap       = "tap"
	VerbWorkload  = "workload"
)

// nodeVerbs are what a node that joined may ask. Joining is not among them: a node that joined renews.
var nodeVerbs = []string{VerbRenew, VerbRegister, VerbCatchup, VerbApplied, VerbAlive, VerbQuota, VerbTelemetry, VerbTap, VerbWorkload}

const (
	nodePrefix = "sennit.node."

	// requestSubjects is one service for all verbs; each user lists the subjects that it may publish to. The
	// server breaks cycles of one service, so that no answer comes back as a request.
	requestSubjects = nodePrefix + "*.*"

	// responseThreshold is how long the server remembers where an answer goes. Each unanswered request
	// costs it memory for that long.
	responseThreshold = 5 * time.Second

	// maxNodePayload and maxNodeSubscriptions bound one node's user, in bytes of a message that it
	// publishes and in subscriptions.
	maxNodePayload       = 256 << 10
	maxNodeSubscriptions = 32 << 10
)

// The roles of users in the account of nodes, as tags of their tokens.
const (
	roleNode  = "role:node"
	roleRenew = "role:renew"
	roleJoin  = "role:join"
)

// Accounts holds the keys behind a cluster's bus, and makes the users of it. Whoever has them can do
// everything on the bus, though still sign no configuration: the caller keeps them sealed. It never changes
// and is safe for concurrent use.
//
// There are three accounts. Streams live in the controllers' account, into which NO NODE CAN PUBLISH and
// whose JetStream API NO NODE CAN REACH: a server checks a request's subject but not its reply subject, so
// that a user with JetStream rights could make the server itself store forged bytes under any subject. The
// account of nodes has core messages only. It imports the republished configuration, and what nodes may ask.
// The system account is the server's own.
type Accounts struct {
	operator, system, control, nodes nkeys.KeyPair

	made           time.Time // when they took the place of others; zero: these are the first
	formerOperator string
	formerControl  string
	formerNodes    []*FormerNodes // the newest last
}

// NewAccounts makes the keys of a new cluster.
func NewAccounts() (*Accounts, error) {
	a := &Accounts{}
	for _, k := range []struct {
		to     *nkeys.KeyPair
		create func() (nkeys.KeyPair, error)
	}{
		{&a.operator, nkeys.CreateOperator}, {&a.system, nkeys.CreateAccount},
		{&a.control, nkeys.CreateAccount}, {&a.nodes, nkeys.CreateAccount},
	} {
		var err error
		if *k.to, err = k.create(); err != nil {
			return nil, fmt.Errorf("make the keys of the bus accounts: %w", err)
		}
	}
	return a, nil
}

// MarshalBinary gives the seeds in the clear. The caller seals them before they reach a disk.
func (a *Accounts) MarshalBinary() ([]byte, error) {
	var m AccountKeys
	for _, k := range []struct {
		from nkeys.KeyPair
		to   *[]byte
	}{{a.operator, &m.Operator}, {a.system, &m.System}, {a.control, &m.Control}, {a.nodes, &m.Nodes}} {
		var err error
		if *k.to, err = k.from.Seed(); err != nil {
			return nil, fmt.Errorf("marshal the keys of the bus accounts: %w", err)
		}
	}
	if !a.made.IsZero() {
		m.MadeUnixMs = a.made.UnixMilli()
	}
	m.FormerOperator, m.FormerControl, m.FormerNodes = a.formerOperator, a.formerControl, a.formerNodes
	return proto.Marshal(&m)
}

// UnmarshalBinary reads what MarshalBinary gave.
func (a *Accounts) UnmarshalBinary(data []byte) error {
	var m AccountKeys
	if err := proto.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read the keys of the bus accounts: %w", err)
	}
	for _, k := range []struct {
		name string
		seed []byte
		want nkeys.PrefixByte
		to   *nkeys.KeyPair
	}{
		{"operator", m.Operator, nkeys.PrefixByteOperator, &a.operator}, {"system", m.System, nkeys.PrefixByteAccount, &a.system},
		{"control", m.Control, nkeys.PrefixByteAccount, &a.control}, {"nodes", m.Nodes, nkeys.PrefixByteAccount, &a.nodes},
	} {
		prefix, _, err := nkeys.DecodeSeed(k.seed)
		if err == nil && prefix != k.want {
			err = errors.New("a seed of another kind")
		}
		if err == nil {
			*k.to, err = nkeys.FromSeed(k.seed)
		}
		if err != nil {
			return fmt.Errorf("read the keys of the bus accounts: %s: %w", k.name, err)
		}
	}
	a.made = time.Time{}
	if m.MadeUnixMs != 0 {
		a.made = time.UnixMilli(m.MadeUnixMs)
	}
	a.formerOperator, a.formerControl, a.formerNodes = m.FormerOperator, m.FormerControl, m.FormerNodes
	return nil
}

// operatorClaims are what the server trusts.
func (a *Accounts) operatorClaims() (*jwt.OperatorClaims, error) {
	claims := jwt.NewOperatorClaims(public(a.operator))
	claims.Name = "sennit"
	claims.SystemAccount = public(a.system)
	token, err := claims.Encode(a.operator)
	if err != nil {
		return nil, fmt.Errorf("make the bus operator: %w", err)
	}
	return jwt.DecodeOperatorClaims(token)
}

func (a *Accounts) systemClaims() *jwt.AccountClaims {
	claims := jwt.NewAccountClaims(public(a.system))
	claims.Name = "system"
	return claims
}

// controlClaims describe the account in which streams live. What it exports is all that nodes can reach.
func (a *Accounts) controlClaims() *jwt.AccountClaims {
	claims := jwt.NewAccountClaims(public(a.control))
	claims.Name = "control"
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	claims.Exports.Add(&jwt.Export{Name: "configuration", Subject: snapshot.LivePrefix + ">", Type: jwt.Stream})
	claims.Exports.Add(&jwt.Export{
		Name: "requests", Subject: requestSubjects, Type: jwt.Service,
		// A Singleton delivers the first part of an answer and drops the others.
		ResponseType: jwt.ResponseTypeStream, ResponseThreshold: responseThreshold,
	})
	return claims
}

// nodesClaims describe the account of nodes: no JetStream, and nothing but what it imports.
func (a *Accounts) nodesClaims() *jwt.AccountClaims {
	return a.nodesOf(public(a.nodes), LetIn)
}

// nodesOf describe an account of nodes: the present one, or one of before.
func (a *Accounts) nodesOf(key string, access Access) *jwt.AccountClaims {
	claims := jwt.NewAccountClaims(key)
	claims.Name = "nodes"
	claims.Limits.DisallowBearer = true
	claims.Limits.LeafNodeConn = 0
	control := public(a.control)
	switch access {
	case LetIn:
		claims.Imports.Add(&jwt.Import{Name: "configuration", Account: control, Subject: snapshot.LivePrefix + ">", Type: jwt.Stream})
		claims.Imports.Add(&jwt.Import{Name: "requests", Account: control, Subject: requestSubjects, LocalSubject: requestSubjects, Type: jwt.Service})
	case MayRenew:
		const renewing = nodePrefix + "*." + VerbRenew
		claims.Imports.Add(&jwt.Import{Name: "requests", Account: control, Subject: renewing, LocalSubject: renewing, Type: jwt.Service})
	case ShutOut:
		claims.RevokeAt(jwt.All, never)
	}
	return claims
}

// encode signs an account with the operator's key.
func (a *Accounts) encode(claims *jwt.AccountClaims) (string, error) {
	token, err := claims.Encode(a.operator)
	if err != nil {
		return "", fmt.Errorf("make the bus account %q: %w", claims.Name, err)
	}
	return token, nil
}

// public is the public key of one of our own pairs, which always has one.
func public(pair nkeys.KeyPair) string {
	key, err := pair.PublicKey()
	if err != nil {
		panic("bus: a key pair without a public key: " + err.Error())
	}
	return key
}
